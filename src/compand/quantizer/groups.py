"""Rows cut into groups of the last axis, each with its own scale; the last group may be shorter."""

from __future__ import annotations

import numpy as np

from ..array import array_namespace, cast, dtype_name, is_numpy, like, to_numpy, total
from ..fit.scale import stored

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


def widen(a):
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


def float32(x):
    """x as float32; larger float64 values saturate."""
    xp = array_namespace(x)
    return cast(xp.clip(x, -3.4e38, 3.4e38) if dtype_name(x) == "float64" else x, "float32")


def weights(weight, x):
    """The importance of values (n or 1, d or 1) as float32 of the shape of x; None stays None."""
    return None if weight is None else array_namespace(x).broadcast_to(cast(weight, "float32"), x.shape)


def of_rows(weight, rows: slice):
    """The importance of some rows."""
    return weight if weight is None or weight.shape[0] == 1 else weight[rows]


def statistic(x, group: int | None, kind: str, weight=None):
    """Mean or median of each group of non-negative x (n, d): (n, groups), padding left out. ``weight`` (n, d) is for the mean."""
    xp = array_namespace(x)
    real = mask(x, group)
    y = split(x, group)
    if kind == "mean":
        top = xp.max(y, axis=2, keepdims=True)  # so that the sum of large values stays finite
        y = y / xp.where(top == 0, xp.ones_like(top), top)
        if weight is not None:
            w = split(weight, group)
            w = w if real is None else w * real
            most = xp.max(w, axis=2, keepdims=True)
            w = xp.where(most == 0, xp.ones_like(w), w / xp.where(most == 0, xp.ones_like(most), most))
            w = w if real is None else w * real
            return (total(y * w) / total(w) * top)[:, :, 0]
        if real is None:
            return (total(y) / y.shape[2] * top)[:, :, 0]
        return (total(y * real) / total(real) * top)[:, :, 0]
    g = y.shape[2]
    if real is None:
        y = xp.sort(y, axis=2)
        return y[:, :, (g - 1) // 2] * 0.5 + y[:, :, g // 2] * 0.5
    whole, last = y[:, :-1, :], x[:, (y.shape[1] - 1) * g:]
    pieces = [statistic(last, None, kind)]
    if whole.shape[1]:
        pieces.insert(0, statistic(xp.reshape(whole, (x.shape[0], -1)), group, kind))
    return xp.concat(pieces, axis=1)


def spread(s, d: int, group: int | None):
    """s (n, groups) as one value a column: (n, d), or (n, 1) if there is one group."""
    if s.shape[1] == 1:
        return s
    xp = array_namespace(s)
    return xp.repeat(s, min(group or d, d), axis=1)[:, :d]


def store(s, dtype: str, up: bool = False):
    """Scales rounded to what ``dtype`` holds (``up``: never down), in that dtype."""
    return narrow(stored(s, dtype, up), dtype)


def times(y, s, group: int | None):
    """y (n, d) times the scale s (n, groups) of each group."""
    xp = array_namespace(y)
    n, d = y.shape
    if s.shape[1] == 1:
        return y * s
    g = min(group or d, d)
    if d % g == 0:
        return xp.reshape(xp.reshape(y, (n, d // g, g)) * s[:, :, None], (n, d))
    return y * spread(s, d, group)
