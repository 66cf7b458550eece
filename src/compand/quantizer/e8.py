"""Points of E8: the nearest one, ids of points in a box, ids of the shortest points."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..array import array_namespace, total

NORM = 12  # largest squared length in the tables


def nearest(x):
    """The point of E8 nearest to each row of x (m, 8) float32: D8 or D8 + (1/2, ..., 1/2), whichever is nearer.

    >>> nearest(np.float32([[0.9, 0.8, 0.1, 0, 0, 0, 0, 0], [0.4, 0.6, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3]]))
    array([[1. , 1. , 0. , 0. , 0. , 0. , 0. , 0. ],
           [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]], dtype=float32)
    """
    xp = array_namespace(x)
    a, far_a = _even(x)
    b, far_b = _even(x - 0.5)
    return xp.where(far_b < far_a, b + 0.5, a)


def _even(x):
    """The nearest integer vector of even sum, and its squared distance (m, 1)."""
    xp = array_namespace(x)
    r = xp.round(x)
    e = x - r
    size = xp.abs(e)
    odd = xp.sum(r, axis=1, keepdims=True)
    odd = odd - 2.0 * xp.floor(odd * 0.5)
    worst = xp.argmax(size, axis=1, keepdims=True)
    here = xp.astype(xp.arange(8, device=getattr(x, "device", None))[None, :] == worst, xp.float32) * odd
    step = xp.where(e < 0, -here, here)
    return r + step, total((e - step) * (e - step))


def box_ids(p, low: int):
    """Points (m, 8) → ids (m, 8) as floats, each id + ``low`` within about the coordinate's value."""
    xp = array_namespace(p)
    v = xp.floor(p)
    h = (p - v)[:, :1] * 2.0
    first = v[:, :7]
    parity = xp.sum(first, axis=1, keepdims=True)
    parity = parity - 2.0 * xp.floor(parity * 0.5)
    return xp.concat([first, v[:, 7:] - parity + h], axis=1) - float(low)


def box_points(ids, low: int):
    """Inverse of `box_ids`, for any ids (m, 8) given as floats."""
    xp = array_namespace(ids)
    ids = ids + float(low)
    first, last = ids[:, :7], ids[:, 7:]
    h = last - 2.0 * xp.floor(last * 0.5)
    parity = xp.sum(first, axis=1, keepdims=True)
    parity = parity - 2.0 * xp.floor(parity * 0.5)
    return xp.concat([first, last - h + parity], axis=1) + h * 0.5


@lru_cache(4)
def shortest(bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 2^bits shortest points (8 or 16 bits): (k, 8) float32, and their keys in ascending order with the ids that belong.

    Among points of one length those of smaller fourth powers come first, then by coordinates.
    """
    points = []
    for half in (0, 1):  # twice the coordinates: all even or all odd, sum a multiple of 4
        values = np.arange(-6 + half, 7, 2)
        found = np.zeros((1, 0), np.int64)
        for _ in range(8):
            found = np.concatenate([np.repeat(found, len(values), 0), np.tile(values, len(found))[:, None]], 1)
            found = found[(found**2).sum(1) <= 4 * NORM]
        points.append(found[found.sum(1) % 4 == 0])
    p = np.concatenate(points)
    order = np.lexsort((*p.T[::-1], (p**4).sum(1), (p**2).sum(1)))[:1 << bits]
    p = p[order]
    k = keys(p.astype(np.float32) / 2)
    by_key = np.argsort(k)
    table = (p / 2).astype(np.float32)
    table.flags.writeable = False
    return table, k[by_key], by_key.astype(np.uint16)


def keys(p: np.ndarray) -> np.ndarray:
    """A number of its own for each point (m, 8) with coordinates from -3.5 to 4: int64."""
    return ((np.rint(2 * p).astype(np.int64) + 7) << (4 * np.arange(8))).sum(1)


def ball_ids(p: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of points (m, 8) among the shortest, and whether each is there."""
    _, key, ids = shortest(bits)
    own = keys(np.clip(p, -3.5, 4))
    at = np.minimum(np.searchsorted(key, own), len(key) - 1)
    return ids[at], (key[at] == own) & (np.abs(p) <= 3).all(1)
