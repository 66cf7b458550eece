"""Compress arrays into small discrete codes, store them safely, compute on the codes."""

from .codec import Codec
from .codes import Codes
from .errors import (
    CompandError,
    CorruptError,
    FitError,
    FormatError,
    InputError,
    LimitError,
    OverwriteError,
    SpecError,
    UnsupportedError,
)
from .file import File, open
from .limits import Limits
from .registry import lookup
from .registry import names as stage_names
from .spec import parse
from .writer import Writer

__version__ = "0.1.0"
__all__ = [
    "Codec", "Codes", "CompandError", "CorruptError", "File", "FitError", "FormatError", "InputError", "LimitError", "Limits",
    "OverwriteError", "SpecError", "UnsupportedError", "Writer", "lookup", "open", "parse", "stage_names",
]
