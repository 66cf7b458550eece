"""Optional passes that change a scene before it is coded. Off unless asked for; each states its loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import InputError
from .packed import alpha_of, logit
from .part import weight
from .scene import order
from .splats import REST, Splats

VIEWS, WIDTH, HEIGHT = 24, 480, 360  # pictures that tell what each splat adds
_GOLDEN = 0.6180339887498949


def contribution(scene: Splats, cameras: Sequence | None = None) -> np.ndarray:
    """What each splat adds to pictures, float64 (n,): alpha times transmittance, summed over all pixels of all cameras.

    ``cameras`` as in `compand.op.render`; by default 24 of 480 x 360, placed around the scene. A splat that no camera sees adds 0.
    """
    from ...op.render import Renderer, around

    cameras = around(scene, VIEWS, WIDTH, HEIGHT) if cameras is None else cameras
    draw, total = Renderer(scene), np.zeros(len(scene))
    for camera in cameras:
        total += draw(camera, weights=True).weights
    return total


def prune(scene: Splats, share: float, adds: np.ndarray | None = None) -> tuple[Splats, dict[str, Any]]:
    """The scene without the ``share`` (0 to 1) of its splats that add least, in its order; and what was lost.

    ``adds`` (n,) is what each adds, as `contribution` measures in pictures; without it, opacity times area stands for it. The loss is
    stated as ``lost``, the share of all that is added; pictures can be compared with `compand.op.compare`.

    >>> s = Splats(np.zeros((4, 3)), np.log([[1, 1, 1], [2, 2, 2], [3, 3, 3], [0.1, 0.1, 0.1]]), np.eye(4), np.zeros(4), np.zeros((4, 3)))
    >>> left, said = prune(s, 0.25)
    >>> len(left), said["splats"], round(said["lost"], 5)
    (3, 1, 0.00071)
    """
    if not 0 <= share < 1:
        raise InputError(f"the share to leave out goes from 0 to below 1, not {share:g}")
    w = weight(scene) if adds is None else np.asarray(adds, np.float64)
    if w.shape != (len(scene),):
        raise InputError(f"what splats add is {list(w.shape)}, {len(scene):,} splats need [{len(scene)}]")
    gone = np.lexsort((weight(scene), w))[:int(share * len(w))]
    keep = np.ones(len(w), bool)
    keep[gone] = False
    return scene.take(np.flatnonzero(keep)), {"splats": len(gone), "lost": float(w[gone].sum() / max(w.sum(), 1e-300))}


def distill(scene: Splats, within: float = 1 / 512) -> tuple[Splats, dict[str, Any]]:
    """The scene with each splat's harmonics cut to the lowest degree that changes its colour by no more than ``within``; what was done.

    The change is the RMS over all directions, red, green and blue together, times the splat's alpha; colours go from 0 to 1, so 1/512 is
    half a step of a picture. Harmonics are orthonormal, so leaving out the higher degrees is the nearest of a lower degree.
    ``degrees`` counts the splats by the degree that is left, ``lost`` is the RMS change of all splats.
    """
    if not within > 0:
        raise InputError(f"'within' is above 0, not {within:g}")
    n, top = len(scene), scene.degree
    x = scene.sh_rest.reshape(n, -1, 3)
    energy = np.square(x, dtype=np.float64).mean(2) / (4 * math.pi) * np.square(alpha_of(scene.opacity))[:, None]
    degree, lost = np.full(n, top), np.zeros(n)
    for d in range(top - 1, -1, -1):
        change = energy[:, REST[d]:].sum(1)
        fine = (degree == d + 1) & (change <= within * within)
        degree[fine], lost[fine] = d, change[fine]
    rest = np.where(np.arange(x.shape[1])[None, :, None] < np.array([REST[d] for d in range(top + 1)])[degree][:, None, None], x, 0)
    counts = {str(d): int((degree == d).sum()) for d in range(top + 1)}
    cut = replace(scene, sh_rest=np.ascontiguousarray(rest.reshape(scene.sh_rest.shape), np.float32))
    return cut, {"splats": int((degree < top).sum()), "degrees": counts, "lost": float(np.sqrt(lost.mean())) if n else 0.0}


def merge(scene: Splats, within: float = 0.25) -> tuple[Splats, dict[str, Any]]:
    """Pairs of splats close together that are nearly the same, made one; and what was done.

    A pair is merged if its centres are nearer than ``within`` of the smaller one's size, sizes differ by less than as many nepers, and
    colours by less than ``within`` / 4. Position, scales and colours become the mean by weight, opacity what both let through.
    Pairs are sought among the next three along the curve, and along two more that start elsewhere, since a curve parts neighbours.
    """
    if not 0 < within <= 2:
        raise InputError(f"'within' goes from above 0 to 2, not {within:g}")
    s = scene.take(order(scene.positions))
    if len(s) < 2:
        return s, {"splats": 0, "lost": 0.0}
    w, used = weight(s), np.zeros(len(s), bool)
    size = np.exp(np.sort(s.scales, 1)[:, 1])
    q = s.rotations / np.maximum(np.linalg.norm(s.rotations, axis=1, keepdims=True), 1e-20)
    reach = float(np.median(np.abs(s.positions - np.median(s.positions, 0)))) or 1.0
    first, second = [], []
    for shift in range(3):
        along = order(s.positions + np.float32(shift * _GOLDEN * reach)) if shift else np.arange(len(s))
        for gap in (1, 2, 3):
            i, j = along[:-gap], along[gap:]
            near = (np.linalg.norm(s.positions[i] - s.positions[j], axis=1) < within * np.minimum(size[i], size[j])) \
                & (np.abs(s.scales[i] - s.scales[j]).max(1) < within) & (np.abs(s.sh0[i] - s.sh0[j]).max(1) < within / 4) \
                & (np.abs((q[i] * q[j]).sum(1)) > 1 - within ** 2 / 8)
            for k in np.flatnonzero(near):
                if not used[i[k]] and not used[j[k]]:
                    used[i[k]] = used[j[k]] = True
                    first.append(i[k])
                    second.append(j[k])
    a, b = np.array(first, np.int64), np.array(second, np.int64)
    share = (w[a] / np.maximum(w[a] + w[b], 1e-300))[:, None]
    own = {k: v.copy() for k, v in s.arrays().items() if k not in s.extra}
    for k in ("positions", "scales", "sh0", "sh_rest"):
        own[k][a] = share * own[k][a] + (1 - share) * own[k][b]
    own["opacity"][a] = logit(1 - (1 - alpha_of(s.opacity[a])) * (1 - alpha_of(s.opacity[b])))
    keep = np.ones(len(s), bool)
    keep[b] = False
    merged = replace(s, **own).take(np.flatnonzero(keep))
    return merged, {"splats": len(a), "lost": float(w[b].sum() / max(w.sum(), 1e-300))}
