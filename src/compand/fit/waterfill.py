"""Reverse water-filling with fixed-size codes: how many neighbouring coordinates share one codeword."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# Least squared error of k codewords for s independent Gaussian values of variance 1, a value (k-means, measured; k = 256 for
# s >= 4 from the rate-distortion bound with the same excess).
_ERROR = {
    16: {1: .01154, 2: .108, 3: .20, 4: .31, 5: .40, 6: .465, 8: .565, 12: .68, 16: .75, 24: .82, 48: .90},
    64: {1: .00104, 2: .030, 3: .095, 4: .17, 6: .31, 8: .40, 12: .53, 16: .62, 24: .73, 32: .79, 48: .85},
    256: {1: .00007, 2: .0085, 3: .04, 4: .085, 5: .13, 6: .18, 8: .28, 12: .42, 16: .52, 24: .64, 32: .72, 48: .80},
}
_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48)


@lru_cache(maxsize=256)
def error(k: int, size: int) -> float:
    """Squared error left of a unit Gaussian by k codewords for ``size`` values together.

    >>> error(16, 1), error(64, 4)
    (0.01154, 0.17)
    """
    known = _ERROR[k]
    sizes = sorted(known)
    return round(float(np.exp(np.interp(np.log(size), np.log(sizes), np.log([known[s] for s in sizes])))), 6)


def runs(variance: np.ndarray, groups: int, k: int) -> np.ndarray:
    """Sizes of ``groups`` runs of neighbouring coordinates that leave the least squared error: (groups,), zeros last.

    Coordinates after the last run get no codes. By dynamic programming over coordinates and runs.

    >>> runs(np.array([100., 10., 9., 1., 1., 1., .001]), 3, 16)
    array([1, 2, 3])
    """
    d = len(variance)
    total = np.concatenate([[0.0], np.cumsum(variance, dtype=np.float64)])
    best = np.full((d + 1, groups + 1), np.inf)
    best[0, 0] = 0
    last = np.zeros((d + 1, groups + 1), np.int64)
    for i in range(d):
        for size in _SIZES:
            if i + size > d:
                break
            cost = best[i, :-1] + error(k, size) * (total[i + size] - total[i])
            better = cost < best[i + size, 1:]
            best[i + size, 1:][better] = cost[better]
            last[i + size, 1:][better] = size
    left = best + (total[-1] - total)[:, None]
    i, g = np.unravel_index(int(np.argmin(left)), left.shape)
    sizes = []
    while g:
        sizes.append(int(last[i, g]))
        i, g = i - sizes[-1], g - 1
    return np.array(sizes[::-1] + [0] * (groups - len(sizes)))
