"""Rotation learnt for the product quantizer that follows."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import numpy as np

from .. import _native
from ..array import array_namespace, cast, dtype_name, like, to_numpy
from ..errors import FitError
from ..fit.subspace import subspace
from ..quantizer.codebook import learn
from ..stage import KW_ONLY, Part, Transform, replace

_ROWS = 1 << 14  # learnt from, at most
_MOST = 2048     # columns


class Opq(Transform, name="opq"):
    """Multiply by the orthonormal matrix that makes ``pq:PARTSxBITS`` of its result err least: (n, d) → (n, k).

    Parameters
    ----------
    parts : int
        Parts of the product quantizer, which should divide k.
    k : int
        Columns kept; none = all d.
    bits : int
        Of each part's ids.
    iterations : int
        Rounds of codewords and rotation in turn.

    Starts from principal components dealt to the parts so that their variances have like products, then alternates one step
    of k-means in each part with the rotation that maps rows best to their codewords (Procrustes). For k = d the error of
    ``inverse ∘ forward`` is about 2^-20 of a row's norm. `klt` with ``grouped`` gives bits by variance instead.
    Raises `SpecError` for k > d or parts > k, `FitError` beyond 2048 columns. Ge, He, Ke & Sun, Optimized product quantization (2013).

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32) * np.float32([9, 9, 1, 1, 1, 1, 1, 1])
    >>> y, _ = Opq(4, bits=2, iterations=5).fit(x).forward(x)
    >>> bool(np.abs(np.linalg.norm(y, axis=1) - np.linalg.norm(x, axis=1)).max() < 1e-4)
    True
    """

    exact = False
    examples = ("opq:4:bits=2:iterations=3,pq:4x2", "opq:4:k=16:bits=4:iterations=2,pq:4x4")
    parts: Annotated[int, range(1, 1 << 12)]
    _: KW_ONLY
    k: Annotated[int, range(1, 1 << 12)] | None = None
    bits: Annotated[int, range(1, 13)] = 8
    iterations: Annotated[int, range(1, 1000)] = 8
    seed: Annotated[int, range(1 << 31)] = 0
    basis_: np.ndarray  # (d, k) float32, orthonormal columns

    def _width(self, d: int) -> int:
        if self.k and self.k > d:
            raise self.fail(f"asks for {self.k} columns of {d}; try k={max(d, 1)}")
        if self.parts > (self.k or d):
            raise self.fail(f"{self.parts} parts of {self.k or d} columns; try opq:{max(self.k or d, 1)}")
        return self.k or d

    def out(self, form):
        return form._replace(d=self._width(form.d))

    def state(self, form):
        return {"basis_": Part((form.d, self._width(form.d)), "float32")}

    def fit(self, x, *, weight=None):
        width = self._width(x.shape[1])
        if x.shape[1] > _MOST:
            raise FitError(f"{self}: {x.shape[1]:,} columns are more than {_MOST:,}; put pca:{_MOST} before it")
        step = -(-x.shape[0] // _ROWS)
        rows = np.asarray(to_numpy(x)[::step], np.float32)
        top = float(np.abs(rows).max()) or 1.0
        rows = np.ascontiguousarray(rows / np.float32(top))
        found = subspace(rows, width)
        basis = found.basis[:, _dealt(found.variance, self.parts)]
        size, ends = -(-width // self.parts), np.arange(self.parts + 1) * width // self.parts
        words = np.zeros((self.parts, min(1 << self.bits, len(rows)), size), np.float32)
        y = (rows @ basis).astype(np.float32)
        for j, (lo, hi) in enumerate(pairwise(ends)):
            words[j, :, :hi - lo] = learn(np.ascontiguousarray(y[:, lo:hi]), words.shape[1], None, self.seed + j)
        for _ in range(self.iterations):
            wide = np.zeros((len(rows), self.parts, size), np.float32)
            for j, (lo, hi) in enumerate(pairwise(ends)):
                wide[:, j, :hi - lo] = y[:, lo:hi]
            ids = _native.nearest_grouped(wide.reshape(len(rows), -1), words, 1 if words.shape[1] <= 256 else 2)
            y_hat = np.empty((len(rows), width), np.float32)
            for j, (lo, hi) in enumerate(pairwise(ends)):
                words[j, :, :hi - lo] = _means(wide[:, j, :hi - lo], ids[:, j], words[j, :, :hi - lo])
                y_hat[:, lo:hi] = words[j][ids[:, j], :hi - lo]
            u, _, v = np.linalg.svd((rows.T @ y_hat).astype(np.float64), full_matrices=False)
            basis = u @ v
            y = (rows @ basis).astype(np.float32)
        return replace(self, basis_=np.ascontiguousarray(basis, np.float32))

    def forward(self, x):
        return array_namespace(x).matmul(x, cast(like(self.basis_, x), dtype_name(x))), {}

    def inverse(self, y, side, form):
        return array_namespace(y).matmul(y, cast(like(self.basis_, y), dtype_name(y)).T)


def _dealt(variance: np.ndarray, parts: int) -> np.ndarray:
    """Directions by part: each goes, largest first, to the part with room whose product of variances is least."""
    k = len(variance)
    room = np.diff(np.arange(parts + 1) * k // parts)
    logs, dealt = np.zeros(parts), [[] for _ in range(parts)]
    floor = max(float(variance[0]) * 1e-12, 1e-300)
    for i in range(k):
        j = int(np.argmin(np.where(room > 0, logs, np.inf)))
        dealt[j].append(i)
        room[j] -= 1
        logs[j] += np.log(max(float(variance[i]), floor)) - np.log(floor)
    return np.concatenate([np.array(d, np.int64) for d in dealt])


def _means(x: np.ndarray, ids: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The mean of the rows of each id; codewords without rows stay."""
    count = np.bincount(ids, minlength=len(words))
    sums = np.stack([np.bincount(ids, column, len(words)) for column in x.T], axis=1)
    return np.where(count[:, None] > 0, sums / np.maximum(count, 1)[:, None], words).astype(np.float32)
