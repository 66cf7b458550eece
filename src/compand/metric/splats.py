"""What compression did to the attributes of a scene of splats; its pictures are compared by `compand.op.compare`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import InputError

BLOCK = 1 << 17  # splats compared at a time


def attribute_errors(a, b) -> dict[str, Any]:
    """Errors of the splats of b against those of a they belong to.

    Splats are compared in their order if that keeps them in place; else each of a with the most similar of its four nearest of b
    (this needs scipy), because the order of a scene means nothing. ``paired`` is the share of a's splats that have a partner of their own.

    ``position``: distance over the splat's size, the geometric mean of its three standard deviations (mean, median, p95, max).
    ``rotation``: angle between axes in degrees, whatever their names (mean, p95). ``shape``: ‖Σ − Σ'‖ / ‖Σ‖ of covariances (mean, p95),
    which does not mind a turn that changes nothing. ``scale``: RMS of the difference of sorted logarithms. ``opacity``: RMS of that of
    alpha, from 0 to 1. ``sh0``: RMS. ``sh``: RMS of the higher harmonics, ``sh_signal`` theirs in a, ``sh_relative`` their ratio.
    Splats that are not finite are left out. Raises `InputError` for an empty scene.
    """
    counted = len(a.positions), len(b.positions)
    a, b = _finite(a), _finite(b)
    n = len(a["positions"])
    if not n or not len(b["positions"]):
        raise InputError("cannot compare scenes without splats")
    j, how = _partners(a, b)
    moved, angle, shape = np.empty(n), np.empty(n), np.empty(n)
    squares = dict.fromkeys(("scale", "opacity", "sh0", "sh", "sh_signal"), 0.0)
    counts = dict.fromkeys(squares, 0)
    for at in range(0, n, BLOCK):
        i = slice(at, min(at + BLOCK, n))
        x, y = ({k: v[which].astype(np.float64) for k, v in s.items()} for s, which in ((a, i), (b, j[i])))
        moved[i] = np.linalg.norm(x["positions"] - y["positions"], axis=1) / np.maximum(np.exp(x["scales"].mean(1)), 1e-300)
        qa, qb = _unit(x["rotations"]), _unit(y["rotations"])
        angle[i] = _angles(qa, qb)
        ca, cb = covariances(qa, x["scales"]), covariances(qb, y["scales"])
        shape[i] = np.linalg.norm(ca - cb, axis=(1, 2)) / np.maximum(np.linalg.norm(ca, axis=(1, 2)), 1e-300)
        width = max(x["sh_rest"].shape[1], y["sh_rest"].shape[1])
        rest = [np.pad(z["sh_rest"], ((0, 0), (0, width - z["sh_rest"].shape[1]))) for z in (x, y)]
        for name, e in (("scale", np.sort(x["scales"], 1) - np.sort(y["scales"], 1)), ("sh0", x["sh0"] - y["sh0"]),
                        ("sh", rest[0] - rest[1]), ("opacity", _alpha(x["opacity"]) - _alpha(y["opacity"])), ("sh_signal", rest[0])):
            squares[name] += float(np.square(e).sum())
            counts[name] += e.size
    rms = {k: math.sqrt(v / counts[k]) if counts[k] else 0.0 for k, v in squares.items()}
    relative = rms["sh"] / rms["sh_signal"] if rms["sh_signal"] else 0.0 if not rms["sh"] else math.inf
    return {"splats_a": counted[0], "splats_b": counted[1], "matched": how, "paired": len(np.unique(j)) / n,
            "position": _spread(moved, True), "rotation": _spread(angle), "shape": _spread(shape), **rms, "sh_relative": relative}


def _finite(scene) -> dict[str, np.ndarray]:
    """Every attribute as (rows, values), without the splats that are not finite: they draw nothing."""
    n = len(scene.positions)
    found = {k: np.asarray(getattr(scene, k)).reshape(n, -1) if n else np.zeros((0, 1))
             for k in ("positions", "scales", "rotations", "opacity", "sh0", "sh_rest")}
    good = np.logical_and.reduce([(~np.isnan(x) if k == "opacity" else np.isfinite(x)).all(1) for k, x in found.items()])
    return found if good.all() else {k: x[good] for k, x in found.items()}


def _alpha(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logit, -700, 700)))


def covariances(rotations: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Covariances (n, 3, 3) float64 of splats with these quaternions wxyz (n, 4), of any length, and log scales (n, 3)."""
    w, x, y, z = _unit(np.asarray(rotations, np.float64)).T
    turn = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
                     2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                     2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1).reshape(-1, 3, 3)
    m = turn * np.exp(np.clip(np.asarray(scales, np.float64), -80, 80))[:, None]
    return m @ m.swapaxes(1, 2)


def _partners(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> tuple[np.ndarray, str]:
    """For each splat of a, one of b; and how they were found."""
    pa, pb = a["positions"].astype(np.float64), b["positions"].astype(np.float64)
    n, m = len(pa), len(pb)
    size = np.maximum(np.exp(a["scales"].mean(1, dtype=np.float64)), 1e-300)
    if n == m and np.median(np.linalg.norm(pa - pb, axis=1) / size) < 3:
        return np.arange(n), "order"
    try:
        from scipy.spatial import cKDTree  # type: ignore[import-untyped]
    except ImportError:
        raise InputError("the splats of these scenes differ in order; comparing them needs scipy: pip install 'compand[fit]'") from None
    tree, k, out = cKDTree(pb), min(4, m), np.empty(n, np.int64)
    for at in range(0, n, BLOCK):
        i = slice(at, min(at + BLOCK, n))
        distance, near = (x.reshape(-1, k) for x in tree.query(pa[i], k))
        cost = distance / size[i, None]
        for name in ("scales", "sh0"):
            cost += np.abs(a[name][i, None] - b[name][near]).mean(2, dtype=np.float64)
        cost += np.abs(_alpha(a["opacity"])[i, None] - _alpha(b["opacity"])[near])[..., 0]
        out[i] = near[np.arange(len(near)), cost.argmin(1)]
    return out, "nearest"


def _angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees between ellipsoids' axes: least over the 24 ways to name the axes of a box, as all mean the same splat."""
    (w, x, y, z), (s, t, u, v) = a.T, b.T
    relative = np.abs(np.stack([w * s + x * t + y * u + z * v, w * t - x * s - y * v + z * u, w * u + x * v - y * s - z * t,
                                w * v - x * u + y * t - z * s], 1))  # conj(a) b, up to signs
    first, second = np.sort(relative, 1)[:, :1:-1].T
    best = np.maximum.reduce([first, (first + second) * math.sqrt(0.5), relative.sum(1) / 2])
    return np.degrees(2 * np.arccos(np.minimum(best, 1.0)))


def _unit(q: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(q, axis=1, keepdims=True)
    return np.where(length > 0, q / np.where(length > 0, length, 1), [1.0, 0, 0, 0])


def _spread(x: np.ndarray, wide: bool = False) -> dict[str, float]:
    out = {"mean": float(x.mean()), "p95": float(np.quantile(x, 0.95))}
    return out | {"median": float(np.median(x)), "max": float(x.max())} if wide else out
