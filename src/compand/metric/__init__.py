"""How close a reconstruction is: plain functions of a source and what came back."""

from .image import psnr, ssim
from .neighbours import recall
from .reconstruction import Errors, Tally, errors, overall
from .splats import attribute_errors
from .structure import ms_ssim, ssimulacra2

__all__ = ["Errors", "Tally", "attribute_errors", "errors", "ms_ssim", "overall", "psnr", "recall", "ssim", "ssimulacra2"]
