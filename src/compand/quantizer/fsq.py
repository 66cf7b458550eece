"""Finite scalar quantization: a few dimensions, each on its own small grid, together one id."""

from __future__ import annotations

from math import prod

import numpy as np

from ..array import array_namespace, cast, like, to_numpy
from ..fit import scale as scales
from ..stage import Part, Quantizer, replace
from . import groups


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
        for j, k in enumerate(self.levels[:d]):
            values = rows[:, j::size].reshape(1, -1)
            own, zero = scales.free_zero(values, k, "float32", "mse", None if w is None else w[:, j::size].reshape(1, -1))
            s[j], z[j] = float(own[0, 0]), float(zero[0, 0])
        return replace(self, scale_=s, zero_=z)

    def encode(self, x):
        xp = array_namespace(x)
        return groups.concat([{"ids": self._encode(groups.float32(x[rows]), xp)} for rows in groups.chunks(x)])

    def _encode(self, x, xp):
        (n, d), size = x.shape, len(self.levels)
        if d % size:
            x = xp.concat([x, like(np.zeros((n, -d % size), np.float32), x)], axis=1)
        ids = None
        for j, k in reversed(list(enumerate(self.levels))):
            s = like(self.scale_[j:j + 1], x)
            own = xp.astype(scales.quantize(x[:, j::size], s, like(self.zero_[j:j + 1], x), k), xp.int64)
            ids = own if ids is None else ids * k + own
        return ids

    def decode(self, parts, form):
        n, d, dtype = form
        xp = array_namespace(parts["ids"])
        ids, values = xp.astype(parts["ids"], xp.int64), []
        for j, k in enumerate(self.levels):
            values.append((xp.astype(ids % k, xp.float32) + like(self.zero_[j:j + 1], ids)) * like(self.scale_[j:j + 1], ids))
            ids = ids // k
        return cast(xp.reshape(xp.stack(values, axis=2), (n, -1))[:, :d], dtype)
