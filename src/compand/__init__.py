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
    "OverwriteError", "SpecError", "UnsupportedError", "Writer", "lookup", "open", "parse", "search", "stage_names",
]


def __getattr__(name: str):
    """``compand.search``, loaded when it is first used."""
    if name == "search":
        from .op.search import search

        return search
    raise AttributeError(f"module 'compand' has no attribute {name!r}")
