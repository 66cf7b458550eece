"""Cameras placed where a scene of splats is worth looking at."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .camera import UP, Camera, unit

RINGS = (-15.0, 10.0, 35.0, 60.0)  # degrees above the horizon
KINDS = ("orbit", "within", "inside")
PROBES, WIDTH, MOST = 8, 96, 100_000  # pictures, their width and splats that show which kind a scene is
COVERED = 0.35  # share of a picture, looking out from amid a scene, that shows a background
BLUR = 0.25     # of the detail outside: with less, the inside of a shell is not meant to be seen


class Extent(NamedTuple):
    """Robust centre (3,) of a scene; distances that 95 %, 50 % and 10 % of its opaque splats keep to."""

    centre: np.ndarray
    radius: float
    half: float
    tenth: float


def extent(scene) -> Extent:
    """Where a scene is: the median of its opaque splats, and how far around it they reach. Raises `InputError` for no splats."""
    p, logit = np.asarray(scene.positions, np.float64), np.asarray(scene.opacity, np.float64)
    good = np.isfinite(p).all(1) & ~np.isnan(logit)
    solid = good & (logit > 0)
    p = p[solid if solid.sum() >= min(100, good.sum()) else good]
    if not len(p):
        raise InputError("cameras cannot be placed: the scene has no splats with finite positions")
    centre = np.median(p, 0)
    tenth, half, most = np.quantile(np.linalg.norm(p - centre, axis=1), [0.1, 0.5, 0.95])
    least = 1e-6 * max(np.abs(centre).max(), 1.0)
    return Extent(centre, float(max(most, least)), float(max(half, least)), float(tenth))


def around(scene, views: int = 24, width: int = 800, height: int = 600, *, kind: str = "auto", fov: float = 50.0, up=UP) -> list[Camera]:
    """Cameras that judge a scene: ``views`` of them, the same for the same scene.

    ``kind`` 'orbit' puts them on rings around the robust centre (the median of the opaque splats), so far that 95 % of the splats fit: for
    objects. 'within' puts the rings at the median distance: for a subject before a background. 'inside' puts them near the centre,
    looking out: for rooms. 'auto' tells by pictures: looking out from amid an object shows nothing, and the inside of a hollow one,
    which nobody looked at in training, is a blur. Raises `InputError` for a scene without splats or an unknown kind.
    """
    if kind not in ("auto", *KINDS):
        raise InputError(f"cameras are placed 'auto', 'orbit', 'within' or 'inside', not {kind!r}")
    if views < 1:
        raise InputError(f"at least one view is needed, not {views}")
    where = extent(scene)
    if kind == "auto":
        kind = _kind(scene, where, fov, up)
    return _placed(where, kind, views, width, height, fov, up)


def _placed(where: Extent, kind: str, views: int, width: int, height: int, fov: float, up) -> list[Camera]:
    up = unit(np.asarray(up, np.float64))
    first = unit(np.cross(up, (0.0, 0.0, 1.0) if abs(up[2]) < 0.9 else (1.0, 0.0, 0.0)))
    second = np.cross(up, first)
    distance = where.half if kind == "within" else 1.05 * where.radius / math.sin(math.radians(min(fov, fov * width / height)) / 2)
    out = []
    for i in range(views):
        rise, turn = RINGS[i % len(RINGS)] / (2 if kind == "inside" else 1), 360.0 * i / views
        a, b = math.radians(rise), math.radians(turn)
        aim = math.cos(a) * (math.cos(b) * first + math.sin(b) * second) + math.sin(a) * up
        name = f"{kind} {turn:.0f}° {rise:+.0f}°"
        if kind == "inside":
            out.append(Camera.at(where.centre - 0.1 * where.half * aim, where.centre + aim * where.half, width, height, fov=max(fov, 70.0),
                                 up=up, near=0.02 * where.half, name=name))
        else:
            out.append(Camera.at(where.centre + distance * aim, where.centre, width, height, fov=fov, up=up, near=0.05 * distance,
                                 name=name))
    return out


def _kind(scene, where: Extent, fov: float, up) -> str:
    """What a scene is, by small pictures of some of its splats."""
    from .render import Renderer

    step = -(-len(scene.positions) // MOST)
    some = {k: np.asarray(getattr(scene, k))[::step] for k in ("positions", "scales", "rotations", "opacity", "sh0", "sh_rest")}
    some["scales"] = some["scales"] + np.float32(math.log(step) / 2)  # fewer but larger: the same area is covered
    draw = Renderer(SimpleNamespace(**some))
    size = WIDTH, WIDTH * 3 // 4

    def covered(camera: Camera) -> float:
        away = 1.25 * (camera.position - where.centre)
        out = Camera.at(where.centre + away, where.centre + 2 * away, *size, fov=70.0, up=up, near=camera.near)
        return 1 - float(draw(out).transmittance.mean())

    def detail(kind: str) -> float:  # differences of neighbouring pixels, where there is something
        pictures = [draw(c) for c in _placed(where, kind, PROBES, *size, fov, up)]
        differences = sum(float(np.abs(np.diff(p.image.clip(0, 1), axis=i)).mean()) for p in pictures for i in (0, 1))
        return differences / max(sum(1 - float(p.transmittance.mean()) for p in pictures), 1e-6)

    if sum(map(covered, _placed(where, "within", PROBES, *size, fov, up))) / PROBES > COVERED:
        return "within"
    if where.tenth > 0.6 * where.half and detail("inside") > BLUR * detail("orbit"):
        return "inside"
    return "orbit"
