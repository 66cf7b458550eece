"""What compression did to the attributes of a scene of splats; its pictures are compared by `compand.op.compare`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import InputError


def attribute_errors(a, b) -> dict[str, Any]:
    """Errors of the splats of b against those of a they belong to.

    Splats are compared in their order if that keeps them in place; else each of a with the most similar of its four nearest of b
    (this needs scipy), because the order of a scene means nothing. ``paired`` is the share of a's splats that have a partner of their own.

    ``position``: distance over the splat's size, the geometric mean of its three standard deviations (mean, median, p95, max).
    ``rotation``: angle between orientations in degrees (mean, p95). ``shape``: ‖Σ − Σ'‖ / ‖Σ‖ of covariances (mean, p95), which does not
    mind a turn that changes nothing. ``scale``: RMS of the difference of logarithms. ``opacity``: RMS of that of alpha, from 0 to 1.
    ``sh0``: RMS. ``sh``: RMS of the higher harmonics, ``sh_signal`` theirs in a, ``sh_relative`` their ratio. Raises `InputError`
    for an empty scene.
    """
    if not len(a.positions) or not len(b.positions):
        raise InputError("cannot compare scenes without splats")
    rest = [np.asarray(s.sh_rest, np.float64).reshape(len(s.positions), -1) for s in (a, b)]
    width = max(r.shape[1] for r in rest)
    harmonics = [np.pad(r, ((0, 0), (0, width - r.shape[1]))) for r in rest]
    i, j, how = _partners(a, b)
    pa, pb = (np.asarray(s.positions, np.float64)[k] for s, k in ((a, i), (b, j)))
    sa, sb = (np.asarray(s.scales, np.float64)[k] for s, k in ((a, i), (b, j)))
    qa, qb = (_unit(np.asarray(s.rotations, np.float64)[k]) for s, k in ((a, i), (b, j)))
    moved = np.linalg.norm(pa - pb, axis=1) / np.exp(sa.mean(1))
    angle = np.degrees(2 * np.arccos(np.minimum(np.abs((qa * qb).sum(1)), 1.0)))
    ca, cb = covariances(qa, sa), covariances(qb, sb)
    shape = np.linalg.norm(ca - cb, axis=(1, 2)) / np.maximum(np.linalg.norm(ca, axis=(1, 2)), 1e-300)
    alpha = [1 / (1 + np.exp(-np.clip(np.asarray(s.opacity, np.float64)[k], -700, 700))) for s, k in ((a, i), (b, j))]
    noise, signal = _rms(harmonics[0][i] - harmonics[1][j]), _rms(harmonics[0][i])
    return {"splats_a": len(a.positions), "splats_b": len(b.positions), "matched": how, "paired": len(np.unique(j)) / len(a.positions),
            "position": _spread(moved, True), "rotation": _spread(angle), "shape": _spread(shape), "scale": _rms(sa - sb),
            "opacity": _rms(alpha[0] - alpha[1]), "sh0": _rms(np.asarray(a.sh0, np.float64)[i] - np.asarray(b.sh0, np.float64)[j]),
            "sh": noise, "sh_signal": signal, "sh_relative": noise / signal if signal else (0.0 if not noise else math.inf)}


def covariances(rotations: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Covariances (n, 3, 3) float64 of splats with these quaternions wxyz (n, 4), of any length, and log scales (n, 3)."""
    w, x, y, z = _unit(np.asarray(rotations, np.float64)).T
    turn = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
                     2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                     2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1).reshape(-1, 3, 3)
    m = turn * np.exp(np.clip(np.asarray(scales, np.float64), -200, 200))[:, None]
    return m @ m.swapaxes(1, 2)


def _partners(a, b) -> tuple[np.ndarray, np.ndarray, str]:
    n, m = len(a.positions), len(b.positions)
    pa, pb = np.asarray(a.positions, np.float64), np.asarray(b.positions, np.float64)
    size = np.exp(np.asarray(a.scales, np.float64).mean(1))
    if n == m and np.median(np.linalg.norm(pa - pb, axis=1) / np.maximum(size, 1e-300)) < 3:
        return np.arange(n), np.arange(n), "order"
    try:
        from scipy.spatial import cKDTree  # type: ignore[import-untyped]
    except ImportError:
        raise InputError("the splats of these scenes differ in order; comparing them needs scipy: pip install 'compand[fit]'") from None
    k = min(4, m)
    distance, near = (x.reshape(n, k) for x in cKDTree(pb).query(pa, k))
    cost = distance / np.maximum(size, 1e-300)[:, None]
    for name, by in (("scales", 1.0), ("sh0", 1.0), ("opacity", 0.25)):
        x, y = (np.asarray(getattr(s, name), np.float64).reshape(len(s.positions), -1) for s in (a, b))
        cost += by * np.abs(x[:, None] - y[near]).mean(2)
    return np.arange(n), near[np.arange(n), cost.argmin(1)], "nearest"


def _unit(q: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(q, axis=1, keepdims=True)
    return np.where(length > 0, q / np.where(length > 0, length, 1), [1.0, 0, 0, 0])


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


def _spread(x: np.ndarray, wide: bool = False) -> dict[str, float]:
    out = {"mean": float(x.mean()), "p95": float(np.quantile(x, 0.95))}
    return out | {"median": float(np.median(x)), "max": float(x.max())} if wide else out
