"""Two scenes of splats, judged by their pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..metric import psnr, ssim
from .render import Camera, Renderer, around

SEEN = 0.99  # a pixel shows the scene where less than this of the background is left


class View(NamedTuple):
    """Two scenes from one camera. ``psnr`` over the whole picture, ``psnr_seen`` over the pixels where the first scene is; ``a`` and ``b``
    the pictures, (height, width, 3) uint8."""

    camera: Camera
    psnr: float
    psnr_seen: float
    ssim: float
    a: np.ndarray | None
    b: np.ndarray | None


def views(a, b, cameras: Sequence[Camera] | None = None, *, background=(0.0, 0.0, 0.0)) -> Iterator[View]:
    """Two scenes (as in `compand.op.render`) drawn and compared from each camera; by default 24 of 640 x 480 around the first."""
    cameras = around(a, 24, 640, 480) if cameras is None else cameras
    first, second = Renderer(a), Renderer(b)
    for camera in cameras:
        x, y = first(camera, background), second(camera, background)
        where = x.transmittance < SEEN
        yield View(camera, psnr(x.image, y.image), psnr(x.image, y.image, where=where), ssim(x.image, y.image),
                   x.bytes, y.bytes)


def summary(compared: Sequence[View]) -> dict[str, Any]:
    """Means and worst of views: ``psnr``, ``psnr_min``, ``psnr_seen``, ``ssim``, ``ssim_min``, ``worst`` and one row a view."""
    if not compared:
        raise InputError("no views to compare")
    rows = [{"camera": v.camera.name or str(i), "width": v.camera.width, "height": v.camera.height, "psnr": v.psnr,
             "psnr_seen": v.psnr_seen, "ssim": v.ssim} for i, v in enumerate(compared)]
    seen = [v.psnr_seen for v in compared if not math.isnan(v.psnr_seen)]
    worst = min(range(len(rows)), key=lambda i: compared[i].psnr)
    return {"psnr": sum(v.psnr for v in compared) / len(rows), "psnr_min": rows[worst]["psnr"],
            "psnr_seen": sum(seen) / len(seen) if seen else math.nan, "ssim": sum(v.ssim for v in compared) / len(rows),
            "ssim_min": min(v.ssim for v in compared), "worst": rows[worst]["camera"], "views": rows}


def render_quality(a, b, cameras: Sequence[Camera] | None = None, *, background=(0.0, 0.0, 0.0)) -> dict[str, Any]:
    """PSNR and SSIM of the pictures of b against those of a, by view, their means and the worst; see `views` and `summary`.

    The pictures of a scene are compared with those of another scene, not with photographs; PSNR is the mean of that of the views.

    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> g = np.random.default_rng(0)
    >>> s = SimpleNamespace(positions=g.normal(size=(300, 3)), scales=g.normal(-2, 0.5, (300, 3)), rotations=g.normal(size=(300, 4)),
    ...                     opacity=g.normal(size=300), sh0=g.normal(size=(300, 3)), sh_rest=np.zeros((300, 0)))
    >>> other = SimpleNamespace(**{**vars(s), "sh0": s.sh0 + 0.02})
    >>> 30 < render_quality(s, other, around(s, 2, 64, 48))["psnr"] < 60
    True
    """
    kept = [v._replace(a=None, b=None) for v in views(a, b, cameras, background=background)]  # pictures of all views may not fit
    return summary(kept)
