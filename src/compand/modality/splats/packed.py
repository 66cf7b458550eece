"""Helpers of formats that keep splats in few bits: logits, smallest-three quaternions, turns between axes."""

from __future__ import annotations

import numpy as np

from .splats import REST

# Sign of each real harmonic above the constant one when y and z are turned round (half a turn about x).
_HALF_TURN = np.float32([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1, -1, 1, -1, 1, 1, -1, 1, -1, 1])


def logit(alpha: np.ndarray) -> np.ndarray:
    """Opacity from 0 to 1 → float32 logit, kept finite: 0 and 1 are taken as 1/512 from the ends.

    >>> logit(np.array([0.5]))
    array([0.], dtype=float32)
    """
    a = np.clip(np.asarray(alpha, np.float64), 1 / 512, 1 - 1 / 512)
    return (np.log(a) - np.log1p(-a)).astype(np.float32)


def alpha_of(opacity: np.ndarray) -> np.ndarray:
    """Logit → opacity from 0 to 1, float64."""
    return 1 / (1 + np.exp(-np.clip(opacity.astype(np.float64), -80, 80)))


def unit(rotations: np.ndarray) -> np.ndarray:
    """Quaternions (n, 4) of length one, float64; those of no length become the identity."""
    q = rotations.astype(np.float64)
    length = np.linalg.norm(q, axis=1, keepdims=True)
    return np.where(length > 1e-20, q / np.maximum(length, 1e-300), [[1.0, 0, 0, 0]])


def from_three(largest: np.ndarray, three: np.ndarray) -> np.ndarray:
    """Quaternions float32 (n, 4) from the place of the largest component and the three others (n, 3) in their order."""
    n = len(three)
    q = np.zeros((n, 4), np.float32)
    places = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    np.put_along_axis(q, places[largest], three.astype(np.float32), 1)
    q[np.arange(n), largest] = np.sqrt(np.maximum(0, 1 - (three.astype(np.float64) ** 2).sum(1)))
    return q


def to_three(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit quaternions (n, 4) → place of the component that is largest, made positive; the three others (n, 3)."""
    largest = np.abs(q).argmax(1)
    q = q * np.where(np.take_along_axis(q, largest[:, None], 1) < 0, -1, 1)
    places = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    return largest, np.take_along_axis(q, places[largest], 1)


def half_turn(positions: np.ndarray, rotations: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scene seen after half a turn about x: right-up-back axes ↔ right-down-front. rotations are w, x, y, z."""
    k = rest.shape[1] // 3
    assert k in REST.values()
    signs = np.repeat(_HALF_TURN[:k], 3)
    return positions * np.float32([1, -1, -1]), rotations * np.float32([1, 1, -1, -1]), rest * signs
