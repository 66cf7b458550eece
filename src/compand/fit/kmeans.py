"""Codebooks by k-means: weighted, seeded, the same on every machine and thread count, with optional uniform use of codewords."""

from __future__ import annotations

import numpy as np

from .. import _native, seeded
from ..errors import FitError
from .balance import assign_balanced, assign_priced

INITS = ("sample", "++")


def kmeans(
    x: np.ndarray,
    k: int,
    *,
    weight: np.ndarray | None = None,
    seed: int = 0,
    init: str = "sample",
    iterations: int = 25,
    balanced: bool = False,
    tolerance: float = 1e-4,
) -> tuple[np.ndarray, np.ndarray]:
    """Codebook (k, d) float32 and ids (n,) uint32 that make sum_i weight_i |x_i - codebook[ids_i]|^2 small.

    Parameters
    ----------
    x : float array (n, d)
        Finite; n >= k.
    weight : float array (n,), optional
        Finite, not negative.
    init : {"sample", "++"}
        ``sample``: k rows by weight. ``++``: rows drawn by weighted squared distance from those drawn before, in growing
        batches, from at most 16 k rows.
    iterations, tolerance
        Lloyd steps at most; stops when the error falls by less than this fraction.
    balanced : bool
        Each codeword gets at most ceil(n / k) rows (RepCONC's constraint), see `compand.fit.balance`.

    A codeword that no row chose moves to the farthest row of the cluster with the largest error. For d = 1 and not balanced
    the codebook is that of `kmeans_1d` and ``init`` and ``seed`` are not used.

    Raises `FitError` if n < k, or for values or weights that cannot be used.
    Source: Lloyd (1982); Arthur & Vassilvitskii (2007); Bahmani et al. (2012); Zhan et al. (2022) for the constraint.

    >>> x = np.array([[0, 0], [0, 1], [9, 9], [9, 8]], np.float32)
    >>> codebook, ids = kmeans(x, 2, init="++")
    >>> codebook[ids].tolist()
    [[0.0, 0.5], [0.0, 0.5], [9.0, 8.5], [9.0, 8.5]]
    """
    x, weight = _checked(x, k, weight)
    if init not in INITS:
        raise FitError(f"init={init!r} is not known; choose one of {', '.join(INITS)}")
    if x.shape[1] == 1 and not balanced:
        codebook = kmeans_1d(x.T, k, None if weight is None else weight[None])[0][:, None]
        return codebook, _native.nearest(x, codebook)
    codebook = _sample(x, k, weight, seed) if init == "sample" else _spread(x, k, weight, seed)
    previous, price = np.inf, None
    for _ in range(iterations):
        if balanced:
            ids, distances, price = assign_priced(x, codebook, price, 40 if price is None else 2)
        else:
            ids, distances = _native.nearest_distances(x, codebook)
        sums, totals, errors = _native.cluster_sums(x, ids, k, weight, distances)
        error = float(errors.sum())
        used = totals > 0
        codebook[used] = sums[used] / totals[used, None]
        if not used.all():
            _revive(codebook, ~used, errors, x, ids, distances, weight)
        elif not previous - error > tolerance * previous and np.isfinite(previous) and not balanced:
            break
        previous = error
    return codebook, assign_balanced(x, codebook, price)[0] if balanced else _native.nearest(x, codebook)


def kmeans_1d(values: np.ndarray, k: int, weight: np.ndarray | None = None) -> np.ndarray:
    """Ascending centroids float32 (r, k) of each row of values (r, n): scalar tables.

    Optimal for n <= 1024 and k <= 256, otherwise near it: dynamic programming over bins that are narrow where error is at
    stake, then Lloyd steps on all values. A row with fewer than k distinct values repeats its last centroid.

    Raises `FitError` if n < k, or for values or weights that cannot be used.
    Source: Wu (1991) for the dynamic programme; Panter & Dite (1951) for the bins.

    >>> kmeans_1d(np.array([[1, 0, 9, 10, 5]], np.float32), 3).tolist()
    [[0.5, 5.0, 9.5]]
    """
    values = np.ascontiguousarray(values, np.float32)
    if values.ndim != 2:
        raise FitError(f"values must be (rows, n), not of shape {values.shape}")
    if weight is not None:
        weight = np.ascontiguousarray(np.broadcast_to(np.asarray(weight, np.float32), values.shape))
    if not 1 <= k <= min(values.shape[1], 65536):
        raise FitError(f"k={k}: k must be from 1 to the number of values of a row ({values.shape[1]}), at most 65536")
    try:
        return _native.kmeans_line(values, k, weight)
    except ValueError as error:
        raise FitError(str(error)) from None


def _checked(x, k, weight):
    x = np.ascontiguousarray(x, np.float32)
    if x.ndim != 2 or x.shape[1] == 0:
        raise FitError(f"x must be (n, d) with d >= 1, not of shape {x.shape}")
    if k < 1 or len(x) < k:
        raise FitError(f"k={k} codewords need at least as many rows, x has {len(x)}; give more data or try k={max(1, len(x))}")
    if not np.isfinite(x).all():
        raise FitError("x has NaN or infinite values; remove those rows first")
    if weight is not None:
        weight = np.ascontiguousarray(weight, np.float32)
        if weight.shape != (len(x),) or not np.isfinite(weight).all() or weight.min() < 0 or not weight.any():
            raise FitError(f"weight must be ({len(x)},), finite, not negative and not all zero")
    return x, weight


def _draw(score, size, seed, start):
    """``size`` distinct rows by chance in proportion to score (Efraimidis & Spirakis 2006); zero scores only if needed."""
    u = seeded.uniform(seed, len(score), start)
    with np.errstate(divide="ignore", invalid="ignore"):
        keys = np.where(score > 0, -np.log1p(-u) / score, np.inf)
    return np.lexsort((u, keys))[:size]


def _sample(x, k, weight, seed):
    score = np.ones(len(x)) if weight is None else weight.astype(np.float64)
    return x[np.sort(_draw(score, k, seed, 0))].copy()


def _spread(x, k, weight, seed):
    """k rows, far from each other: batches of a quarter of those drawn so far, by weighted squared distance from them."""
    start = 0
    if len(x) > 16 * k + 4096:
        rows = np.sort(_draw(np.ones(len(x)) if weight is None else weight.astype(np.float64), 16 * k + 4096, seed, 0))
        start += len(x)
        x, weight = x[rows], None if weight is None else weight[rows]
    mass = np.ones(len(x)) if weight is None else weight.astype(np.float64)
    chosen = _draw(mass, 1, seed, start)
    distances = np.full(len(x), np.inf)
    latest = chosen
    while len(chosen) < k:
        start += len(x)
        _, far = _native.nearest_distances(x, np.ascontiguousarray(x[latest]))
        np.minimum(distances, far, out=distances)
        distances[chosen] = -1  # not again, even where all distances are zero
        score = np.maximum(distances, 0) * mass
        size = min(k - len(chosen), max(1, len(chosen) // 4))
        latest = _draw(np.where(distances < 0, 0, score), size, seed, start)
        free = latest[distances[latest] >= 0]
        if len(free) < size:  # fewer rows than needed are away from those drawn: take any row not drawn
            spare = np.setdiff1d(np.flatnonzero(distances >= 0), free)[: size - len(free)]
            free = np.concatenate([free, spare])
        latest = free
        chosen = np.concatenate([chosen, latest])
    return x[np.sort(chosen)].copy()


def _revive(codebook, empty, errors, x, ids, distances, weight):
    """Moves each empty codeword to the farthest row of a cluster, largest error first; as many as have any error."""
    far = distances.astype(np.float64) if weight is None else distances * weight.astype(np.float64)
    order = np.lexsort((-far, ids))
    heads = order[np.flatnonzero(np.diff(ids[order], prepend=np.int64(-1)) != 0)]  # farthest row of each used cluster
    heads = heads[np.lexsort((heads, -errors[ids[heads]]))]
    heads = heads[far[heads] > 0]
    empty = np.flatnonzero(empty)[: len(heads)]
    codebook[empty] = x[heads[: len(empty)]]
