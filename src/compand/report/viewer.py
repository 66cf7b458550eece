"""A page that shows a scene of splats, turning: self-contained, drawn in the browser by a bundled renderer (tools/viewer)."""

from __future__ import annotations

import base64
import gzip
import json
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from ..op.camera import UP, Camera
from ..op.placement import extent

FOV = 50.0
POLICY = ("default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; worker-src blob:; style-src 'unsafe-inline'; "
          "img-src data: blob:; connect-src data: blob:")  # the browser itself refuses whatever is not in the page
STYLE = """
html,body{margin:0;height:100%;background:#000;overflow:hidden;font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
canvas{display:block;cursor:grab;touch-action:none}canvas:active{cursor:grabbing}
#panel{position:fixed;left:16px;bottom:16px;padding:10px 14px;border-radius:10px;background:#0009;color:#e9eaed;max-width:44ch}
#panel b{font-weight:620;overflow-wrap:anywhere}#panel span{display:block;color:#a9b0ba;font-size:12.5px}
#message{position:fixed;inset:0;display:grid;place-items:center;color:#a9b0ba;pointer-events:none}
"""


def splat_page(scene, title: str, lines: list[str] | None = None, *, camera: Camera | None = None, up=UP) -> str:
    """HTML that draws a scene (as in `compand.op.render`) and turns around it, first seen from ``camera``.

    Values are rounded to what the renderer keeps of them: float16 positions about the middle, 8 bits for scales, colours and harmonics (to
    degree 3). The page asks for nothing from outside. Raises `InputError` for a scene without splats.
    """
    middle = extent(scene)
    if camera is None:
        distance = 1.2 * middle.radius / np.sin(np.radians(FOV) / 2)
        upward = np.asarray(up, np.float64) / np.linalg.norm(up)
        aside = np.cross(upward, [0.6, 0.8, 0.0] if abs(upward[2]) > 0.5 else [-0.5, 0.0, 0.9])  # a quarter from the front of most objects
        aim = aside / np.linalg.norm(aside) + 0.25 * upward
        camera = Camera.at(middle.centre + distance * aim / np.linalg.norm(aim), middle.centre, up=up, fov=FOV)
    distance = float(np.linalg.norm(camera.position - middle.centre)) or 1.0
    planes, facts = _planes(scene, middle.centre)
    facts |= {"eye": (camera.position - middle.centre).tolist(), "target": [0, 0, 0], "up": list(up), "near": distance / 200,
              "far": distance * 500, "fov": float(np.degrees(2 * np.arctan(camera.height / 2 / camera.fy)))}
    script = gzip.decompress(resources.files("compand").joinpath("report", "viewer.js.gz").read_bytes()).decode()
    said = "".join(f"<span>{escape(line)}</span>" for line in lines or [])
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            f'<title>{escape(title)}</title><meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<style>{STYLE}</style></head>"
            f'<body data-state="loading"><div id="message"></div><div id="panel"><b>{escape(title)}</b>{said}'
            "<span>drag: turn · right drag: move · wheel: zoom · space: stop or go on · r: back to the start · h: hide this</span></div>"
            f'<script type="application/json" id="facts">{json.dumps(facts).replace("<", chr(92) + "u003c")}</script>'
            f'<script type="text/plain" id="scene">{base64.b64encode(gzip.compress(planes, 6, mtime=0)).decode()}</script>'
            f'<script type="module">{script}</script></body></html>\n')


def _planes(scene, centre: np.ndarray) -> tuple[bytes, dict[str, Any]]:
    """The arrays as tools/viewer/viewer.js reads them, and what it must know of them; splats that are not finite are left out."""
    n = len(scene.positions)
    names = ("positions", "scales", "rotations", "opacity", "sh0", "sh_rest")
    arrays = [np.asarray(getattr(scene, k), np.float32).reshape(n, -1) for k in names]
    good = np.logical_and.reduce([(~np.isnan(x) if k == "opacity" else np.isfinite(x)).all(1) for k, x in zip(names, arrays, strict=True)])
    p, scales, turn, logit, sh0, rest = (x[good] for x in arrays)
    alpha = 1 / (1 + np.exp(-np.clip(logit, -80, 80)))
    colour = 0.5 + 0.28209479177387814 * sh0
    length = np.linalg.norm(turn, axis=1, keepdims=True)
    turn = np.where(length > 0, turn / np.where(length > 0, length, 1), np.array([1, 0, 0, 0], np.float32))[:, [1, 2, 3, 0]]
    low, high = (float(scales.min(initial=0)), float(scales.max(initial=0))) if scales.size else (-12.0, 9.0)
    high = max(high, low + 1e-3)
    dark, bright = (float(x) for x in np.quantile(colour, np.array([0.001, 0.999]))) if colour.size else (0.0, 1.0)
    dark, bright = min(dark, 0.0), max(bright, 1.0)
    out = [np.clip(p - centre, -65504, 65504).astype("<f2"), np.rint(turn * 32767).astype("<i2"),
           np.rint((scales - low) / (high - low) * 255).astype(np.uint8),
           np.rint(np.clip(np.concatenate([(colour - dark) / (bright - dark), alpha], 1), 0, 1) * 255).astype(np.uint8)]
    most, at = [], 0
    for degree in range(1, 4):
        x = rest[:, at:at + 3 * (2 * degree + 1)]
        at += 3 * (2 * degree + 1)
        if x.shape[1] and x.any():
            largest = float(np.quantile(np.abs(x), 0.9999)) or float(np.abs(x).max())
        elif x.shape[1] and rest[:, at:].any():
            largest = 1.0
        else:
            break
        most.append(largest)
        out.append(np.rint(np.clip(x / largest, -1, 1) * 127).astype(np.int8))
    facts = {"splats": len(p), "scales": [low, high], "colours": [dark, bright], "sh": most}
    return b"".join(np.ascontiguousarray(x.T).tobytes() for x in out), facts
