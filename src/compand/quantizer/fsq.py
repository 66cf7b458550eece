"""Finite scalar quantization: a few dimensions, each on its own small grid, together one id."""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np

from ..array import array_namespace, cast, host, is_numpy, like, to_numpy
from ..fit import scale as scales
from ..stage import Part, Quantizer, replace
from . import groups

TABLE = 1 << 12  # ids whose values are looked up


class FSQ(Quantizer, name="fsq"):
    """``fsq:8x8x4``: three dimensions with 8, 8 and 4 levels, one id below 256 for each three values of a row.

    The grid of each dimension is fitted by (weighted) squared error: x_hat_j = s_j · (i_j + z_j), id = i_0 + 8·i_1 + 64·i_2.
    Rows may hold several such vectors; the last is padded with zeros. Levels are 2 to 65536 each, ids below 2^32.

    Mentzer, Finite scalar quantization: VQ-VAE made simple (2023).

    >>> import numpy as np
    >>> x = np.float32([[0, 0], [3, 10], [1, 10], [2, 0]])
    >>> q = FSQ((4, 2)).fit(x)
    >>> q.encode(x)["ids"].ravel().tolist()
    [0, 7, 5, 2]
    """

    examples = ("fsq:8x8x4",)

    levels: tuple[int, ...]
    scale_: np.ndarray  # (dimensions,) float32
    zero_: np.ndarray   # (dimensions,) float32, in steps

    def check(self):
        if not all(2 <= v <= 1 << 16 for v in self.levels) or prod(self.levels) > 1 << 32:
            raise self.fail("levels must be from 2 to 65536 each and their product at most 2^32")

    def layout(self, form):
        return {"ids": Part((form.n, -(-form.d // len(self.levels))), k=prod(self.levels))}

    def state(self, form):
        return {"scale_": Part((len(self.levels),), "float32"), "zero_": Part((len(self.levels),), "float32")}

    def fit(self, x, *, weight=None):
        n, d = x.shape
        size = len(self.levels)
        rows = to_numpy(groups.float32(x))
        w = None if weight is None else np.broadcast_to(to_numpy(weight).astype(np.float32), (n, d))
        s, z = np.ones(size, np.float32), np.zeros(size, np.float32)

        def values(a, dims):
            return np.stack([a[:, j::size].reshape(-1) for j in dims])

        kinds: dict[tuple[int, int], list[int]] = {}  # dimensions that are fitted together
        for j, k in enumerate(self.levels[:d]):
            kinds.setdefault((k, len(range(j, d, size))), []).append(j)
        for (k, _), dims in kinds.items():
            own, zero = scales.free_zero(values(rows, dims), k, "float32", "mse", None if w is None else values(w, dims))
            s[dims], z[dims] = own[:, 0], zero[:, 0]
        return replace(self, scale_=s, zero_=z)

    def encode(self, x):
        xp = array_namespace(x)
        return groups.concat([{"ids": self._encode(groups.float32(x[rows]), xp)} for rows in groups.chunks(x)])

    def _encode(self, x, xp):
        (n, d), size = x.shape, len(self.levels)
        if d % size:
            x = xp.concat([x, like(np.zeros((n, -d % size), np.float32), x)], axis=1)
        s = like(self.scale_, x)
        s, z, last = xp.where(s == 0, xp.ones_like(s), s), like(self.zero_, x), like(np.float32(self.levels) - 1, x)
        s, z, last = (_tiled(a, x) for a in (s, z, last))
        q = xp.reshape(xp.minimum(xp.clip(xp.round(x / s - z), 0, None), last), (-1, size))
        q = cast(q, "float32" if prod(self.levels) <= 1 << 24 else "float64")  # all sums are whole numbers that it holds
        ids = q[:, 0]
        for j in range(1, size):
            ids = ids + q[:, j] * prod(self.levels[:j])
        return xp.reshape(xp.astype(ids, xp.int64), (n, -1))

    def _values(self, ids, xp):
        """The values (..., dimensions) float32 of ids (...)."""
        return (_levels(ids, self.levels, xp) + like(self.zero_, ids)) * like(self.scale_, ids)

    def decode(self, parts, form):
        n, d, dtype = form
        ids, k = parts["ids"], prod(self.levels)
        xp, here = array_namespace(ids), host(ids)
        if here is not None and is_numpy(self.scale_) and k <= min(TABLE, here.size):  # fewer to work out than to look up
            y = like(np.take(((_every(self.levels) + self.zero_) * self.scale_), here.reshape(-1), axis=0), ids)
        else:
            y = self._values(xp.astype(ids, xp.int64), xp)
        return cast(xp.reshape(y, (n, -1))[:, :d], dtype)


def _tiled(a, x):
    """Values of the dimensions repeated along the rows of x: arithmetic on short rows is slow."""
    xp = array_namespace(x)
    return xp.tile(a, (x.shape[0], x.shape[1] // a.shape[0]))


def _levels(ids, levels, xp):
    """The level of each dimension (..., dimensions) float32 of ids (...)."""
    own = []
    for k in levels:
        own.append(ids % k)
        ids = ids // k
    return xp.astype(xp.stack(own, axis=-1), xp.float32)


@lru_cache(maxsize=8)
def _every(levels: tuple[int, ...]) -> np.ndarray:
    return _levels(np.arange(prod(levels)), levels, np)
