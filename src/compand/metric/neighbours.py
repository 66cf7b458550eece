"""Whether nearest neighbours survive compression."""

from __future__ import annotations

import numpy as np

from ..errors import InputError

BLOCK_ROWS = 16384


def recall(x: np.ndarray, x_hat: np.ndarray, k: int = 10, queries: int = 500) -> float:
    """Recall@k of self-queries: the share of a row's k nearest rows of x (by cosine) that are among its k nearest of x_hat.

    ``queries`` evenly spaced rows of x ask, in full precision, both x and x_hat; a row never finds itself.
    x and x_hat are (n, d). Raises `InputError` if there are no more than k rows.

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
    truth, found = _nearest(q, rows, x, k), _nearest(q, rows, x_hat, k)
    hits = (truth[:, :, None] == found[:, None, :]).any(-1)
    return float(hits.mean())


def _unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def _nearest(q: np.ndarray, own: np.ndarray, base: np.ndarray, k: int) -> np.ndarray:
    """Rows of base nearest to each q, without its own: (queries, k) int64."""
    best = np.full((q.shape[0], k), -np.inf, np.float32)
    ids = np.full((q.shape[0], k), -1, np.int64)
    for at in range(0, base.shape[0], BLOCK_ROWS):
        scores = q @ _unit(base[at:at + BLOCK_ROWS]).T
        here = (own >= at) & (own < at + scores.shape[1])
        scores[np.flatnonzero(here), own[here] - at] = -np.inf
        scores = np.concatenate([best, scores], axis=1)
        top = np.argpartition(scores, -k, axis=1)[:, -k:]
        best = np.take_along_axis(scores, top, 1)
        ids = np.where(top < k, np.take_along_axis(ids, np.minimum(top, k - 1), 1), top - k + at)
    return ids
