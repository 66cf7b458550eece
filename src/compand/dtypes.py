"""The closed list of dtypes compand stores, by name."""

from __future__ import annotations

from functools import cache

import numpy as np

from .errors import UnsupportedError

NUMPY = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
         "float16", "float32", "float64", "complex64")
ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz")
NAMES = NUMPY + ML_DTYPES


@cache
def dtype(name: str) -> np.dtype:
    """The numpy dtype of a stored name; `UnsupportedError` lists the known ones.

    >>> dtype("bfloat16").itemsize
    2
    """
    if name in NUMPY:
        return np.dtype(name)
    if name in ML_DTYPES:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    raise UnsupportedError(f"dtype {name!r} is not one of {', '.join(NAMES)}")


def is_float(name: str) -> bool:
    """Whether values of this dtype are real floating-point numbers (bfloat16 and float8 included)."""
    return "float" in name
