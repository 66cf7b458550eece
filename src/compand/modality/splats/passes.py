"""Optional passes that change a scene before it is coded: leave out what adds least, merge near-duplicates. Each states its loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import InputError
from .packed import alpha_of, logit
from .scene import order
from .splats import Splats


def weight(scene: Splats) -> np.ndarray:
    """What each splat adds to a picture, float64 (n,): opacity times the area of its two longer axes (Fan et al., LightGaussian, 2023)."""
    two = np.sort(np.clip(scene.scales.astype(np.float64), -40, 40), 1)[:, 1:].sum(1)
    return alpha_of(scene.opacity) * np.exp(two)


def prune(scene: Splats, share: float) -> tuple[Splats, dict[str, Any]]:
    """The scene without the ``share`` (0 to 1) of its splats that add least, in its order; and what was lost.

    The loss is stated as ``lost``, the share of all opacity times area; pictures can be compared with `compand.op.compare`.

    >>> s = Splats(np.zeros((4, 3)), np.log([[1, 1, 1], [2, 2, 2], [3, 3, 3], [0.1, 0.1, 0.1]]), np.eye(4), np.zeros(4), np.zeros((4, 3)))
    >>> left, said = prune(s, 0.25)
    >>> len(left), said["splats"], round(said["lost"], 5)
    (3, 1, 0.00071)
    """
    if not 0 <= share < 1:
        raise InputError(f"the share to leave out goes from 0 to below 1, not {share:g}")
    w = weight(scene)
    gone = np.argsort(w, kind="stable")[:int(share * len(w))]
    keep = np.ones(len(w), bool)
    keep[gone] = False
    return scene.take(np.flatnonzero(keep)), {"splats": len(gone), "lost": float(w[gone].sum() / max(w.sum(), 1e-300))}


def merge(scene: Splats, within: float = 0.25) -> tuple[Splats, dict[str, Any]]:
    """Pairs that follow each other along the curve and are nearly the same, made one; and what was done.

    A pair is merged if its centres are nearer than ``within`` of the smaller one's size, sizes differ by less than as many nepers, and
    colours by less than ``within`` / 4. Position, scales and colours become the mean by weight, opacity what both let through.
    """
    if not 0 < within <= 2:
        raise InputError(f"'within' goes from above 0 to 2, not {within:g}")
    s = scene.take(order(scene.positions))
    w, used = weight(s), np.zeros(len(s), bool)
    size = np.exp(np.sort(s.scales, 1)[:, 1])
    q = s.rotations / np.maximum(np.linalg.norm(s.rotations, axis=1, keepdims=True), 1e-20)
    near = (np.linalg.norm(np.diff(s.positions, axis=0), axis=1) < within * np.minimum(size[1:], size[:-1])) \
        & (np.abs(np.diff(s.scales, axis=0)).max(1) < within) & (np.abs(np.diff(s.sh0, axis=0)).max(1) < within / 4) \
        & (np.abs((q[1:] * q[:-1]).sum(1)) > 1 - within ** 2 / 8)
    first = []
    for i in np.flatnonzero(near):
        if not used[i]:
            used[i] = used[i + 1] = True
            first.append(i)
    a = np.array(first, np.int64)
    share = (w[a] / np.maximum(w[a] + w[a + 1], 1e-300))[:, None]
    own = {k: v.copy() for k, v in s.arrays().items() if k not in s.extra}
    for k in ("positions", "scales", "sh0", "sh_rest"):
        own[k][a] = share * own[k][a] + (1 - share) * own[k][a + 1]
    own["opacity"][a] = logit(1 - (1 - alpha_of(s.opacity[a])) * (1 - alpha_of(s.opacity[a + 1])))
    keep = np.ones(len(s), bool)
    keep[a + 1] = False
    merged = replace(s, **own).take(np.flatnonzero(keep))
    return merged, {"splats": len(a), "lost": float(w[a + 1].sum() / max(w.sum(), 1e-300))}
