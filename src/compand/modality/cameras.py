"""Cameras from files: the cameras.json of Gaussian-splatting trainers, or an .npz of view and lens matrices."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, InputError
from ..op.camera import Camera
from .source import Mapped

MOST = 1 << 26  # bytes of a JSON file


def read_cameras(path) -> list[Camera]:
    """Cameras of a file, in its order.

    JSON: a list of objects with ``position`` (3), ``rotation`` (3, 3) from the camera's axes to the scene's, ``fx``, ``fy``, ``width``,
    ``height`` and perhaps ``img_name``, as INRIA's trainer writes it. NPZ: ``viewmats`` (n, 4, 4) world to camera, ``Ks`` (n, 3, 3), and
    perhaps ``width`` and ``height``, else twice the principal point. Raises `FormatError` for anything else.
    """
    path = Path(path)
    file = Mapped(path)
    if file.size > MOST:
        raise FormatError(f"{path}: {file.size:,} bytes are too many for cameras")
    if file.size >= 4 and file.bytes(0, 4) == b"PK\x03\x04":
        cameras = _npz(path)
    else:
        try:
            rows = json.loads(file.bytes(0, file.size))
        except (ValueError, RecursionError) as e:
            raise FormatError(f"{path}: neither JSON nor .npz: {e}") from None
        if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
            raise FormatError(f"{path}: cameras are a list of objects with position, rotation, fx, fy, width and height")
        cameras = [_camera(path, i, r) for i, r in enumerate(rows)]
    if not cameras:
        raise FormatError(f"{path}: no cameras")
    return cameras


def _camera(path: Path, i: int, row: dict[str, Any]) -> Camera:
    try:
        turn, place = np.asarray(row["rotation"], np.float64), np.asarray(row["position"], np.float64)
        fx, fy, width, height = (float(row[k]) for k in ("fx", "fy", "width", "height"))
        if turn.shape != (3, 3) or place.shape != (3,) or not all(map(math.isfinite, (fx, fy, width, height))):
            raise ValueError("rotation must be (3, 3), position (3), and all numbers finite")
        view = np.concatenate([turn.T, -(turn.T @ place)[:, None]], 1)
        return Camera(view, fx, fy, width / 2, height / 2, int(width), int(height), name=str(row.get("img_name", i))[:80])
    except KeyError as e:
        raise FormatError(f"{path}: camera {i} has no {e.args[0]!r}") from None
    except (TypeError, ValueError, OverflowError) as e:
        raise FormatError(f"{path}: camera {i}: {e}") from None


def _npz(path: Path) -> list[Camera]:
    from .npz import Npz

    with Npz(path) as source:
        items = {i.name: i for i in source.items()}
        if not {"viewmats", "Ks"} <= set(items):
            raise FormatError(f"{path}: an .npz of cameras has viewmats (n, 4, 4) and Ks (n, 3, 3); this has {', '.join(list(items)[:6])}")
        views, lenses = (np.asarray(items[k].load(), np.float64) for k in ("viewmats", "Ks"))
        size = [items[k].load().ravel()[0] if k in items and items[k].size else 0 for k in ("width", "height")]
    if views.ndim != 3 or views.shape[1:] != (4, 4) or lenses.shape != (len(views), 3, 3) or not np.isfinite(lenses).all():
        raise FormatError(f"{path}: viewmats {list(views.shape)} and Ks {list(lenses.shape)} are no cameras")
    try:
        width, height = map(int, size)
        return [Camera(v, k[0, 0], k[1, 1], k[0, 2], k[1, 2], width or round(2 * k[0, 2]), height or round(2 * k[1, 2]), name=str(i))
                for i, (v, k) in enumerate(zip(views, lenses, strict=True))]
    except (InputError, OverflowError, TypeError, ValueError) as e:
        raise FormatError(f"{path}: {e}") from None
