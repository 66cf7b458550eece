"""Assignment of rows to codewords that uses each codeword equally often, without an (n, k) table.

The constraint is RepCONC's (Zhan et al. 2022), who solve it by Sinkhorn iterations on the n x k distances. Here the dual of the
same transport problem is climbed: a price per codeword is added to its squared distance, raised where more than n/k rows
chose it and lowered where fewer did. A priced search is a nearest-codeword search with one more dimension that holds the
square root of the price. Rows that still exceed a codeword's capacity, farthest first, go to the nearest codeword with room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    ids = evict(x, codebook, ids, -(-len(x) // len(codebook)))
    return ids, _squared(x, codebook[ids]).astype(np.float32)


def assign_priced(x: np.ndarray, codebook: np.ndarray, price: np.ndarray | None = None, rounds: int = 40):
    """Ids of the best of ``rounds`` steps of the prices (k,) float64, their squared distances and the last prices.

    Nearly balanced: capacities are not enforced.
    """
    prices = Prices(np.zeros(len(codebook)) if price is None else price.copy())
    ids, own = prices.assign(x, codebook, rounds)
    return ids, own, prices.price


@dataclass
class Prices:
    """Prices of k codewords that climb the dual of the transport problem, and go on from batch to batch.

    ``price``, ``step`` and ``last`` (k,) float64 are the price, the length of its next step (0: not begun) and its last slope.
    ``capacity`` above 1 lets a codeword have so many even shares before it costs anything. ``total`` sums an array over all
    processes that hold rows, which then hold the same prices.
    """

    price: np.ndarray
    step: np.ndarray | None = None
    last: np.ndarray | None = None
    capacity: float = 1.0
    total: Callable[[np.ndarray], np.ndarray] = lambda a: a

    def assign(self, x: np.ndarray, codebook: np.ndarray, rounds: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) uint32 and squared distances (n,) float32 of rows x (n, d), from the best of so many rounds."""
        k, n = len(codebook), float(self.total(np.array(float(len(x)))))
        share, best = self.capacity * n / k, None
        wide = np.zeros((len(x), x.shape[1] + 1), np.float32)
        wide[:, :-1] = x
        priced = np.zeros((k, x.shape[1] + 1), np.float32)
        priced[:, :-1] = codebook
        for _ in range(rounds):
            priced[:, -1] = np.sqrt(self.price)
            ids, cost = _native.nearest_distances(wide, priced)
            count = self.total(np.bincount(ids, minlength=k).astype(np.float64))
            own = np.maximum(cost - self.price[ids], 0)
            excess = float(np.maximum(count - np.ceil(share), 0).sum())
            if best is None or excess < best[0]:
                best = excess, ids, own.astype(np.float32)
            if excess == 0:
                break
            self._climb((count - share) / np.maximum(count, share), float(self.total(own.sum(dtype=np.float64))) / n)
        assert best is not None
        return best[1], best[2]

    def _climb(self, slope: np.ndarray, error: float) -> None:
        """Each price has its own step, longer while it keeps its direction (Rprop, Riedmiller & Braun 1993): prices may have to
        cross gaps much wider than the clusters."""
        if self.step is None or self.last is None or not self.step.any():
            self.step, self.last = np.full(len(slope), error * 0.5), np.zeros(len(slope))
        self.step = self.step * np.where(slope * self.last > 0, 1.5, np.where(slope * self.last < 0, 0.6, 1.0))
        self.last = slope
        self.price = self.price + self.step * slope
        if self.capacity > 1:
            self.step = np.where(self.price < 0, np.minimum(self.step, error * 0.5), self.step)  # nothing costs less than nothing
            self.price = np.maximum(self.price, 0)
        else:
            self.price = self.price - self.price.min()


def _squared(x, y):
    """Squared distances (n,) of the rows, dimensions added in order."""
    total = np.zeros(len(x))
    for j in range(x.shape[1]):
        total += (x[:, j].astype(np.float64) - y[:, j]) ** 2
    return total


def evict(x: np.ndarray, codebook: np.ndarray, ids: np.ndarray, capacity: int) -> np.ndarray:
    """Ids (n,) with at most ``capacity`` rows each: the farthest rows of a full codeword go to the nearest with room."""
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
