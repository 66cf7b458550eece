"""Vector quantization that spends ids where they help: rows in coarse or fine grain, chosen by rate and distortion."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from ..array import array_namespace, cast, like, to_numpy
from ..errors import CorruptError
from ..stage import KW_ONLY, Part, Quantizer, replace
from ..symbols import pack, row_bytes, unpack
from . import codebook, groups


class Dynamic(Quantizer, name="dynamic"):
    """Pieces of ``dim`` values of a row share ids in runs of 1, 2, 4, ... pieces, whichever costs the row least.

    Parameters
    ----------
    k : int
        Codewords of the one codebook.
    dim : int
        Values of a piece; a row of a region of 2 x 2 vectors of 8 has d = 32 and four pieces.
    rate : float
        What a bit a value is worth, in units of the variance of values: each row takes the grain of least
        |x - y|² / (d · variance) + rate · bits / d. 0 is plain `vq` of pieces.

    All pieces of a run decode to the codeword nearest their mean, which is also the best one for the run. The last piece is padded with
    zeros. Parts: ``grain`` (n, 1) symbols, and ``packed``, the bits of as many ids as the grains say (see `ids`).

    Huang, Not all image regions matter: masked vector quantization / DQ-VAE (2023), dual-grain coding with the gate replaced by
    Lagrangian choice (Chou 1989).

    >>> import numpy as np
    >>> x = np.float32([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 9, 9]])
    >>> q = Dynamic(2, dim=2, rate=0.01).fit(x)
    >>> parts = q.encode(x)
    >>> parts["grain"].ravel().tolist(), len(q.ids(parts, 4))
    ([1, 1, 0], 4)
    """

    examples = ("dynamic:16:dim=8", "dynamic:16:dim=4:rate=0.2")
    k: Annotated[int, range(1, (1 << 20) + 1)]
    _: KW_ONLY
    dim: Annotated[int, range(1, 1 << 16)]
    rate: Annotated[float, (0.0, 1e6)] = 0.05
    seed: Annotated[int, range(1 << 31)] = 0
    codebook_: np.ndarray  # (k, dim) float32
    power_: np.ndarray     # (1,) float32: variance of values

    def pieces(self, d: int) -> int:
        """Pieces of a row."""
        return -(-d // self.dim)

    def grains(self, d: int) -> int:
        """Lengths that runs may have: 1, 2, 4, ... up to the whole row."""
        return (self.pieces(d) - 1).bit_length() + 1

    def layout(self, form):
        return {"grain": Part((form.n, 1), k=self.grains(form.d)), "packed": Part((-1,), "uint8")}

    def state(self, form):
        return {"codebook_": Part((self.k, self.dim), "float32"), "power_": Part((1,), "float32")}

    def _counts(self, grain: np.ndarray, d: int) -> np.ndarray:
        """Ids of each row: (n,) int64."""
        return -(-self.pieces(d) // (1 << grain.reshape(-1).astype(np.int64)))

    def ids(self, parts, d: int) -> np.ndarray:
        """The ids of all rows, those of a row one after the other: (ids,). Raises `CorruptError` if they are more or fewer."""
        count = int(self._counts(to_numpy(parts["grain"]), d).sum())
        packed = to_numpy(parts["packed"])
        if packed.size != row_bytes(count, self.k):
            raise CorruptError(f"{self}: {packed.size} bytes of ids where the grains of rows need {row_bytes(count, self.k)}")
        return unpack(packed[None], count, self.k)[0]

    def fit(self, x, *, weight=None):
        cut = self._cut(to_numpy(x))
        power = float(np.var(cut, axis=(0, 1), dtype=np.float64).mean())
        fitted = replace(self, power_=np.float32([min(max(power, 1e-30), 3e38)]))
        count = self.pieces(x.shape[1])
        w = codebook.rows_weight(weight, x.shape, slice(None), count)
        words = codebook.learn(cut.reshape(-1, self.dim), self.k, w, self.seed)
        for _ in range(3 if count > 1 and self.rate else 0):  # codewords of what they will stand for
            fitted = replace(fitted, codebook_=words)
            v = fitted.runs(to_numpy(x), fitted.encode(to_numpy(x))["grain"])
            words = codebook.learn(v, self.k, None, self.seed)
        return replace(fitted, codebook_=words)

    def _cut(self, x: np.ndarray) -> np.ndarray:
        """Rows as pieces: (n, pieces, dim) float32."""
        x, count = groups.float32(x), self.pieces(x.shape[1])
        missing = count * self.dim - x.shape[1]
        return (np.pad(x, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(x)).reshape(len(x), count, self.dim)

    def _means(self, cut: np.ndarray, grain: int) -> np.ndarray:
        """The mean of each run of 2^grain pieces: (n, runs, dim)."""
        starts = np.arange(0, cut.shape[1], 1 << grain)
        sizes = np.diff(np.append(starts, cut.shape[1])).astype(np.float32)
        return np.add.reduceat(cut, starts, axis=1) / sizes[:, None] if grain else cut

    def runs(self, x: np.ndarray, grain: np.ndarray) -> np.ndarray:
        """The means that the ids of rows x (n, d) of these grains (n, 1) stand for, in their order: (ids, dim)."""
        cut, grain = self._cut(x), grain.reshape(-1)
        counts = self._counts(grain, x.shape[1])
        at = np.cumsum(counts) - counts
        found = np.zeros((int(counts.sum()), self.dim), np.float32)
        for g in np.unique(grain):
            own = np.flatnonzero(grain == g)
            means = self._means(cut[own], int(g))
            found[at[own, None] + np.arange(means.shape[1])] = means
        return found

    def encode(self, x):
        rows = to_numpy(x)
        cut, n = self._cut(rows), len(rows)
        power, bits, ids = float(self.power_[0]), float(np.log2(self.k)), []
        cost = np.zeros((self.grains(rows.shape[1]), n))
        for g in range(len(cost)):
            means = self._means(cut, g)
            own = codebook.nearest(np.ascontiguousarray(means.reshape(-1, self.dim)), self.codebook_).reshape(n, means.shape[1])
            y = np.repeat(self.codebook_[own], 1 << g, axis=1)[:, :cut.shape[1]].reshape(n, -1)[:, :rows.shape[1]]
            error = (groups.float32(rows) - y).astype(np.float64)
            cost[g] = groups.total(error * error)[:, 0] / power + self.rate * bits * own.shape[1]
            ids.append(own)
        grain = np.argmin(cost, axis=0)
        counts = self._counts(grain, rows.shape[1])
        at, flat = np.cumsum(counts) - counts, np.zeros(int(counts.sum()), np.uint32)
        for g, own in enumerate(ids):
            some = np.flatnonzero(grain == g)
            flat[at[some, None] + np.arange(own.shape[1])] = own[some]
        return {"grain": like(grain.astype(np.uint8)[:, None], x), "packed": like(pack(flat[None], self.k)[0], x)}

    def decode(self, parts, form):
        ids, grain = self.ids(parts, form.d), to_numpy(parts["grain"]).astype(np.int64)
        counts = self._counts(grain, form.d)
        at = (np.cumsum(counts) - counts)[:, None] + (np.arange(self.pieces(form.d)) >> grain)
        xp = array_namespace(parts["packed"])
        y = codebook.take(self.codebook_, like(ids[at.reshape(-1)], parts["packed"]))
        return cast(xp.reshape(y, (form.n, -1))[:, :form.d], form.dtype)
