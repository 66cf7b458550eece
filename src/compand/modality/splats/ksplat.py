"""KSPLAT (mkkellogg's GaussianSplats3D), levels 0 to 2: sections of splats, positions of levels 1 and 2 in buckets.

Source: the layout that viewer documents for its SplatBuffer, version 0.1.
"""

from __future__ import annotations

import struct

import numpy as np

from ...errors import FormatError, UnsupportedError
from ...limits import Limits
from ..source import Mapped
from .packed import logit
from .splats import REST, SH_C0, Splats

HEADER, SECTION, MOST_SECTIONS = 4096, 1024, 4096


def read(file: Mapped, limits: Limits) -> Splats:
    """The scene of a mapped .ksplat. Raises `FormatError`, `UnsupportedError`."""
    head = file.bytes(0, HEADER)
    if head[0] != 0 or head[1] < 1:
        raise UnsupportedError(f"{file.path}: KSPLAT version {head[0]}.{head[1]}; known is 0.1")
    most, sections, _, total, level = struct.unpack_from("<IIIIH", head, 4)
    low, high = struct.unpack_from("<ff", head, 36)
    if level > 2 or sections > most or most > MOST_SECTIONS:
        raise FormatError(f"{file.path}: compression level {level}, {sections} of {most} sections")
    low, high = (-1.5, 1.5) if low == high == 0 else (low, high)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise FormatError(f"{file.path}: harmonics range from {low} to {high}")
    at, found = HEADER + most * SECTION, []
    limits.check("allocation", 240 * total, f"{file.path}: {total:,} splats")
    for i in range(sections):
        scene, at = _section(file, HEADER + i * SECTION, at, level, low, high, limits)
        found.append(scene)
    n = sum(len(s) for s in found)
    if n != total:
        raise FormatError(f"{file.path}: sections hold {n:,} splats, the header says {total:,}")
    degree = max((s.degree for s in found), default=0)
    parts = [s.with_degree(degree).arrays() for s in found]
    if not parts:
        return Splats(*(np.zeros((0, d)) for d in (3, 3, 4)), np.zeros(0), np.zeros((0, 3)))
    return Splats(**{k: np.concatenate([p[k] for p in parts]) for k in parts[0]})


def _section(file: Mapped, header: int, at: int, level: int, low: float, high: float, limits: Limits) -> tuple[Splats, int]:
    head = file.bytes(header, SECTION)
    n, room, size, buckets, block, stored, span = struct.unpack_from("<IIIIfHxxI", head)
    full, partial, degree = struct.unpack_from("<IIH", head, 32)
    if n > room or degree > 2 or (level and (not size or not span or not np.isfinite(block) or stored != 12 or full + partial > buckets)):
        raise FormatError(f"{file.path}: a section of {n:,} splats, {buckets:,} buckets, harmonics of degree {degree}")
    float_, part = (np.float32, 4) if level == 0 else (np.float16, 2)
    wide = [12, 12, 16, 4] if level == 0 else [6, 6, 8, 4]
    k = 3 * REST[degree]
    row = sum(wide) + k * (1 if level == 2 else part)
    lengths = file.array(at, "uint8", (4 * partial,)).view("<u4").astype(np.int64)
    at += 4 * partial
    centers = file.array(at, "uint8", (stored * buckets,)).view("<f4").reshape(-1, 3) if level else None
    at += stored * buckets
    limits.check("allocation", n * row, str(file.path))
    data = file.array(at, "uint8", (n * row,)).reshape(n, row)
    at += room * row

    def columns(start: int, count: int, dtype) -> np.ndarray:
        size = np.dtype(dtype).itemsize
        return np.ascontiguousarray(data[:, start:start + count * size]).view(dtype).reshape(n, count).astype(np.float32)

    ends = np.cumsum([0, *wide])
    with np.errstate(all="ignore"):
        if centers is None:
            positions = columns(0, 3, np.float32)
        else:
            if full * size + int(lengths.sum()) < n or (partial and int(lengths.max()) > size):
                raise FormatError(f"{file.path}: buckets hold fewer splats than the section")
            rows = np.arange(n)
            of = np.where(rows < full * size, rows // size, full + np.searchsorted(np.cumsum(lengths), rows - full * size, side="right"))
            positions = (columns(0, 3, np.uint16) - span) * np.float32(block / 2 / span) + centers[of]
        scales = np.log(np.maximum(columns(ends[1], 3, float_), np.float32(1e-20)))
        rest = columns(ends[4], k, np.uint8 if level == 2 else float_)
        rest = low + rest / 255 * (high - low) if level == 2 else rest
    rgba = data[:, ends[3]:ends[4]].astype(np.float32) / 255
    # three of red, three of green, three of blue for degree 1; then five and five and five
    place = [c * 3 + j for j in range(3) for c in range(3)] + [9 + c * 5 + j for j in range(5) for c in range(3)]
    return Splats(positions=positions, scales=scales, rotations=columns(ends[2], 4, float_), opacity=logit(rgba[:, 3]),
                  sh0=(rgba[:, :3] - np.float32(0.5)) / np.float32(SH_C0), sh_rest=rest[:, place[:k]]), at
