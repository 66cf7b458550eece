"""Rows cut into groups of the last axis, each with its own scale; the last group may be shorter."""

from __future__ import annotations

import numpy as np

from ..array import array_namespace, is_numpy, like, to_numpy

CHUNK = 1 << 16  # values worked on at a time in NumPy, to stay in cache


def count(d: int, group: int | None) -> int:
    """Groups of a row of d values: 1 if ``group`` is None.

    >>> count(100, 48), count(100, None)
    (3, 1)
    """
    return -(-d // group) if group else 1


def split(x, group: int | None):
    """x (n, d) → (n, groups, group), the last group padded with the row's last value (which changes no minimum or maximum)."""
    xp = array_namespace(x)
    n, d = x.shape
    g = min(group or d, d)
    pad = count(d, g) * g - d
    if pad:
        x = xp.concat([x, xp.broadcast_to(x[:, -1:], (n, pad))], axis=1)
    return xp.reshape(x, (n, count(d, g), g))


def mask(x, group: int | None):
    """1 for values and 0 for padding, (groups, group) as x; None where nothing is padded."""
    d = x.shape[1]
    g = min(group or d, d)
    if d % g == 0:
        return None
    m = np.zeros((count(d, g), g), np.float32)
    m.reshape(-1)[:d] = 1
    return like(m, x)


def join(y, d: int):
    """Inverse of `split`: (n, groups, group) → (n, d)."""
    xp = array_namespace(y)
    return xp.reshape(y, (y.shape[0], y.shape[1] * y.shape[2]))[:, :d]


def chunks(x):
    """Slices of rows that hold about CHUNK values (NumPy), or all rows at once (other libraries, which may be on a GPU)."""
    n = x.shape[0]
    step = max(1, CHUNK // max(1, x.shape[1])) if is_numpy(x) else max(1, n)
    return [slice(at, min(at + step, n)) for at in range(0, n, step)]


def concat(pieces):
    """Dicts of arrays by rows, joined."""
    if len(pieces) == 1:
        return pieces[0]
    xp = array_namespace(next(iter(pieces[0].values())))
    return {name: xp.concat([p[name] for p in pieces], axis=0) for name in pieces[0]}


def widen(a, x_like=None):
    """Stored scales (bfloat16, float16, float32) as float32 in their own library."""
    xp = array_namespace(a)
    if is_numpy(a) or not hasattr(xp, "float32"):
        return to_numpy(a).astype(np.float32)
    return xp.astype(a, xp.float32)


def narrow(a, dtype: str):
    """float32 scales in the dtype they are stored in; float32 where the library lacks it (the core casts it on storing)."""
    xp = array_namespace(a)
    if is_numpy(a):
        from ..dtypes import dtype as dtype_of

        return a.astype(dtype_of(dtype))
    return xp.astype(a, getattr(xp, dtype)) if hasattr(xp, dtype) else a


def times(y, s, group: int | None):
    """y (n, d) times the scale s (n, groups) of each group."""
    xp = array_namespace(y)
    n, d = y.shape
    if s.shape[1] == 1:
        return y * s
    g = min(group or d, d)
    if d % g == 0:
        return xp.reshape(xp.reshape(y, (n, d // g, g)) * s[:, :, None], (n, d))
    return y * xp.repeat(s, g, axis=1)[:, :d]
