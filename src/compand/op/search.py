"""Nearest vectors, found on their codes.

Codes of ``grouped``, ``pq``, ``vq``, ``sign``, ``ecsq`` and ``int``, with any rotation before them, are scanned as they are by native
kernels; all others are decoded block by block. The first terms of a sum can be scanned and the short list scored again with all.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..array import to_numpy
from ..codec import Codec
from ..codes import Block, Codes, pack_part
from ..errors import InputError
from ..expression import Chain, Sum
from ..quantizer.refined import Refined
from ..quantizer.vq import VQ
from ..stage import Stage
from .affine import Turn
from .lead import plan, units
from .leaf import Leaf, leaf
from .lists import ListScanner, list_scanner
from .refine import refiner
from .signs import SignScanner, sign_scanner

Metric = Literal["ip", "cosine", "l2"]
_QUERIES = 64  # queries whose short lists are scored together


def search(queries, codes: Codes, k: int = 10, *, metric: Metric = "ip", ids=None, terms: int | None = None,
           rerank: int | None = None, probes: int | None = None, recall: float | None = None,
           symmetric: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows of codes for each query, best first: scores (q, k) float32 and row numbers (q, k) int64.

    Parameters
    ----------
    queries : (q, d) or (d,) array
    codes : Codes of (n, d) vectors
    metric : "ip", "cosine" or "l2"
        Scores are inner products, cosines, or *minus* squared distances: more is always better. Equal scores go by row number.
    ids : (n,) bool mask, or row numbers
        Only these rows may be found.
    terms : int
        Search the first terms of a sum only.
    rerank : int
        Length of the short list that is scored again with all terms (default 10 k for sums; 0: none).
    probes, recall
        For codes in lists (a sum that begins with ``vq``, see docs/index.md): how many lists to visit, or which part of the
        true neighbours they shall hold (default 0.95; 1: all lists). Without lists recall=1 asks for an exact scan of numbers
        of 8 bits, which otherwise trusts a bound measured on rows of the index (docs/search.md).
    symmetric : bool
        Code queries as the rows are, and compare what both decode to. Signs are then compared by XOR and bit counts (Hamming
        distances times the gains of both), faster than by the numbers of a query, which find more.

    Where fewer than k rows may be found the rest is -inf and -1. Native scans rank by integer sums of rounded tables and then
    score a short list in float32; row numbers are the same on every instruction set and number of threads. For ``grouped``
    codes, whose gain removes the bias of inner products, norms are estimated without bias too.
    Raises `InputError` for a wrong width, NaN, or an empty mask of the wrong length.

    >>> import numpy as np, compand
    >>> x = np.random.default_rng(0).standard_normal((1000, 16), dtype=np.float32)
    >>> codes = compand.Codec("klt,grouped:16").fit(x).encode(x)
    >>> scores, rows = compand.search(x[:3], codes, 1, metric="cosine")
    >>> rows.ravel().tolist()
    [0, 1, 2]
    """
    if metric not in ("ip", "cosine", "l2"):
        raise InputError(f"metric must be ip, cosine or l2, not {metric!r}")
    if not 1 <= k <= 1 << 20:
        raise InputError(f"k must be from 1 to {1 << 20}, not {k}")
    if len(codes.shape) < 2:
        raise InputError(f"search needs codes of (n, d) vectors, these are of {list(codes.shape)}")
    q = _queries(queries, codes.form.d, metric)
    allowed = _mask(ids, codes.form.n)
    count = _terms(codes.codec)
    listed = count > 1 and terms != 1 and isinstance(_scanner(codes, 2, metric), ListScanner)  # two terms are scanned together
    first = count if terms is None and rerank == 0 else min(terms or (2 if listed else _first(codes.codec)), count)
    short = 0 if first == count or (terms is not None and rerank is None) else max(k, 10 * k if rerank is None else rerank)
    scanner, signs, asked = _scanner(codes, first, metric), None, q
    if symmetric and len(q):
        coded = codes.codec.encode(q)
        signs = sign_scanner(codes, first, metric)
        signs = signs if signs and signs.keeps_products else None
        q = asked = _queries(codes.codec.decode(coded), codes.form.d, metric) if short or not signs else q
        if first < count and not signs:
            asked = _queries(codes.codec.decode(coded, terms=first), codes.form.d, metric)
    if signs:
        scores, rows = signs.symmetric(coded, max(k, short), allowed)
    elif isinstance(scanner, ListScanner):
        scores, rows = scanner.search(asked, max(k, short), allowed, probes, recall)
    elif probes is not None or (recall is not None and recall != 1):
        raise InputError(f"{codes.codec.spec} has no lists to choose from; leave out probes and recall")
    elif scanner:
        scores, rows = scanner.search(asked, max(k, short), allowed, recall == 1)
    else:
        scores, rows = search_reference(asked, codes, max(k, short), metric=metric, allowed=allowed, terms=first)
    if short and codes.blocks and len(q):
        return _again(q, codes, rows, metric, k)
    return scores[:, :k], rows[:, :k]


def decodes(codes: Codes, metric: Metric) -> bool:
    """Whether a search of all terms decodes every row, since no kernel scans the first ones."""
    count = _terms(codes.codec)
    listed = count > 1 and isinstance(_scanner(codes, 2, metric), ListScanner)
    return _scanner(codes, min(2 if listed else _first(codes.codec), count), metric) is None


def search_reference(q: np.ndarray, codes: Codes, k: int, *, metric: Metric = "ip", allowed: np.ndarray | None = None,
                     terms: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`search` by decoding, in plain NumPy: the scores of x_hat itself."""
    best = np.full((len(q), 0), -np.inf, np.float32)
    rows = np.full((len(q), 0), -1, np.int64)
    at = 0
    for block in codes.blocks:
        x = codes.codec.decode_block(block, codes.form, None, terms).astype(np.float32, copy=False)
        scores = _score(q, x, metric)
        if allowed is not None:
            scores[:, ~allowed[at:at + block.rows]] = -np.inf
        ids = np.broadcast_to(np.arange(at, at + block.rows), scores.shape)
        best, rows = top(np.concatenate([best, scores], axis=1), np.concatenate([rows, ids], axis=1), k)
        at += block.rows
    if best.shape[1] < k:
        pad = ((0, 0), (0, k - best.shape[1]))
        best, rows = np.pad(best, pad, constant_values=-np.inf), np.pad(rows, pad, constant_values=-1)
    return best, np.where(np.isneginf(best), -1, rows)


def top(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each line, best first, equal scores by row number."""
    if scores.shape[1] > 4 * k:
        least = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k][:, None]
        keep = np.argsort(scores < least, axis=1, kind="stable")[:, :max(k, int((scores >= least).sum(axis=1).max()))]
        scores, rows = np.take_along_axis(scores, keep, 1), np.take_along_axis(rows, keep, 1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


class Scanner:
    """Codes laid out for a native scan, kept with them for the next search."""

    def __init__(self, codes: Codes, leaf: Leaf, metric: Metric, terms: int = 1):
        from .. import _native

        self.leaf, self.metric, self.turn = leaf, metric, Turn(leaf.affine, leaf.columns, leaf.take)
        gain, term = leaf.gain, np.zeros(0, np.float32)
        if metric != "ip":
            norm2 = _norms(codes, leaf, terms)
            gain, term = (gain / np.sqrt(norm2), 1 / np.sqrt(norm2)) if metric == "cosine" else (gain, -norm2)
        unit = units(leaf.affine.matrix, leaf.columns, leaf.take) if not len(leaf.sizes) else None
        self.plan = None if unit is None else plan(leaf.rows, gain, unit, leaf.zero, leaf.fine)
        self.index = _native.scan_index(leaf.rows, leaf.groups, leaf.bits, np.ascontiguousarray(gain, np.float32),
                                        np.ascontiguousarray(term, np.float32), leaf.codebooks, leaf.sizes, leaf.zero,
                                        *(() if unit is None else (unit, self.plan.lead, leaf.fine, *self.plan[1:])))

    def search(self, q: np.ndarray, k: int, allowed: np.ndarray | None, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Scores and row numbers as of `compand.search`; q (q, d) float32, of length 1 for cosine. ``exact``: bounds take no chances."""
        y, shift = self.turn(q)
        factors = np.zeros(0, np.float32)
        if self.metric == "l2":
            y, shift, factors = 2 * y, 2 * shift - np.einsum("ij,ij->i", q, q), np.ones(len(q), np.float32)
        elif self.metric == "cosine":
            shift, factors = np.zeros(len(q), np.float32), shift
        bits = np.zeros(0, np.uint8) if allowed is None else np.packbits(allowed, bitorder="little")
        return self.index.search(np.ascontiguousarray(y, np.float32), np.ascontiguousarray(shift, np.float32), factors, k, 2 * k + 12,
                                 self.leaf.groups, bits, exact)


def _scanner(codes: Codes, terms: int, metric: Metric) -> Scanner | ListScanner | SignScanner | None:
    kept = codes.__dict__.setdefault("_scanners", {})
    if (terms, metric) not in kept:
        found = leaf(codes, terms)
        kept[terms, metric] = list_scanner(codes, terms, metric) or (found and Scanner(codes, found, metric, terms))
        if kept[terms, metric] is None and terms == _terms(codes.codec):
            kept[terms, metric] = sign_scanner(codes, terms, metric)
    return kept[terms, metric]


def _norms(codes: Codes, leaf: Leaf, terms: int) -> np.ndarray:
    """|x|² of each row as well as its codes tell: (n,) float32, positive."""
    shift, out, at = leaf.affine.shift, [], 0
    for block in codes.blocks:
        x = codes.codec.decode_block(block, codes.form, None, terms).astype(np.float32, copy=False)
        gain = leaf.gain[at:at + block.rows] if leaf.debiased else np.ones(block.rows, np.float32)
        rest = x - shift  # gain · what the codewords say: its square counts the gain twice
        out.append(np.einsum("ij,ij->i", x, x) - np.einsum("ij,ij->i", rest, rest) * (1 - 1 / np.maximum(gain, 1)))
        at += block.rows
    return np.maximum(np.concatenate(out), 1e-20)


def _again(q: np.ndarray, codes: Codes, rows: np.ndarray, metric: Metric, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The short lists ``rows`` (q, m) scored with all terms: the k best of each."""
    refine = refiner(codes, metric)
    scores = refine.scores(q, rows) if refine else np.empty(rows.shape, np.float32)
    for at in range(0, 0 if refine else len(q), _QUERIES):
        some = rows[at:at + _QUERIES]
        wanted, place = np.unique(np.maximum(some, 0), return_inverse=True)
        x = decode_rows(codes, wanted)
        for i, own in enumerate(place.reshape(some.shape)):
            scores[at + i] = _score(q[at + i:at + i + 1], x[own], metric)[0]
    scores[rows < 0] = -np.inf
    return top(scores, rows, k)


def decode_rows(codes: Codes, rows: np.ndarray) -> np.ndarray:
    """The decoded rows with these numbers: (len(rows), d) float32."""
    form = codes.form._replace(n=len(rows))
    picked = {}
    for path, part in codes.codec.stage.layout(codes.form._replace(n=1)).items():
        if part.coder:
            kept = codes.__dict__.setdefault("_symbols", {})
            if path not in kept:
                kept[path] = codes.symbols(path)
            picked[path] = kept[path][rows]
        else:
            picked[path] = codes.part(path)[rows]
    layout = codes.codec.stage.layout(form)
    block = Block(len(rows), {path: pack_part(a, layout[path]) if layout[path].coder else a for path, a in picked.items()})
    return codes.codec.decode_block(block, form).astype(np.float32, copy=False)


def _score(q: np.ndarray, x: np.ndarray, metric: Metric) -> np.ndarray:
    s = q @ x.T
    if metric == "l2":
        return 2 * s - np.einsum("ij,ij->i", x, x) - np.einsum("ij,ij->i", q, q)[:, None]
    return s / np.sqrt(np.maximum(np.einsum("ij,ij->i", x, x), 1e-20)) if metric == "cosine" else s


def _items(codec: Codec) -> tuple[Stage, ...]:
    stage = codec.stage.quantizer if isinstance(codec.stage, Chain) else codec.stage
    return stage.items if isinstance(stage, Sum) else (stage,)


def _first(codec: Codec) -> int:
    """Terms scanned before the short list is scored: one, but all of the codewords for whole rows that a sum begins with."""
    count = 0
    for item in _items(codec):
        item = item.quantizer if isinstance(item, Chain) and not item.transforms else item
        if not isinstance(item, VQ) or item.dim:
            break
        count += 1
    return max(count, 1)


def _terms(codec: Codec) -> int:
    items = _items(codec)
    last = items[-1].quantizer if isinstance(items[-1], Chain) else items[-1]
    return len(items) + isinstance(last, Refined)


def _queries(queries, d: int, metric: Metric) -> np.ndarray:
    q = to_numpy(queries) if hasattr(queries, "shape") else np.asarray(queries)
    q = q[None] if q.ndim == 1 else q
    if q.ndim != 2 or q.shape[1] != d:
        raise InputError(f"queries must be (q, {d}) like the vectors, not {list(q.shape)}")
    q = np.ascontiguousarray(q, np.float32)
    if not np.isfinite(q).all():
        raise InputError(f"query {int(np.flatnonzero(~np.isfinite(q).all(axis=1))[0])} has NaN or infinite values")
    if metric == "cosine":
        norm = np.linalg.norm(q, axis=1, keepdims=True)
        q = q / np.where(norm > 0, norm, 1)
    return q


def _mask(ids, n: int) -> np.ndarray | None:
    if ids is None:
        return None
    a = to_numpy(ids) if hasattr(ids, "shape") else np.asarray(ids)
    if a.dtype == bool:
        if a.shape != (n,):
            raise InputError(f"the mask of ids must have one value for each of {n} rows, not {list(a.shape)}")
        return a
    if a.dtype.kind not in "iu" or a.ndim != 1 or (a.size and (int(a.min()) < 0 or int(a.max()) >= n)):
        raise InputError(f"ids must be row numbers from 0 to {n - 1}, or a mask")
    mask = np.zeros(n, bool)
    mask[a] = True
    return mask
