"""Trainable twins of the core's quantizers: `Quantize` is the layer, `Recipe` how it learns.

Needs PyTorch: ``pip install compand[torch]``.
"""

from .layer import Output, Quantize, Use
from .recipe import Recipe

__all__ = ["Output", "Quantize", "Recipe", "Use"]
