"""The directions in which rows vary most: principal components, weighted, a block of rows at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import seeded
from ..array import array_namespace, to_numpy
from ..errors import FitError

_ROWS = 4096
_WHOLE = 1024   # columns up to which all directions are found at once
_MOST = 8192


class Subspace(NamedTuple):
    """x ≈ mean + ((x − mean) · gain) basis basisᵀ / gain; all float64."""

    mean: np.ndarray      # (d,)
    gain: np.ndarray      # (d,) square root of the weight of columns, mean square 1
    basis: np.ndarray     # (d, k) orthonormal, by falling variance; the largest entry of each column is positive
    variance: np.ndarray  # (k,) mean square along each


def subspace(x, k: int, *, weight=None, center: bool = True) -> Subspace:
    """The k ≤ d directions that keep most of weight · x².

    A weight of values (n, d) counts as its row means times its column means. Up to 1024 columns, or for more than a quarter of
    the directions, by the eigenvectors of the covariance; else by seeded subspace iteration (Halko, Martinsson & Tropp 2011).
    Raises `FitError` for all directions of more than 8192 columns.

    >>> x = np.array([[3., 4.], [-3., -4.], [6., 8.]])
    >>> subspace(x, 1, center=False).basis.ravel().round(3)
    array([0.6, 0.8])
    """
    x = to_numpy(x)
    n, d = x.shape
    rows, gain = _factors(weight, n, d)
    total = rows.sum()
    mean = (rows @ x) / total if center else np.zeros(d)

    def covariance_times(q):
        """Covariance · q, or the covariance itself for q None."""
        out = np.zeros((d, d if q is None else q.shape[1]))
        for at in range(0, n, _ROWS):
            z = (x[at:at + _ROWS] - mean) * gain * np.sqrt(rows[at:at + _ROWS, None])
            out += z.T @ (z if q is None else z @ q)
        return out / total

    if d <= _WHOLE or k > d // 4:
        if d > _MOST:
            raise FitError(f"{k:,} directions of {d:,} columns: more than a quarter are found for at most {_MOST:,} columns")
        variance, basis = np.linalg.eigh(covariance_times(None))
    else:
        q = seeded.normal(0, d * min(d, k + 16)).reshape(d, -1)
        for _ in range(6):
            q = np.linalg.qr(covariance_times(np.linalg.qr(q)[0]))[0]
        variance, small = np.linalg.eigh(q.T @ covariance_times(q))
        basis = q @ small
    basis, variance = basis[:, ::-1][:, :k], np.maximum(variance[::-1][:k], 0)
    sign = np.sign(np.take_along_axis(basis, np.abs(basis).argmax(0)[None], 0))
    return Subspace(mean, gain, basis * sign, variance)


def _factors(weight, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of rows, and square roots of weights of columns. A column without weight counts a millionth."""
    if weight is None:
        return np.ones(n), np.ones(d)
    xp = array_namespace(weight)
    weight = xp.astype(weight, xp.float64)
    rows, columns = (np.ascontiguousarray(to_numpy(xp.mean(weight, axis=axis))) for axis in (1, 0))
    rows, columns = np.broadcast_to(rows, (n,)), np.broadcast_to(columns, (d,))
    if rows.sum() <= 0:
        raise FitError("all weights are zero")
    return rows / rows.mean(), np.sqrt(np.maximum(columns / columns.mean(), 1e-6))
