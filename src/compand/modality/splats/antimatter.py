""".splat: 32 bytes a splat, no harmonics (the format of antimatter15's viewer)."""

from __future__ import annotations

import numpy as np

from ...errors import FormatError
from ...limits import Limits
from ..source import Mapped
from .packed import alpha_of, logit, unit
from .splats import SH_C0, Splats

ROW = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("rotation", "u1", 4)])


def read(file: Mapped, limits: Limits) -> Splats:
    """The scene of a mapped .splat. It has no magic: `FormatError` where its bytes cannot be one."""
    if file.size % ROW.itemsize:
        raise FormatError(f"{file.path}: {file.size:,} bytes are no whole number of {ROW.itemsize}-byte splats")
    limits.check("allocation", 2 * file.size, str(file.path))
    rows = file.array(0, "uint8", (file.size,)).view(ROW)
    with np.errstate(invalid="ignore"):
        if not (np.isfinite(rows["position"]).all() and (rows["scale"] >= 0).all() and np.isfinite(rows["scale"]).all()):
            raise FormatError(f"{file.path}: not a .splat: positions or scales are no numbers")
    return Splats(positions=rows["position"], scales=np.log(np.maximum(rows["scale"], 1e-20)),
                  rotations=(rows["rotation"].astype(np.float32) - 128) / 128, opacity=logit(rows["color"][:, 3] / 255),
                  sh0=(rows["color"][:, :3].astype(np.float32) / 255 - 0.5) / np.float32(SH_C0))


def write(out, scene: Splats) -> None:
    """Write a scene to an open file, the splats that matter most first; harmonics are left out."""
    alpha = alpha_of(scene.opacity)
    order = np.argsort(-alpha * np.exp(np.clip(scene.scales.sum(1, dtype=np.float64), -200, 80)), kind="stable")
    rows = np.zeros(len(scene), ROW)
    rows["position"], rows["scale"] = scene.positions, np.exp(np.clip(scene.scales, -80, 80))
    rgb = 0.5 + SH_C0 * scene.sh0.astype(np.float64)
    rows["color"] = np.rint(np.clip(np.concatenate([rgb, alpha[:, None]], 1), 0, 1) * 255)
    rows["rotation"] = np.clip(np.rint(unit(scene.rotations) * 128 + 128), 0, 255)
    out.write(rows[order].data)
