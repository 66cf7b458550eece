"""Cameras that look at a scene of splats: given, or placed around its middle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import InputError

UP = (0.0, -1.0, 0.0)  # scenes from structure-from-motion have y pointing down
RINGS = (-15.0, 10.0, 35.0, 60.0)  # degrees above the horizon


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: ``view`` (4, 4) or (3, 4) float64 takes the scene's coordinates to x right, y down, z forward.

    ``fx, fy, cx, cy`` and ``width, height`` in pixels; the centre of the first pixel lies at (0.5, 0.5). Splats whose centre is nearer
    than ``near`` are not drawn. Raises `InputError` where that is no camera.

    >>> Camera.at((0, 0, -4), (0, 0, 0), 640, 480, fov=60).fy
    415.69...
    """

    view: np.ndarray
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    near: float = 0.2
    name: str = ""

    def __post_init__(self):
        view = np.asarray(self.view, np.float64)
        if view.shape not in ((4, 4), (3, 4)) or not np.isfinite(view).all():
            raise InputError(f"a camera's view is a finite (4, 4) or (3, 4) matrix, not {list(view.shape)}")
        turn = view[:3, :3]
        if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3:
            raise InputError("a camera's view must rotate and shift only; its first three columns are no rotation")
        object.__setattr__(self, "view", view[:3])
        if not (1 <= self.width <= 1 << 14 and 1 <= self.height <= 1 << 14):
            raise InputError(f"a picture has 1 to 16384 pixels a side, not {self.width} x {self.height}")
        if not (0 < self.fx < math.inf and 0 < self.fy < math.inf and 0 <= self.near < math.inf):
            raise InputError(f"focal lengths must be positive and near not negative: {self.fx}, {self.fy}, {self.near}")
        if not (0 < self.cx < self.width and 0 < self.cy < self.height):
            raise InputError(f"the principal point ({self.cx}, {self.cy}) is not on the picture of {self.width} x {self.height}")

    @classmethod
    def at(cls, eye, target, width: int = 800, height: int = 600, *, fov: float = 50.0, up=UP, near: float = 0.2, name: str = ""):
        """The camera at ``eye`` that looks at ``target``; ``fov`` is its vertical field of view in degrees."""
        eye = np.asarray(eye, np.float64)
        forward = _unit(np.asarray(target, np.float64) - eye)
        side = np.cross(forward, np.asarray(up, np.float64))
        if np.linalg.norm(side) < 1e-6:  # looking along up
            side = np.cross(forward, (1.0, 0.0, 0.0) if abs(forward[0]) < 0.9 else (0.0, 0.0, 1.0))
        right = _unit(side)
        turn = np.stack([right, np.cross(forward, right), forward])
        focal = height / 2 / math.tan(math.radians(fov) / 2)
        view = np.concatenate([turn, -(turn @ eye)[:, None]], 1)
        return cls(view, focal, focal, width / 2, height / 2, width, height, near, name)

    @property
    def position(self) -> np.ndarray:
        """Where the camera stands, (3,)."""
        return -self.view[:, :3].T @ self.view[:, 3]

    def resized(self, width: int) -> Camera:
        """The same camera with a picture of this width."""
        by = width / self.width
        height = max(1, round(self.height * by))
        down = height / self.height
        return Camera(self.view, self.fx * by, self.fy * down, self.cx * by, self.cy * down, width, height, self.near, self.name)


def around(scene, views: int = 24, width: int = 800, height: int = 600, *, kind: str = "auto", fov: float = 50.0, up=UP) -> list[Camera]:
    """Cameras that judge a scene: ``views`` of them, the same for the same scene.

    ``kind`` 'orbit' puts them on rings around the robust centre (the median of the opaque splats) and looks at it; 'inside' puts them
    near the centre, looking out; 'auto' takes 'orbit', and both by turns where the middle is empty, as it is in a room. Where a scene
    has a wide background the rings are inside of it. Raises `InputError` for a scene without splats or an unknown kind.
    """
    if kind not in ("auto", "orbit", "inside"):
        raise InputError(f"cameras are placed 'auto', 'orbit' or 'inside', not {kind!r}")
    if views < 1:
        raise InputError(f"at least one view is needed, not {views}")
    centre, radius, hollow = extent(scene)
    distance = 1.05 * radius / math.sin(math.radians(min(fov, fov * width / height)) / 2)
    up = _unit(np.asarray(up, np.float64))
    first = _unit(np.cross(up, (0.0, 0.0, 1.0) if abs(up[2]) < 0.9 else (1.0, 0.0, 0.0)))
    second = np.cross(up, first)
    out = []
    for i in range(views):
        inside = kind == "inside" or (kind == "auto" and hollow and i % 2 == 1)
        ring = i % len(RINGS)
        turn = 360.0 * i / views
        height_, angle = math.radians(RINGS[ring] / (2 if inside else 1)), math.radians(turn)
        aim = math.cos(height_) * (math.cos(angle) * first + math.sin(angle) * second) + math.sin(height_) * up
        name = f"{'inside' if inside else 'orbit'} {turn:.0f}° {math.degrees(height_):+.0f}°"
        if inside:
            out.append(Camera.at(centre - 0.1 * radius * aim, centre + aim * radius, width, height, fov=max(fov, 70.0), up=up,
                                 near=0.02 * radius, name=name))
        else:
            out.append(Camera.at(centre + distance * aim, centre, width, height, fov=fov, up=up, near=0.05 * distance, name=name))
    return out


class Extent(NamedTuple):
    """Robust centre (3,) of a scene, the radius worth a picture, and whether the middle is empty."""

    centre: np.ndarray
    radius: float
    hollow: bool


def extent(scene) -> Extent:
    """Where a scene is: the median of its opaque splats, and how far around it they reach. Raises `InputError` for no splats."""
    p, logit = np.asarray(scene.positions, np.float64), np.asarray(scene.opacity, np.float64)
    good = np.isfinite(p).all(1) & np.isfinite(logit)
    solid = good & (logit > 0)
    p = p[solid if solid.sum() >= min(100, good.sum()) else good]
    if not len(p):
        raise InputError("cameras cannot be placed: the scene has no splats with finite positions")
    centre = np.median(p, 0)
    r = np.linalg.norm(p - centre, axis=1)
    tenth, half, most = np.quantile(r, [0.1, 0.5, 0.9])
    radius = 0.4 * half if most > 2 * half else most  # long tails: a subject before a background, seen from within
    return Extent(centre, float(max(radius, 1e-6 * max(np.abs(centre).max(), 1.0))), bool(tenth > 0.6 * half and len(p) >= 200))


def _unit(v: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(v)
    if not length > 0:
        raise InputError("a camera's eye and target, and its up, must differ")
    return v / length
