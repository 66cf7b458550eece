"""Scales as integers: a real factor m as b / 2^c, so that an accumulator is rescaled by a product, a sum and a shift."""

from __future__ import annotations

import numpy as np

MOST = 62  # bits of a shift


def dyadic(m) -> tuple[np.ndarray, np.ndarray]:
    """(b int32, c uint8) with b / 2^c nearest to each m (float), |b| < 2^31, relative error ≤ 2^-31 for 2^-31 ≤ |m| < 2^31.

    HAWQ-V3 (Yao et al. 2021, section 3.1).

    >>> b, c = dyadic([0.75, -3.0])
    >>> (b / 2.0 ** c).tolist()
    [0.75, -3.0]
    """
    m = np.atleast_1d(np.asarray(m, np.float64))
    c = np.clip(31 - np.frexp(m)[1], 0, MOST)
    b = np.rint(np.ldexp(m, c))
    over = np.abs(b) >= 2.0 ** 31  # rounded up to 2^31
    c = np.where(over & (c > 0), c - 1, c)
    b = np.clip(np.rint(np.ldexp(m, c)), -(2 ** 31 - 1), 2 ** 31 - 1)
    return b.astype(np.int32), c.astype(np.uint8)


def rescaled(acc: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """acc · b / 2^c, halves up: int64. |acc| < 2^31; b and c broadcast.

    >>> rescaled(np.array([10, -10, 5]), np.int32(1), np.uint8(2)).tolist()
    [3, -2, 1]
    """
    c = np.asarray(c, np.int64)
    return (np.asarray(acc, np.int64) * np.asarray(b, np.int64) + ((np.int64(1) << c) >> 1)) >> c
