"""Vector quantization: rows, or equal pieces of rows, as ids into one codebook."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from ..array import array_namespace, cast, like, to_numpy
from ..stage import KW_ONLY, Part, Quantizer, replace
from . import codebook, groups
from .pq import narrow_codewords, wide_codewords


class VQ(Quantizer, name="vq"):
    """The nearest of k codewords for each row of d values, or for each piece of ``dim`` values (all share one codebook).

    ``vq:1024+vq:1024`` is residual vector quantization. Where ``dim`` does not divide d, the last piece is padded with zeros.
    Codewords are learnt by k-means (weights of values count by their mean over a piece) and kept as float32
    (``codewords=float16`` or ``bfloat16`` halve them). Fewer vectors than k: each becomes a codeword. ``balanced=true`` learns
    codewords that are chosen about equally often (RepCONC, Zhan 2022); what is encoded still gets its nearest.

    Gray, Vector quantization (1984).

    >>> import numpy as np
    >>> x = np.float32([[0, 1, 5, 5], [0, 1, 0, 1]])
    >>> q = VQ(2, dim=2).fit(x)
    >>> np.array_equal(q.decode(q.encode(x), (2, 4, "float32")), x)
    True
    """

    examples = ("vq:16:dim=8",)
    k: Annotated[int, range(1, (1 << 20) + 1)]
    _: KW_ONLY
    dim: Annotated[int, range(1, 1 << 16)] | None = None
    seed: Annotated[int, range(1 << 31)] = 0
    codewords: Literal["float32", "float16", "bfloat16"] = "float32"
    balanced: bool = False
    codebook_: np.ndarray  # (k, dim)

    def _pieces(self, d: int) -> tuple[int, int]:
        """Pieces of a row and their size."""
        dim = self.dim or d
        return -(-d // dim), dim

    def layout(self, form):
        return {"ids": Part((form.n, self._pieces(form[1])[0]), k=self.k)}

    def state(self, form):
        return {"codebook_": Part((self.k, self._pieces(form.d)[1]), self.codewords)}

    def _cut(self, x):
        xp = array_namespace(x)
        pieces, dim = self._pieces(x.shape[1])
        x = groups.float32(x)
        if pieces * dim > x.shape[1]:
            padding = like(np.zeros((x.shape[0], pieces * dim - x.shape[1]), np.float32), x)
            x = xp.concat([x, padding], axis=1)
        return xp.reshape(x, (-1, dim))

    def codebooks(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pieces of rows x (n, d) float32, (n, pieces, dim), and the codebook they share, (1, k, dim), for beam search."""
        pieces, dim = self._pieces(x.shape[1])
        return self._cut(x).reshape(len(x), pieces, dim), wide_codewords(self.codebook_)[None]

    def fit(self, x, *, weight=None):
        w = codebook.rows_weight(weight, x.shape, slice(None), self._pieces(x.shape[1])[0])
        words = codebook.learn(to_numpy(self._cut(x)), self.k, w, self.seed, self.balanced)
        return replace(self, codebook_=narrow_codewords(words, self.codewords))

    def encode(self, x):
        ids = codebook.nearest(self._cut(x), wide_codewords(self.codebook_))
        return {"ids": array_namespace(x).reshape(ids, (x.shape[0], -1))}

    def decode(self, parts, form):
        y = codebook.take(wide_codewords(self.codebook_), parts["ids"])
        n, d, dtype = form
        return cast(array_namespace(y).reshape(y, (n, -1))[:, :d], dtype)
