"""Assignment of rows to codewords that uses each codeword equally often, without an (n, k) table.

The constraint is RepCONC's (Zhan et al. 2022), who solve it by Sinkhorn iterations on the n x k distances. Here the dual of the
same transport problem is climbed: a price per codeword is added to its squared distance, raised where more than n/k rows
chose it and lowered where fewer did. A priced search is a nearest-codeword search with one more dimension that holds the
square root of the price. Rows that still exceed a codeword's capacity, farthest first, go to the nearest codeword with room.
"""

from __future__ import annotations

import numpy as np

from .. import _native


def assign_balanced(x: np.ndarray, codebook: np.ndarray, price: np.ndarray | None = None, rounds: int = 40):
    """Ids (n,) uint32, at most ceil(n / k) rows each, and squared distances (n,) float32, of x (n, d) and codebook (k, d).

    ``price`` (k,): where to start from.

    >>> x = np.array([[0.0], [0.1], [0.2], [5.0]], np.float32)
    >>> assign_balanced(x, np.array([[0], [4]], np.float32))[0].tolist()
    [0, 0, 1, 1]
    """
    ids, _, _ = assign_priced(x, codebook, price, rounds)
    ids = _evict(x, codebook, ids, -(-len(x) // len(codebook)))
    return ids, _squared(x, codebook[ids]).astype(np.float32)


def assign_priced(x: np.ndarray, codebook: np.ndarray, price: np.ndarray | None = None, rounds: int = 40):
    """Ids of the best of ``rounds`` steps of the prices (k,) float64, their squared distances and the last prices.

    Nearly balanced: capacities are not enforced.
    """
    n, k = len(x), len(codebook)
    wide = np.zeros((n, x.shape[1] + 1), np.float32)
    wide[:, :-1] = x
    priced = np.zeros((k, x.shape[1] + 1), np.float32)
    priced[:, :-1] = codebook
    price = np.zeros(k) if price is None else price.copy()
    best, step, last = None, None, np.zeros(k)
    for _ in range(rounds):
        priced[:, -1] = np.sqrt(price)
        ids, cost = _native.nearest_distances(wide, priced)
        count = np.bincount(ids, minlength=k)
        own = np.maximum(cost - price[ids], 0)
        excess = int(np.maximum(count - -(-n // k), 0).sum())
        if best is None or excess < best[0]:
            best = excess, ids, own.astype(np.float32)
        if excess == 0:
            break
        # Each price has its own step, longer while it keeps its direction (Rprop, Riedmiller & Braun 1993): prices may have
        # to cross gaps much wider than the clusters.
        slope = (count - n / k) / np.maximum(count, n / k)
        if step is None:
            step = np.full(k, float(own.mean(dtype=np.float64)) * 0.5)
        step *= np.where(slope * last > 0, 1.5, np.where(slope * last < 0, 0.6, 1.0))
        last = slope
        price += step * slope
        price -= price.min()
    return best[1], best[2], price


def _squared(x, y):
    """Squared distances (n,) of the rows, dimensions added in order."""
    total = np.zeros(len(x))
    for j in range(x.shape[1]):
        total += (x[:, j].astype(np.float64) - y[:, j]) ** 2
    return total


def _evict(x, codebook, ids, capacity):
    k = len(codebook)
    ids = ids.copy()
    moving = np.arange(len(x))
    room = np.full(k, capacity)
    open_ = np.arange(k)
    wanted, far = ids, _squared(x, codebook[ids])
    while True:
        order = np.lexsort((moving, far, wanted))  # of each codeword the nearest rows first
        sorted_ids = wanted[order]
        first = np.searchsorted(sorted_ids, sorted_ids)
        keep = np.arange(len(order)) - first < room[sorted_ids]
        ids[moving[order[keep]]] = sorted_ids[keep]
        room -= np.bincount(sorted_ids[keep], minlength=k)
        moving = moving[order[~keep]]
        if not len(moving):
            return ids
        open_ = np.flatnonzero(room)
        found, far = _native.nearest_distances(np.ascontiguousarray(x[moving]), np.ascontiguousarray(codebook[open_]))
        wanted = open_[found].astype(ids.dtype)
