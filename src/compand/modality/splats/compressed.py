"""Compressed PLY of PlayCanvas and SuperSplat: chunks of 256 splats with ranges, four 32-bit words a splat, harmonics as bytes.

Source: the description of the format in PlayCanvas's user manual ("Compressed PLY").
"""

from __future__ import annotations

import re

import numpy as np

from ...errors import FormatError
from .packed import from_three, logit
from .ply import Element
from .splats import REST, SH_C0, Splats

CHUNK = 256
WORDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


def is_compressed(tables: dict[str, Element]) -> bool:
    """Whether these are the tables of a compressed PLY."""
    return "chunk" in tables and "vertex" in tables and set(WORDS) <= set(tables["vertex"].dtype.names or ())


def _unit(words: np.ndarray, shift: int, bits: int) -> np.ndarray:
    return ((words >> np.uint32(shift)) & np.uint32((1 << bits) - 1)).astype(np.float32) / np.float32((1 << bits) - 1)


def _thirds(words: np.ndarray) -> np.ndarray:
    return np.stack([_unit(words, 21, 11), _unit(words, 11, 10), _unit(words, 0, 11)], 1)


def decode(chunks: np.ndarray, vertices: np.ndarray, harmonics: np.ndarray | None, path) -> Splats:
    """The scene of the three tables (structured arrays). Raises `FormatError` if they do not belong together."""
    n = len(vertices)
    names = set(chunks.dtype.names or ())
    if len(chunks) != -(-n // CHUNK):
        raise FormatError(f"{path}: {len(chunks):,} chunks of {CHUNK} for {n:,} splats")
    of = np.arange(n) // CHUNK

    def ranged(values: np.ndarray, what: list[str]) -> np.ndarray:
        low, high = ([f"{end}_{w}" for w in what] for end in ("min", "max"))
        if not names.issuperset(low + high):
            raise FormatError(f"{path}: the chunks have no {', '.join(low)}")
        a, b = (np.stack([chunks[w].astype(np.float32) for w in ws], 1)[of] for ws in (low, high))
        with np.errstate(all="ignore"):
            return a + values * (b - a)

    words = {w: vertices[w].astype(np.uint32) for w in WORDS}
    turn = words["packed_rotation"]
    three = np.stack([_unit(turn, s, 10) - 0.5 for s in (20, 10, 0)], 1) * np.sqrt(2)
    packed = words["packed_color"]
    rgb = np.stack([_unit(packed, s, 8) for s in (24, 16, 8)], 1)
    if "min_r" in names:
        rgb = ranged(rgb, ["r", "g", "b"])
    rest = None
    if harmonics is not None:
        columns = [w for w in harmonics.dtype.names or () if re.fullmatch(r"f_rest_\d+", w)]
        d = len(columns)
        if d not in [3 * k for k in REST.values()] or len(harmonics) != n or any(f"f_rest_{i}" not in columns for i in range(d)):
            raise FormatError(f"{path}: {d} columns and {len(harmonics):,} rows of harmonics for {n:,} splats")
        q = np.stack([harmonics[f"f_rest_{c * (d // 3) + k}"] for k in range(d // 3) for c in range(3)], 1).astype(np.float32)
        rest = (np.where(q == 0, 0, np.where(q == 255, 1, (q + np.float32(0.5)) / 256)) - np.float32(0.5)) * 8
    return Splats(positions=ranged(_thirds(words["packed_position"]), ["x", "y", "z"]), sh0=(rgb - np.float32(0.5)) / np.float32(SH_C0),
                  scales=ranged(_thirds(words["packed_scale"]), ["scale_x", "scale_y", "scale_z"]),
                  rotations=from_three((turn >> np.uint32(30)).astype(np.int64), three), opacity=logit(_unit(packed, 0, 8)), sh_rest=rest)
