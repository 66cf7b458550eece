"""Finite scalar quantization: a few dimensions, each on its own small grid, together one id."""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from .. import _native  # type: ignore[attr-defined]
from ..array import array_namespace, cast, host, is_numpy, like, to_numpy
from ..errors import CorruptError
from ..fit import scale as scales
from ..stage import Part, Quantizer, replace
from . import groups

LOW = 1 << 32  # numbers of a part


class FSQ(Quantizer, name="fsq"):
    """``fsq:8x8x4``: three dimensions with 8, 8 and 4 levels, one id below 256 for each three values of a row.

    The grid of each dimension is fitted by (weighted) squared error: x_hat_j = s_j · (i_j + z_j), id = i_0 + 8·i_1 + 64·i_2.
    Rows may hold several such vectors; the last is padded with zeros. Levels are 2 to 65536 each, ids exact integers below 2^64:
    what is above 2^32 of them is a part of its own, ``high``.

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
        if not all(2 <= v <= 1 << 16 for v in self.levels) or prod(self.levels) > 1 << 64:
            raise self.fail("levels must be from 2 to 65536 each and their product at most 2^64")

    @cached_property
    def k(self) -> int:
        """Number of vectors on the grid."""
        return prod(self.levels)

    def layout(self, form):
        shape = form.n, -(-form.d // len(self.levels))
        high = {"high": Part(shape, k=-(-self.k // LOW))} if self.k > LOW else {}
        return {"ids": Part(shape, k=min(self.k, LOW))} | high

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
        return self.quantize(x, values=False)[0]

    def quantize(self, x, values: bool = True) -> tuple[dict[str, Any], Any]:
        """The parts of x (n, d), and what they decode to, float32, if ``values``."""
        (n, d), here = x.shape, host(x)
        if here is None:
            parts = self._encode(groups.float32(x))
            return parts, self._values(self._numbers(parts)).reshape(n, -1)[:, :d] if values else None
        rows = groups.float32(here)
        if d % len(self.levels):
            rows = np.pad(rows, ((0, 0), (0, -d % len(self.levels))))
        numbers, y = _native.radix_encode(np.ascontiguousarray(rows), *self._grid, values)
        parts = {"ids": numbers}
        if self.k > LOW:
            parts = {"ids": (numbers & np.uint64(LOW - 1)).astype(np.uint32), "high": (numbers >> np.uint64(32)).astype(np.uint32)}
        return {name: like(a, x) for name, a in parts.items()}, like(y[:, :d], x) if values else None

    @property
    def _grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Step, zero and levels of each dimension, as the kernels take them."""
        s, z = (np.ascontiguousarray(to_numpy(a), np.float32) for a in (self.scale_, self.zero_))
        return s, z, np.array(self.levels, np.uint32)

    def _encode(self, x):
        """`encode` in the library of x, which has 64-bit integers; the readable form of the kernel."""
        xp, (n, d), size = array_namespace(x), x.shape, len(self.levels)
        if d % size:
            x = xp.concat([x, like(np.zeros((n, -d % size), np.float32), x)], axis=1)
        x = xp.reshape(x, (n, -1, size))
        s, z, last = like(self.scale_, x), like(self.zero_, x), like(np.float32(self.levels) - 1, x)
        q = xp.astype(xp.minimum(xp.clip(xp.round(x / xp.where(s == 0, xp.ones_like(s), s) - z), 0, None), last), xp.int64)
        ids = q[..., 0]
        for j in range(1, size):
            ids = ids + q[..., j] * _signed(prod(self.levels[:j]))
        if self.k <= LOW:
            return {"ids": ids}
        return {"ids": ids & (LOW - 1), "high": (ids >> 32) & (LOW - 1)}

    def _numbers(self, parts):
        """The number of each vector (n, vectors), uint32 or uint64 of this machine, or int64 of another library.

        Raises `CorruptError` for one that is not below their number."""
        ids, high, here = parts["ids"], parts.get("high"), host(parts["ids"])
        if high is None:
            return ids if here is None else here.astype(np.uint32, copy=False)
        numbers = to_numpy(ids).astype(np.uint64) | to_numpy(high).astype(np.uint64) << np.uint64(32)
        if numbers.size and int(numbers.max()) >= self.k:
            raise CorruptError(f"{self}: vector {int(numbers.max())} is not below their number {self.k}")
        return numbers

    def _values(self, numbers):
        """The values (n, vectors * dimensions) float32 of numbers (n, vectors)."""
        if not isinstance(numbers, np.ndarray):
            return (_levels(numbers, self.levels) + like(self.zero_, numbers)) * like(self.scale_, numbers)
        if is_numpy(self.scale_):
            return _native.radix_decode(np.ascontiguousarray(numbers), *self._grid)
        one = np.ones(len(self.levels), np.float32)
        level = like(_native.radix_decode(np.ascontiguousarray(numbers), one, 0 * one, self._grid[2]), self.scale_)
        return (level.reshape(*numbers.shape, -1) + self.zero_) * self.scale_

    def decode(self, parts, form):
        n, d, dtype = form
        y = self._values(self._numbers(parts)).reshape(n, -1)[:, :d]
        return cast(like(y, parts["ids"]), dtype)


def _signed(unit: int) -> int:
    """A number below 2^64 as the same bits of a signed integer."""
    return unit - (1 << 64) if unit >= 1 << 63 else unit


def _levels(ids, levels):
    """The level of each dimension (..., dimensions) float32 of ids (...)."""
    own, xp = [], array_namespace(ids)
    for k in levels:
        own.append(ids % k)
        ids = ids // k
    return xp.astype(xp.stack(own, axis=-1), xp.float32)
