"""Whether nearest neighbours survive compression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..errors import InputError

BLOCK_ROWS = 16384


def recall(x: np.ndarray, x_hat: np.ndarray, k: int = 10, queries: int = 500,
           progress: Callable[[float], None] | None = None) -> float:
    """Recall@k of self-queries: the share of a row's k nearest rows of x (by cosine) that are among its k nearest of x_hat.

    ``queries`` evenly spaced rows of x ask, in full precision, both x and x_hat; a row never finds itself.
    x and x_hat are (n, d). ``progress`` is told the share that is done. Raises `InputError` if there are no more than k rows.

    >>> x = np.random.default_rng(0).standard_normal((100, 8))
    >>> recall(x, x)
    1.0
    """
    if x.ndim != 2 or x.shape != x_hat.shape:
        raise InputError(f"recall needs two (n, d) arrays of one shape, got {list(x.shape)} and {list(x_hat.shape)}")
    if x.shape[0] <= k:
        raise InputError(f"recall@{k} needs more than {k} rows, got {x.shape[0]}")
    rows = np.unique(np.linspace(0, x.shape[0] - 1, min(queries, x.shape[0])).astype(np.int64))
    q = _unit(x[rows])
    tell = progress or (lambda share: None)
    truth = nearest(q, _units(x, lambda share: tell(share / 2)), k, rows)
    found = nearest(q, _units(x_hat, lambda share: tell(0.5 + share / 2)), k, rows)
    hits = (truth[:, :, None] == found[:, None, :]).any(-1)
    return float(hits.mean())


def _unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def _units(x: np.ndarray, progress: Callable[[float], None]) -> Iterator[np.ndarray]:
    """Rows as unit vectors, a block at a time; ``progress`` is told the share that was taken."""
    for at in range(0, x.shape[0], BLOCK_ROWS):
        yield _unit(x[at:at + BLOCK_ROWS])
        progress(min(1.0, (at + BLOCK_ROWS) / x.shape[0]))


def nearest(q: np.ndarray, blocks: Iterable[np.ndarray], k: int, own: np.ndarray | None = None) -> np.ndarray:
    """The numbers of the k rows with the largest inner products with each q, best first: (queries, k) int64.

    q is (queries, d), ``blocks`` the rows in order, any number (n, d) at a time; of fewer than k in all, all are found. Row ``own[i]``, if
    given, is not found by q[i].

    >>> nearest(np.float32([[1, 0]]), [np.float32([[0, 1], [2, 0]]), np.float32([[1, 1]])], 2).tolist()
    [[1, 2]]
    """
    best = np.full((q.shape[0], k), -np.inf, np.float32)
    ids = np.full((q.shape[0], k), -1, np.int64)
    at = 0
    for x in blocks:
        scores = q @ x.T
        if own is not None:
            here = (own >= at) & (own < at + len(x))
            scores[np.flatnonzero(here), own[here] - at] = -np.inf
        line, row = np.nonzero(scores > best.min(1, keepdims=True))  # few, after the first block
        ends = np.searchsorted(line, np.arange(q.shape[0] + 1))
        for i in np.flatnonzero(np.diff(ends)):
            near = row[ends[i]:ends[i + 1]]
            own_scores, own_ids = np.concatenate([best[i], scores[i, near]]), np.concatenate([ids[i], near + at])
            top = np.argpartition(own_scores, -k)[-k:]
            best[i], ids[i] = own_scores[top], own_ids[top]
        at += len(x)
    return np.take_along_axis(ids, np.argsort(-best, axis=1, kind="stable"), 1)[:, :at]
