"""Search among signs: a query coded as the rows are is compared by the signs that differ, one of numbers by its bits."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..codes import Codes
from ..quantizer.sign import Sign
from .affine import Affine, Turn
from .codewords import packed
from .leaf import map_of, place
from .refine import refiner

_PLANES = 8  # bits of a number of a query
_NONE = np.zeros(0, np.float32)


class SignScanner:
    """Signs of the first ``terms`` of codes, laid out for a native scan and kept with them.

    Recursive binary codes against such codes: BEBR (Gan et al. 2023). Against bits of a query's numbers: RaBitQ (Gao & Long 2024).
    """

    def __init__(self, codes: Codes, terms: int, metric: str, map_: Affine):
        from .. import _native

        self.codes, self.terms, self.metric = codes, terms, metric
        lines, gain = _signs(codes, terms)
        self.width, self.map = len(map_.shift) if map_.matrix is None else len(map_.matrix), map_
        self.turn = Turn(map_, np.ones(self.width, np.float32), None)
        self.norm2 = np.ones(len(gain), np.float32) if metric == "ip" else _squares(codes, terms)
        term = {"ip": _NONE, "cosine": 1 / np.sqrt(self.norm2), "l2": -self.norm2}[metric]
        if metric == "cosine":
            gain /= np.sqrt(self.norm2)[:, None]
        self.index = _native.signs_index(lines, self.width, gain, np.ascontiguousarray(term if len(gain) else _NONE))

    @cached_property
    def keeps_products(self) -> bool:
        """Whether inner products of decoded rows are those of signs and gains: after transforms that only rotate."""
        m = self.map.matrix
        return not self.map.shift.any() and (m is None or bool(np.abs(m @ m.T - np.eye(len(m))).max() < 1e-4))

    def symmetric(self, coded: Codes, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows for queries coded as rows are: scores (q, k) float32 of what both decode to, and row numbers."""
        lines, weights = _signs(coded, self.terms)
        offsets, factors = np.zeros(len(weights), np.float32), _NONE
        if self.metric != "ip":
            norm2 = _squares(coded, self.terms)
            if self.metric == "cosine":
                weights, factors = weights / np.sqrt(norm2)[:, None], offsets
            else:
                weights, factors, offsets = 2 * weights, np.ones(len(weights), np.float32), -norm2
        return self._find(lines, weights, factors, offsets, k, allowed)

    def search(self, q: np.ndarray, k: int, allowed: np.ndarray | None, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Scores and row numbers as of `compand.search`; the short list by numbers of 8 bits is scored in float32."""
        y, shift = self.turn(q)
        step = np.maximum(np.abs(y).max(axis=1, keepdims=True, initial=0), np.float32(1e-30)) / np.float32((1 << _PLANES) - 1)
        ids = np.clip(np.floor(y / (2 * step)) + (1 << _PLANES) // 2, 0, (1 << _PLANES) - 1).astype(np.uint8)  # y = step · (2 id - 255)
        planes = np.arange(_PLANES)
        lines = np.packbits(ids[:, None, :] >> planes[:, None] & 1, axis=2, bitorder="little")
        weights = step * np.float32(1 << planes)
        offsets, factors = shift, _NONE
        if self.metric == "l2":
            weights, factors, offsets = 2 * weights, np.ones(len(q), np.float32), 2 * shift - np.einsum("ij,ij->i", q, q)
        elif self.metric == "cosine":
            offsets, factors = np.zeros(len(q), np.float32), shift
        short = max(k, min(2 * k + 12, self.codes.form.n))
        scores, rows = self._find(lines, weights, factors, offsets, short, allowed)
        exactly = refiner(self.codes, self.metric)
        if exactly:
            scores = np.where(rows < 0, np.float32(-np.inf), exactly.scores(q, rows))
            order = np.lexsort((rows, -scores), axis=1)[:, :k]
            scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        return scores[:, :k], rows[:, :k]

    def _find(self, lines, weights, factors, offsets, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        bits = np.zeros(0, np.uint8) if allowed is None else np.packbits(allowed, bitorder="little")
        scores, rows = self.index.search(np.ascontiguousarray(lines), np.ascontiguousarray(weights, np.float32),
                                         np.ascontiguousarray(factors, np.float32), k, bits)
        return scores + offsets[:, None].astype(np.float32), rows


def sign_scanner(codes: Codes, terms: int, metric: str) -> SignScanner | None:
    """The scanner of codes whose first ``terms`` are signs with one scale a row, after the same transforms; None of others."""
    kept = codes.__dict__.setdefault("_sign_scanners", {})
    if (terms, metric) not in kept:
        found = [place(codes, i + 1, i) for i in range(terms)]
        fits = bool(codes.blocks) and terms <= 16 and all(
            f is not None and isinstance(f.stage, Sign) and not f.stage.complex and f.transforms == found[0].transforms
            and codes.part(f.path + "scale").shape[1] == 1 for f in found)
        map_ = map_of(codes, found[0].transforms) if fits else None
        fits = map_ is not None and (len(map_.shift) if map_.matrix is None else len(map_.matrix)) <= 1 << 16
        kept[terms, metric] = SignScanner(codes, terms, metric, map_) if fits else None
    return kept[terms, metric]


def _signs(codes: Codes, terms: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines (n, terms, bytes) uint8 and their gains (n, terms) float32."""
    found = [place(codes, i + 1, i) for i in range(terms)]
    lines = np.stack([packed(codes, f.path + "ids", f.coder, 2) for f in found], axis=1)
    return lines, np.concatenate([codes.part(f.path + "scale").astype(np.float32) for f in found], axis=1)


def _squares(codes: Codes, terms: int) -> np.ndarray:
    """|x_hat|² of each row by the first terms: (n,) float32, positive."""
    out = [np.zeros(0, np.float32)]
    for block in codes.blocks:
        x = codes.codec.decode_block(block, codes.form, None, terms).astype(np.float32, copy=False)
        out.append(np.einsum("ij,ij->i", x, x))
    return np.maximum(np.concatenate(out), 1e-20)
