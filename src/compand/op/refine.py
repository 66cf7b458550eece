"""Scores of short lists by all terms of codes, from ids laid out for it."""

from __future__ import annotations

import numpy as np

from ..codes import Codes
from .affine import Turn
from .leaf import Leaf, leaves
from .lists import Cells, cells


class Refiner:
    """The terms of codes, each ready to be summed for chosen rows; kept with the codes."""

    def __init__(self, terms: list[Leaf], lists: Cells | None, shift: np.ndarray, metric: str, norm2: np.ndarray | None):
        from .. import _native

        self.terms, self.lists, self.shift, self.metric, self.norm2 = terms, lists, shift, metric, norm2
        self.turns = [Turn(t.affine, t.columns, t.take) for t in terms]
        self.indexes = [_native.scan_index(t.rows, t.groups, t.bits, t.gain, np.zeros(0, np.float32), t.codebooks, t.sizes, t.zero)
                        if len(t.sizes) else None for t in terms]

    def scores(self, q: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Scores (q, m) float32 of rows (q, m) int64, as `compand.search` gives them; q of length 1 for cosine."""
        from .. import _native

        wanted = np.ascontiguousarray(np.maximum(rows, 0))
        s = np.repeat((q @ self.shift).astype(np.float32)[:, None], rows.shape[1], axis=1)
        if self.lists:
            s += np.take_along_axis(q @ self.lists.centroids.T, self.lists.ids[wanted].astype(np.int64), 1)
        for t, turn, index in zip(self.terms, self.turns, self.indexes, strict=True):
            own, _ = turn(q)
            s += t.gain[wanted] * (index.sums(own, wanted) if index else _native.scan_sums_of(t.rows, own, wanted, t.zero))
        if self.metric == "cosine":
            s /= np.sqrt(self.norm2[wanted])
        elif self.metric == "l2":
            s = 2 * s - self.norm2[wanted] - np.einsum("ij,ij->i", q, q)[:, None]
        return s


def refiner(codes: Codes, metric: str) -> Refiner | None:
    """How to score rows of these codes by all their terms; None where only decoding can."""
    kept = codes.__dict__.setdefault("_refiners", {})
    if metric not in kept:
        lists = cells(codes)
        found = leaves(codes, 1 if lists else 0)
        kept[metric] = found and Refiner(found[0], lists, found[1], metric, None if metric == "ip" else _norms(codes))
    return kept[metric]


def _norms(codes: Codes) -> np.ndarray:
    """|x_hat|² of each row, (n,) float32, positive."""
    out = []
    for block in codes.blocks:
        x = codes.codec.decode_block(block, codes.form).astype(np.float32, copy=False)
        out.append(np.einsum("ij,ij->i", x, x))
    return np.maximum(np.concatenate(out), 1e-20)
