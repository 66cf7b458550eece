"""Search in inverted lists: codes whose sum begins with a ``vq`` of whole rows, of which a query visits the nearest cells.

``(vq:1024,runs)+(klt,grouped:48)`` codes what a row's cell leaves over. The inner product with a row is that with its centroid
plus that with the rest, so one table of the query serves all lists. Jégou et al. 2011 (IVFADC).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..array import to_numpy
from ..codes import Codes
from ..errors import CorruptError, InputError
from ..expression import Chain, Sum
from .affine import Turn, affine
from .leaf import Leaf, leaf

RECALL = 0.95       # of the true neighbours that lie in the lists visited, where nothing else is asked for
_PSEUDO = 256       # rows used as queries to choose how many lists to visit
_WORK = 1 << 29     # rows scanned for that, at most
_BLOCK = 64         # rows of a block of the scan: lists begin with one where that takes no more than
_ROOM = 1.4         # times the rows
_MOST = 4096        # lists that a query visits, unless more are asked for


class Cells(NamedTuple):
    """The first term of the sum: which list each row is in, and the centroids of lists."""

    ids: np.ndarray        # (n,) list of each row
    centroids: np.ndarray  # (lists, d) float32, without the shift of transforms before the sum


def cells(codes: Codes) -> Cells | None:
    """The lists of codes; None if their expression does not begin with a ``vq`` of whole rows and another term."""
    stage, path, transforms = codes.codec.stage, "", ()
    if isinstance(stage, Chain):
        transforms, path = stage.transforms, f"{len(stage.transforms)}."
        stage = stage.quantizer
    if not isinstance(stage, Sum) or not codes.blocks:
        return None
    first, path = stage.items[0], path + "0."
    if isinstance(first, Chain):
        if first.transforms:
            return None
        first, path = first.quantizer, path + "0."
    map_ = affine(transforms, codes.form)
    if first is None or first.name != "vq" or map_ is None:
        return None
    ids = codes.symbols(path + "ids")
    book = to_numpy(first.codebook_).astype(np.float32)
    if ids.shape[1] != 1:
        return None
    book = book[:, :codes.form.d if map_.matrix is None else len(map_.matrix)]
    centroids = book if map_.matrix is None else book @ map_.matrix
    if not np.isfinite(centroids).all():
        raise CorruptError(f"{codes.codec.spec}: a centroid is not finite")
    return Cells(ids[:, 0], np.ascontiguousarray(centroids))


class ListScanner:
    """Codes laid out list after list for a native scan, kept with them for the next search."""

    def __init__(self, codes: Codes, cells: Cells, leaf: Leaf, metric: str):
        from .. import _native

        self.codes, self.cells, self.leaf, self.metric = codes, cells, leaf, metric
        self.turn = Turn(leaf.affine, leaf.columns, leaf.take)
        size = np.bincount(cells.ids, minlength=len(cells.centroids))
        starts = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
        in_order = bool((np.diff(cells.ids.astype(np.int64)) >= 0).all())
        if not in_order and int((-(-size // _BLOCK)).sum()) * _BLOCK <= _ROOM * len(cells.ids):
            starts = np.concatenate([[0], np.cumsum(-(-size // _BLOCK) * _BLOCK)]).astype(np.int64)
        ends = starts[:-1] + size
        self.order: np.ndarray | None = None  # row of each place, 0 where none is; None if rows are in order already
        if not in_order:
            self.order = np.zeros(int(starts[-1]), np.int64)
            self.order[np.repeat(ends - np.cumsum(size), size) + np.arange(len(cells.ids))] = np.argsort(cells.ids, kind="stable")
        place = (lambda a: a) if in_order else (lambda a: np.ascontiguousarray(a[self.order]))
        gain, term = leaf.gain, np.zeros(0, np.float32)
        if metric != "ip":
            norm2 = norms(codes, cells, leaf)
            gain, term = (gain / np.sqrt(norm2), 1 / np.sqrt(norm2)) if metric == "cosine" else (gain, -norm2)
        c, none = cells.centroids, np.zeros(0, np.float32)
        self.half = np.einsum("ij,ij->i", c, c) / 2
        self.weight = np.ones(len(c), np.float32) if metric == "l2" else 1 / np.sqrt(np.maximum(2 * self.half, 1e-20))
        self.index = _native.lists_index(place(leaf.rows), leaf.groups, leaf.bits, place(np.ascontiguousarray(gain, np.float32)),
                                         place(np.ascontiguousarray(term, np.float32)) if len(term) else term, leaf.codebooks,
                                         leaf.sizes, leaf.zero, starts, ends, c, self.weight, -self.half if metric == "l2" else none)
        self.scanned = 0  # rows scanned by the last search, all queries together
        self._measured: tuple[np.ndarray, np.ndarray, float] | None = None

    def search(self, q: np.ndarray, k: int, allowed: np.ndarray | None, probes: int | None = None,
               recall: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores and row numbers as of `compand.search`; q (q, d) float32, of length 1 for cosine."""
        if probes is not None and probes < 1:
            raise InputError(f"probes must be at least 1, not {probes}")
        reach = np.zeros(0, np.float32)
        if probes is None:
            reach = self.reach(RECALL if recall is None else recall)
            probes = len(reach) or len(self.half)
        bits = np.zeros(0, np.uint8)
        if allowed is not None:
            bits = np.packbits(allowed if self.order is None else allowed[self.order], bitorder="little")
        scores, rows = self._search(q, k, bits, probes, reach)
        if self.order is not None:
            rows = np.where(rows < 0, -1, self.order[rows])
        return scores, rows

    def _search(self, q: np.ndarray, k: int, bits: np.ndarray, probes: int, reach: np.ndarray):
        y, shift = self.turn(q)
        times = 1.0
        offsets, factors = np.zeros(len(q), np.float32), np.zeros(0, np.float32)
        if self.metric == "l2":
            y, shift, times, factors, offsets = 2 * y, 2 * shift, 2.0, np.ones(len(q), np.float32), -np.einsum("ij,ij->i", q, q)
        scores, rows, self.scanned = self.index.search(np.ascontiguousarray(y, np.float32), q, shift, times, self.metric == "cosine",
                                                       factors, offsets, k, 2 * k + 12, probes, reach, self.metric != "l2",
                                                       bits)
        return scores, rows

    def _choice(self, q: np.ndarray) -> np.ndarray:
        """What lists are chosen by: (q, lists)."""
        dots = q @ self.cells.centroids.T
        return dots - self.half if self.metric == "l2" else dots * self.weight

    def reach(self, recall: float) -> np.ndarray:
        """How much worse than the best list the r-th best may be, r from 0, to be visited; over the query's length but for l2.

        Empty: all lists are visited.

        So much that for some rows in the place of queries the lists visited hold this part of the ten best rows. A list far behind the
        best one is left out, and so is one that many others precede: ``gap / σ + log(1 + r) / 2`` is bounded, σ the standard deviation of
        what lists are chosen by. At equal recall that scans a quarter to two fifths less than as many lists for every query.
        """
        if not 0 < recall <= 1:
            raise InputError(f"recall must be above 0 and at most 1, not {recall}")
        if self._measured is None and recall < 1:
            self._measured = self._measure()
        if recall == 1 or not len(self._measured[0]):
            return np.zeros(0, np.float32)
        costs, visits, sigma = self._measured
        most = costs[max(int(np.ceil(recall * len(costs))) - 1, 0)]
        count = max(int((visits <= most).sum(axis=1).max()), 1)  # no query visits more than one of these rows does
        return np.ascontiguousarray(np.maximum(most - _cost(np.arange(count)), 0) * sigma, np.float32)

    def _measure(self) -> tuple[np.ndarray, np.ndarray, float]:
        """What it costs (see `reach`), rising, to visit the lists of rows' true neighbours, and for each row its best ones; σ."""
        from .search import decode_rows

        n = len(self.cells.ids)
        some = np.unique(np.linspace(0, n - 1, max(1, min(_PSEUDO, _WORK // max(n, 1), n))).astype(np.int64))
        q = decode_rows(self.codes, some)
        if self.metric == "cosine":
            q /= np.maximum(np.linalg.norm(q, axis=1, keepdims=True), 1e-20)
        scanned = self.scanned
        rows = self.search(q, min(11, n), None, len(self.half))[1]
        self.scanned = scanned
        choice = self._choice(q)[:, used := np.flatnonzero(np.bincount(self.cells.ids, minlength=len(self.half)))]
        if self.metric != "l2":
            choice /= np.maximum(np.linalg.norm(q, axis=1, keepdims=True), 1e-20)
        sigma = float(np.sqrt(choice.var(axis=1).mean())) or 1.0
        order = np.argsort(-choice, axis=1, kind="stable")
        costs = np.zeros((len(q), len(self.half)))
        ranked = (choice.max(axis=1, keepdims=True) - np.take_along_axis(choice, order, 1)) / sigma + _cost(np.arange(len(used)))
        np.put_along_axis(costs, used[order], ranked, 1)
        own = np.take_along_axis(costs, self.cells.ids[np.maximum(rows, 0)].astype(np.int64), 1)
        return np.sort(own[(rows >= 0) & (rows != some[:, None])]), ranked[:, :_MOST].astype(np.float32), sigma


def _cost(rank: np.ndarray) -> np.ndarray:
    """What it costs to visit a list that so many others precede, but for its gap; see `ListScanner.reach`."""
    return np.log1p(rank) / 2


def norms(codes: Codes, cells: Cells, leaf: Leaf) -> np.ndarray:
    """|x|² of each row as well as its codes tell: (n,) float32, positive."""
    out, at = [], 0
    for block in codes.blocks:
        rows = slice(at, at + block.rows)
        x = codes.codec.decode_block(block, codes.form, None, 2).astype(np.float32, copy=False)
        gain = leaf.gain[rows] if leaf.debiased else np.ones(block.rows, np.float32)
        rest = x - leaf.affine.shift - cells.centroids[cells.ids[rows]]  # gain · what the codewords say: its square counts the gain twice
        out.append(np.einsum("ij,ij->i", x, x) - np.einsum("ij,ij->i", rest, rest) * (1 - 1 / np.maximum(gain, 1)))
        at += block.rows
    return np.maximum(np.concatenate(out), 1e-20)


def list_scanner(codes: Codes, terms: int, metric: str) -> ListScanner | None:
    """The scanner of codes in lists; None if they are not, there is no kernel for the term after, or that is one codeword, too."""
    own = cells(codes) if terms == 2 else None
    found = own and leaf(codes, 2, 1)
    return ListScanner(codes, own, found, metric) if found and len(found.sizes) != 1 else None
