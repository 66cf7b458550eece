"""A camera that looks at a scene of splats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

UP = (0.0, -1.0, 0.0)  # scenes from structure-from-motion have y pointing down


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
        forward = unit(np.asarray(target, np.float64) - eye)
        side = np.cross(forward, np.asarray(up, np.float64))
        if np.linalg.norm(side) < 1e-6:  # looking along up
            side = np.cross(forward, (1.0, 0.0, 0.0) if abs(forward[0]) < 0.9 else (0.0, 0.0, 1.0))
        right = unit(side)
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


def unit(v: np.ndarray) -> np.ndarray:
    """A vector of length one in the same direction."""
    length = np.linalg.norm(v)
    if not length > 0:
        raise InputError("a camera's eye and target, and its up, must differ")
    return v / length
