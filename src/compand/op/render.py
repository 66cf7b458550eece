"""Pictures of 3D Gaussian splats on the CPU.

    from compand.op.render import Camera, Renderer, around
    renderer = Renderer(scene)
    pictures = [renderer(camera).image for camera in around(scene)]

A scene is anything with the arrays of `compand.modality.splats.Splats`. EWA projection (Zwicker, Pfister, van Baar, Gross 2001) and
the conventions of Kerbl, Kopanas, Leimkuehler, Drettakis 2023: 0.3 square pixels are added to a projected covariance, alpha is at most
0.99 and left out below 1/255, a pixel is closed before its transmittance falls below 1e-4, splats are sorted by the depth of
their centres. Unlike there, a footprint ends where alpha falls below 1/255 and not at the tiles that meet 3 sigma. Splats that are not
finite are not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .. import _native
from ..errors import InputError
from .camera import UP, Camera
from .placement import around

__all__ = ["UP", "Camera", "Picture", "Renderer", "around", "render"]


class Picture(NamedTuple):
    """``image`` (height, width, 3) float32 linear in the splats' colours, from 0 upwards; ``transmittance`` (height, width) float32:
    the share of the background that is seen; ``weights`` (n,) float64 or None: the sum over pixels of alpha times transmittance."""

    image: np.ndarray
    transmittance: np.ndarray
    weights: np.ndarray | None

    @property
    def bytes(self) -> np.ndarray:
        """The image as uint8, (height, width, 3)."""
        return np.rint(np.clip(self.image, 0.0, 1.0) * 255).astype(np.uint8)


class Renderer:
    """Draws one scene any number of times: covariances are computed once. Results are the same bits on every machine.

    ``scene`` has float32 arrays ``positions`` (n, 3), ``scales`` (n, 3) log, ``rotations`` (n, 4) wxyz, ``opacity`` (n,) logit,
    ``sh0`` (n, 3) and ``sh_rest`` (n, 3 K). Raises `InputError` where they do not fit together.

    >>> from types import SimpleNamespace
    >>> one = SimpleNamespace(positions=np.zeros((1, 3)), scales=np.full((1, 3), -1.0), rotations=np.eye(4)[:1], opacity=np.full(1, 9.0),
    ...                       sh0=np.full((1, 3), 0.5), sh_rest=np.zeros((1, 0)))
    >>> picture = Renderer(one)(Camera.at((0, 0, -4), (0, 0, 0), 64, 48))
    >>> picture.image.shape, picture.bytes[24, 32].tolist()
    ((48, 64, 3), [162, 162, 162])
    """

    def __init__(self, scene):
        n = len(scene.positions)
        self.positions = _array(scene, "positions", (n, 3))
        self.sh0 = _array(scene, "sh0", (n, 3))
        rest = np.ascontiguousarray(scene.sh_rest, np.float32)
        if rest.ndim not in (2, 3) or len(rest) != n or rest.size % max(3 * n, 1):
            raise InputError(f"splats: sh_rest is {list(rest.shape)}, {n:,} splats need [{n}, 3 K]")
        rest = rest.reshape(n, -1, 3) if n else np.zeros((0, 0, 3), np.float32)
        if rest.shape[1] not in (0, 3, 8, 15, 24):
            raise InputError(f"splats: sh_rest has {rest.shape[1]} coefficients; degrees 0 to 4 have 0, 3, 8, 15 or 24")
        self.rest = rest
        self.shapes = _native.splat_prepare(_array(scene, "scales", (n, 3)), _array(scene, "rotations", (n, 4)),
                                            _array(scene, "opacity", (n,)))

    def __call__(self, camera: Camera, background: Iterable[float] = (0.0, 0.0, 0.0), *, weights: bool = False) -> Picture:
        """The picture of a camera over a colour; ``weights`` asks for what each splat gave to it."""
        lens = np.concatenate([camera.view.ravel(), [camera.fx, camera.fy, camera.cx, camera.cy, camera.near]])
        behind = np.array(tuple(background), np.float32)
        if behind.shape != (3,) or not np.isfinite(behind).all():
            raise InputError(f"a background is three finite values, not {behind}")
        image, transmittance, given = _native.splat_render(self.positions, self.shapes, self.sh0, self.rest, lens, camera.width,
                                                           camera.height, behind, weights)
        return Picture(image, transmittance, given if weights else None)


def render(scene, camera: Camera, background: Iterable[float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """One picture (height, width, 3) float32 of a scene; see `Renderer` for several."""
    return Renderer(scene)(camera, background).image


def _array(scene, name: str, shape: tuple[int, ...]) -> np.ndarray:
    x = np.ascontiguousarray(getattr(scene, name), np.float32)
    if x.shape != shape:
        raise InputError(f"splats: {name} is {list(x.shape)}, {shape[0]:,} splats need {list(shape)}")
    return x
