"""How close a reconstruction is: plain functions of a source and what came back."""

from .image import psnr, ssim
from .neighbours import recall
from .reconstruction import Errors, Tally, errors, overall
from .splats import attribute_errors

__all__ = ["Errors", "Tally", "attribute_errors", "errors", "overall", "psnr", "recall", "ssim"]
