"""How many columns a scan looks at before a bound tells which vectors need the others, and how sharp that bound is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_ASKED, _SAMPLE = 48, 3072  # rows that stand for queries, and for vectors
_NEAR = 16   # neighbours in the sample of which agreement is learnt
_LEAST = 0.2  # least margin
_NEXT = 128  # columns looked at next (kMiddle of native/scan)
_TEST, _AGAIN, _SETTLE = 1.0, 60.0, 270.0  # cost of the bound for a vector, of each that passes it, passes twice: measured, in columns / 64


def units(matrix: np.ndarray | None, columns: np.ndarray, take: np.ndarray | None) -> np.ndarray:
    """What one step of each column is worth in the space of the vectors: (columns,) float32.

    >>> units(np.float32([[3, 4], [0, 1]]), np.float32([1, 2]), None).tolist()
    [5.0, 2.0]
    """
    length = np.ones(len(columns), np.float32) if matrix is None else np.linalg.norm(matrix, axis=1)
    length = length[:len(columns)] if take is None else length[take]
    return np.ascontiguousarray(np.abs(columns) * length, np.float32)


class Plan(NamedTuple):
    """How to scan columns, see Bounds in native/scan/scan.hpp."""

    lead: int       # columns to scan first: a multiple of 16, or all of them
    typical: float  # length of what they say of a vector
    margin: float   # by how much more the rest of a vector may agree with a query; 1: no guess


def plan(rows: np.ndarray, gain: np.ndarray, unit: np.ndarray, zero: float, fine: int | None = None) -> Plan:
    """The least work on rows of the index itself.

    rows (n, columns) uint8, gain (n,), unit (columns,), vectors gain · unit · (rows + zero); columns from ``fine`` on say what the
    others have rounded off. A vector needs its other columns if what the first say and what the rest may add could pass the best
    score. The rest adds at most |query's rest| · |vector's rest|, times the cosine of the first columns and a margin more: of rows
    near each other the cosines of both parts differ by little, here by the mean and 4 standard deviations.

    >>> rng = np.random.default_rng(0)
    >>> rows = np.clip(rng.standard_normal((2000, 256)) * np.geomspace(60, .5, 256) + 128, 0, 255).astype(np.uint8)
    >>> plan(rows, np.ones(2000), np.ones(256), -128.0).lead
    64
    """
    n, width = rows.shape
    used = width if fine is None else min(fine, width)
    some = rows[:: max(1, n // _SAMPLE), :used]
    v = (some.astype(np.float32) + np.float32(zero)) * unit[:used] * gain[:: max(1, n // _SAMPLE), None].astype(np.float32)
    every = max(1, len(v) // _ASKED)
    q = v[::every]
    if not np.isfinite(v).all() or len(v) <= 2 * _NEAR:  # too few to learn from, and soon scanned
        return Plan(width, 1.0, 1.0)
    scores = q @ v.T
    scores[np.arange(len(q)), np.arange(len(q)) * every] = -np.inf
    near = np.argpartition(-scores, _NEAR - 1, axis=1)[:, :_NEAR]
    best = scores.max(axis=1, keepdims=True)
    part, left_q, left_v = np.zeros_like(scores), (q ** 2).sum(axis=1), (v ** 2).sum(axis=1)
    all_q, all_v = left_q, left_v
    plans, passing = [Plan(0, 1.0, 1.0)], [1.0]
    for at in range(0, used - 15, 16):
        a, b = q[:, at:at + 16], v[:, at:at + 16]
        part += a @ b.T
        left_q, left_v = np.maximum(left_q - (a ** 2).sum(axis=1), 0), np.maximum(left_v - (b ** 2).sum(axis=1), 0)
        typical = float(np.median(np.sqrt(all_v - left_v)))
        rest, own = np.sqrt(left_q)[:, None] * np.sqrt(left_v), part / np.maximum(np.sqrt(all_q - left_q)[:, None] * typical, 1e-30)
        of = np.take_along_axis(rest, near, 1)
        apart = (np.take_along_axis(scores - part, near, 1) / np.maximum(of, 1e-30) - np.take_along_axis(own, near, 1))[of > 0]
        margin = float(np.ceil(np.clip(apart.mean() + 4 * apart.std(), _LEAST, 1) * 32)) / 32 if apart.size else 1.0
        hope = 1 if margin == 1 else margin + np.maximum(own, 0)
        plans.append(Plan(at + 16, typical, margin))
        passing.append(float((part + hope * rest > best).mean()))
    cheapest, chosen = width / 64 + _TEST, Plan(width, 1.0, 1.0)
    for i in range(1, len(plans)):
        twice = passing[i + _NEXT // 16] if i + _NEXT // 16 < len(passing) else passing[i]
        cost = i / 4 + _TEST + _AGAIN * passing[i] + _SETTLE * twice
        if plans[i].lead < width and cost < cheapest:
            cheapest, chosen = cost, plans[i]
    return chosen
