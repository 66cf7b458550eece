"""Compress arrays into small discrete codes, store them safely, compute on the codes."""

from .codec import Codec
from .codes import Codes
from .environment import check as _check
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
    "Codec", "Codes", "CompandError", "CorruptError", "File", "FitError", "FormatError", "Index", "InputError", "LimitError", "Limits",
    "OverwriteError", "SpecError", "UnsupportedError", "Writer", "lookup", "matmul", "open", "parse", "quantize_embeddings", "search",
    "stage_names",
]
_check()

_LATER = {"matmul": "op.matmul", "search": "op.search", "Index": "op.index", "quantize_embeddings": "integration.sentence_transformers"}


def __getattr__(name: str):
    """What is loaded when it is first used: ``compand.search``, ``compand.quantize_embeddings``."""
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module 'compand' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
