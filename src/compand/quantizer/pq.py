"""Product quantization: each row cut into parts, each with its own codebook."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from .. import _native
from ..array import array_namespace, cast, is_numpy, to_numpy
from ..stage import KW_ONLY, Part, Quantizer, replace
from . import codebook, groups


class PQ(Quantizer, name="pq"):
    """``pq:48x8``: 48 parts of a row, each the nearest of 2^8 codewords of its own; ids (n, 48), 48 bytes a row.

    Parts are near-equal where 48 does not divide d (part j is columns floor(j·d/48) to floor((j+1)·d/48)). Group-residual
    quantization (HiFi-Codec, 2023) is ``pq:2x10+pq:2x10``; a learned rotation goes before: ``pca,pq:48x8``. Codewords are learnt
    by k-means, with weights of values counted by their mean over a part, and kept as float32 (``codewords=float16``...);
    ``balanced=true`` as in `vq`.

    Jégou, Product quantization for nearest neighbor search (2011).

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((100, 5), dtype=np.float32)
    >>> q = PQ((2, 4)).fit(x)
    >>> q.codebook_.shape, q.encode(x)["ids"].shape
    ((2, 16, 3), (100, 2))
    """

    examples = ("pq:8x4",)
    parts: tuple[int, ...]  # how many parts, bits of each
    _: KW_ONLY
    seed: Annotated[int, range(1 << 31)] = 0
    codewords: Literal["float32", "float16", "bfloat16"] = "float32"
    balanced: bool = False
    codebook_: np.ndarray  # (m, 2^bits, ceil(d / m))

    def check(self):
        if len(self.parts) != 2 or not (1 <= self.parts[0] < 1 << 16 and 1 <= self.parts[1] <= 16):
            raise self.fail("expected PARTSxBITS with 1 to 65535 parts of 1 to 16 bits, such as pq:48x8")

    @property
    def m(self) -> int:
        """Parts of a row."""
        return self.parts[0]

    @property
    def k(self) -> int:
        """Codewords of a part."""
        return 1 << self.parts[1]

    def columns(self, d: int) -> list[slice]:
        """The columns of each part. Raises `SpecError` if there are more parts than columns."""
        if d < self.m:
            raise self.fail(f"{self.m} parts need rows of {self.m} values or more, not {d}; try pq:{max(d, 1)}x{self.parts[1]}")
        return [slice(j * d // self.m, (j + 1) * d // self.m) for j in range(self.m)]

    def layout(self, form):
        return {"ids": Part((form.n, self.m), k=self.k)}

    def state(self, form):
        self.columns(form.d)
        return {"codebook_": Part((self.m, self.k, -(-form.d // self.m)), self.codewords)}

    def fit(self, x, *, weight=None):
        n, d = x.shape
        words = np.zeros((self.m, self.k, -(-d // self.m)), np.float32)
        rows = to_numpy(groups.float32(x))
        for j, columns in enumerate(self.columns(d)):
            w = codebook.rows_weight(weight, (n, d), columns, 1)
            part = np.ascontiguousarray(rows[:, columns])
            words[j, :, :part.shape[1]] = codebook.learn(part, self.k, w, self.seed + j, self.balanced)
        return replace(self, codebook_=narrow_codewords(words, self.codewords))

    def encode(self, x):
        xp, words = array_namespace(x), wide_codewords(self.codebook_)
        x = groups.float32(x)
        if is_numpy(x):
            return {"ids": _native.nearest_grouped(self._padded(x), words, 1 if self.k <= 256 else 2)}
        ids = [codebook.nearest(x[:, c], np.ascontiguousarray(words[j, :, :c.stop - c.start]))
               for j, c in enumerate(self.columns(x.shape[1]))]
        return {"ids": xp.stack(ids, axis=1)}

    def codebooks(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The parts of rows x (n, d) float32, (n, parts, size), and the codebook of each, (parts, k, size), for beam search."""
        return self._padded(x).reshape(len(x), self.m, -1), wide_codewords(self.codebook_)

    def _padded(self, x: np.ndarray) -> np.ndarray:
        """x with a column of zeros after each part that is shorter than the codewords."""
        n, d = x.shape
        if d % self.m == 0:
            return np.ascontiguousarray(x)
        wide = np.zeros((n, self.m, -(-d // self.m)), np.float32)
        for j, c in enumerate(self.columns(d)):
            wide[:, j, :c.stop - c.start] = x[:, c]
        return wide.reshape(n, -1)

    def decode(self, parts, form):
        n, d, dtype = form
        words, ids = wide_codewords(self.codebook_), parts["ids"]
        xp = array_namespace(ids)
        size = words.shape[2]
        flat = xp.astype(ids, xp.int64) + codebook.like(np.arange(self.m, dtype=np.int64) * self.k, ids)
        y = codebook.take(words.reshape(-1, size), flat)
        if d % self.m == 0:
            return cast(xp.reshape(y, (n, d)), dtype)
        return cast(xp.concat([y[:, j, :c.stop - c.start] for j, c in enumerate(self.columns(d))], axis=1), dtype)


def narrow_codewords(words: np.ndarray, dtype: str) -> np.ndarray:
    """float32 codewords as they are kept; values beyond float16's range saturate."""
    from ..dtypes import dtype as dtype_of

    return (np.clip(words, -65504, 65504) if dtype == "float16" else words).astype(dtype_of(dtype))


def wide_codewords(words: np.ndarray) -> np.ndarray:
    """Kept codewords as float32."""
    return cast(words, "float32")
