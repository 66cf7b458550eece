"""Differences between neighbours, without loss."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..dtypes import dtype, is_float
from ..errors import CorruptError
from ..stage import KW_ONLY, Transform


class Delta(Transform, name="delta"):
    """Each value minus the one before it, of any dtype, as unsigned integers of the same width: (n, d) → (n, d).

    Parameters
    ----------
    axis : last or row
        The value before it in the row (the first of a row stays), or the same column of the row before (the first row of
        each block that is coded at a time stays, so that blocks decode alone).
    zigzag : bool
        Write differences 0, -1, 1, -2, ... as 0, 1, 2, 3, ..., so that small ones of either sign have zero high bytes.

    Differences wrap around, so that every bit comes back, NaN payloads too. Bits of floats are first mapped to integers in the
    order of the numbers (sign-magnitude to two's complement), so that neighbours in value are neighbours as integers; complex numbers are
    pairs. For sorted ids, time series, audio and images; followed by what codes bytes: ``delta,planes``.

    >>> import numpy as np
    >>> Delta().forward(np.array([[10, 11, 9, 9]], np.int16))[0]
    array([[20,  2,  3,  0]], dtype=uint16)
    """

    raw = True
    examples = ("delta,planes", "delta:row,bytes")
    axis: Literal["last", "row"] = "last"
    _: KW_ONLY
    zigzag: bool = True

    def out(self, form):
        size, pairs = _width(form.dtype)
        return form._replace(d=form.d * pairs, dtype=f"uint{8 * size}")

    def forward(self, x):
        name = str(x.dtype)
        size, pairs = _width(name)
        u = _ordered(np.ascontiguousarray(x).view(f"u{size}").reshape(x.shape[0], x.shape[1] * pairs), name)
        y = u.copy()
        if self.axis == "row":
            y[1:] -= u[:-1]
        else:
            y[:, pairs:] -= u[:, :-pairs]
        if self.zigzag:
            y = (y << 1) ^ _filled(y)
        return y, {}

    def inverse(self, y, side, form):
        _, pairs = _width(form.dtype)
        if self.zigzag:
            y = (y >> 1) ^ (~(y & 1) + y.dtype.type(1))
        if self.axis == "row":
            u = np.cumsum(y, axis=0, dtype=y.dtype)
        else:
            u = np.cumsum(y.reshape(form.n, form.d, pairs), axis=1, dtype=y.dtype)
        if form.dtype == "bool" and u.size and int(u.max()) > 1:
            raise CorruptError(f"{self}: a value of {int(u.max())} is no bool")
        u = _ordered(u.reshape(form.n, form.d * pairs), form.dtype)
        return np.ascontiguousarray(u).view(dtype(form.dtype)).reshape(form.n, form.d)


def _width(name: str) -> tuple[int, int]:
    """(bytes of one unsigned integer, how many make a value)."""
    size = dtype(name).itemsize
    return (size // 2, 2) if name.startswith("complex") else (size, 1)


def _filled(u: np.ndarray) -> np.ndarray:
    """All bits set where the top bit is."""
    return ~(u >> (8 * u.itemsize - 1)) + u.dtype.type(1)


def _ordered(u: np.ndarray, name: str) -> np.ndarray:
    """Bits of floats ↔ two's complement integers in the order of the numbers; its own inverse. Integers stay."""
    if is_float(name) or name.startswith("complex"):
        return u ^ (_filled(u) >> 1)
    return u
