"""Trainable twins of the core's quantizers: `Quantize` is the layer, `Recipe` how it learns, `prepare` trains a whole model for its codes.

Needs PyTorch: ``pip install compand[torch]``.
"""

from .layer import CollapseWarning, Output, Quantize, Use
from .qat import convert, load, prepare, save
from .recipe import Recipe

__all__ = ["CollapseWarning", "Output", "Quantize", "Recipe", "Use", "convert", "load", "prepare", "save"]
