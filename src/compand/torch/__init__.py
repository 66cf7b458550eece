"""Trainable twins of the core's quantizers: `Quantize` is the layer, `Recipe` how it learns, `prepare` trains a whole model for its codes.

Needs PyTorch: ``pip install compand[torch]``.
"""

from .activation import CodedInputs
from .health import CollapseWarning, Health, Use
from .layer import Output, Quantize
from .neural import train_neural
from .qat import convert, fade, load, prepare, save, switch
from .query_key import QueryKey
from .recipe import Recipe

__all__ = ["CodedInputs", "CollapseWarning", "Health", "Output", "Quantize", "QueryKey", "Recipe", "Use", "convert", "fade", "load",
           "prepare", "save", "switch", "train_neural"]
