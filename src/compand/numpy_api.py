"""NumPy as an array-API library. `array_api_compat.numpy` is the same, but loads all of NumPy (f2py, ma, testing): 0.1 s at import."""

from __future__ import annotations

from typing import Any

import numpy as np


def __getattr__(name: str) -> Any:
    return getattr(np, name)


def astype(x, dtype, /, *, copy: bool = True):
    """x with another dtype; NumPy's own takes no scalars."""
    return x if not copy and x.dtype == dtype else x.astype(dtype, copy=copy)


def clip(x, /, min=None, max=None):
    """x within bounds, in its own dtype. A zero keeps its sign, which NumPy's own leaves to the instructions it finds."""
    if np.dtype(x.dtype).kind in "iu":
        least, most = np.iinfo(x.dtype).min, np.iinfo(x.dtype).max
        min, max = None if type(min) is int and min <= least else min, None if type(max) is int and max >= most else max
    y = np.empty(np.broadcast_shapes(x.shape, np.shape(min), np.shape(max)), x.dtype)
    y[...] = x
    for bound, beyond in ((min, np.less), (max, np.greater)):
        if bound is not None:
            bound = np.asarray(bound, x.dtype)
            np.copyto(y, bound, where=beyond(y, bound))
    return y[()]


def sort(x, /, *, axis: int = -1, descending: bool = False, stable: bool = True):
    """Values in order, the greatest first if ``descending``."""
    y = np.sort(x, axis=axis, kind="stable" if stable else None)
    return np.flip(y, axis=axis) if descending else y


def argsort(x, /, *, axis: int = -1, descending: bool = False, stable: bool = True):
    """The order of values; equal ones stay as they lie, also if ``descending``."""
    kind = "stable" if stable else None
    if not descending:
        return np.argsort(x, axis=axis, kind=kind)
    return x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis=axis), axis=axis, kind=kind), axis=axis)


def take_along_axis(x, indices, /, *, axis: int = -1):
    """Values at the places of ``indices``, for each line of an axis."""
    return np.take_along_axis(x, indices, axis=axis)
