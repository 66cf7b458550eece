"""How many columns a scan looks at before a bound tells which vectors need the others."""

from __future__ import annotations

import numpy as np

_ASKED, _SAMPLE = 48, 3072  # rows that stand for queries, and for vectors
_NEXT = 128  # columns looked at next (kMiddle of native/scan)
_TEST, _AGAIN, _SETTLE = 1.0, 40.0, 180.0  # cost of the bound for a vector, of each that passes it, passes twice: measured, in columns / 64


def units(matrix: np.ndarray | None, columns: np.ndarray, take: np.ndarray | None) -> np.ndarray:
    """What one step of each column is worth in the space of the vectors: (columns,) float32.

    >>> units(np.float32([[3, 4], [0, 1]]), np.float32([1, 2]), None).tolist()
    [5.0, 2.0]
    """
    length = np.ones(len(columns), np.float32) if matrix is None else np.linalg.norm(matrix, axis=1)
    length = length[:len(columns)] if take is None else length[take]
    return np.ascontiguousarray(np.abs(columns) * length, np.float32)


def lead(rows: np.ndarray, gain: np.ndarray, unit: np.ndarray, zero: float) -> int:
    """Columns to scan first, the least work on rows of the index itself: a multiple of 16, or all of them.

    rows (n, columns) uint8, gain (n,), unit (columns,), vectors gain · unit · (rows + zero). A vector needs its other columns if
    what the first say and |query's rest| · |vector's rest| together could pass the best score.

    >>> rng = np.random.default_rng(0)
    >>> rows = np.clip(rng.standard_normal((2000, 256)) * np.geomspace(60, .5, 256) + 128, 0, 255).astype(np.uint8)
    >>> lead(rows, np.ones(2000), np.ones(256), -128.0)
    64
    """
    n, width = rows.shape
    some = rows[:: max(1, n // _SAMPLE)]
    v = (some.astype(np.float32) + np.float32(zero)) * unit * gain[:: max(1, n // _SAMPLE), None].astype(np.float32)
    q = v[:: max(1, len(v) // _ASKED)]
    own = np.arange(len(q)) * max(1, len(v) // _ASKED)
    scores = q @ v.T
    scores[np.arange(len(q)), own] = -np.inf
    if not np.isfinite(v).all() or len(v) < 2:
        return width
    best = scores.max(axis=1, keepdims=True)
    part, left_q, left_v = np.zeros_like(scores), (q ** 2).sum(axis=1), (v ** 2).sum(axis=1)
    passing = [1.0]
    for at in range(0, width - 15, 16):
        a, b = q[:, at:at + 16], v[:, at:at + 16]
        part += a @ b.T
        left_q, left_v = np.maximum(left_q - (a ** 2).sum(axis=1), 0), np.maximum(left_v - (b ** 2).sum(axis=1), 0)
        passing.append(float((part + np.sqrt(left_q)[:, None] * np.sqrt(left_v) > best).mean()))
    cheapest, chosen = width / 64 + _TEST, width
    for i in range(1, -(-width // 16)):
        twice = passing[i + _NEXT // 16] if i + _NEXT // 16 < len(passing) else passing[i]
        cost = i / 4 + _TEST + _AGAIN * passing[i] + _SETTLE * twice
        if cost < cheapest:
            cheapest, chosen = cost, 16 * i
    return chosen
