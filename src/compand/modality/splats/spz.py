"""SPZ (Niantic), versions 1 to 4: attributes in fixed steps, compressed with gzip (1 to 3) or as zstd streams (4).

Source: the format's published description (README of nianticlabs/spz). Its axes are right-up-back; ours are right-down-front.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import numpy as np

from ...errors import CorruptError, FormatError, UnsupportedError
from ...limits import Limits
from ..source import Mapped
from .packed import alpha_of, from_three, half_turn, logit, to_three, unit
from .splats import REST, Splats

MAGIC, GZIP = b"NGSP", b"\x1f\x8b"
EXPANSION = 4096  # decoded bytes for each of a stream, beyond 64 KiB
_COLOR = 0.15     # colours are stored as 0.5 + 0.15 sh0


def sizes(version: int, n: int, degree: int) -> list[int]:
    """Bytes of positions, alphas, colours, scales, rotations, harmonics."""
    return [n * (6 if version == 1 else 9), n, 3 * n, 3 * n, n * (4 if version >= 3 else 3), 3 * REST[degree] * n]


def _zstd():
    try:
        import zstandard
    except ImportError:
        raise UnsupportedError("SPZ version 4 needs the package zstandard: pip install 'compand[splats]'") from None
    return zstandard


def _check(file: Mapped, version: int, n: int, degree: int, limits: Limits) -> list[int]:
    if degree not in REST:
        raise FormatError(f"{file.path}: harmonics of degree {degree}")
    need = sizes(version, n, degree)
    limits.check("allocation", 4 * n * (14 + 3 * REST[degree]), f"{file.path}: {n:,} splats")
    if sum(need) > EXPANSION * file.size + (1 << 16):
        raise FormatError(f"{file.path}: {file.size:,} bytes cannot hold {n:,} splats")
    return need


def _streams(file: Mapped, limits: Limits) -> tuple[int, int, int, list[bytes]]:
    """Version, degree, fraction bits, and the bytes of the six attributes."""
    if file.bytes(0, 4) != MAGIC:
        return _gzipped(file, limits)
    _, version, n, degree, bits, flags, count, at = struct.unpack("<4sIIBBBBI", file.bytes(0, 20))
    if version != 4:
        raise UnsupportedError(f"{file.path}: SPZ version {version}; known are 1 to 4")
    need = _check(file, version, n, degree, limits)
    if flags & 2:
        raise UnsupportedError(f"{file.path}: SPZ with vendor extensions, which may change its axes; write it without")
    if count not in (5, 6) or (count == 5 and degree):
        raise FormatError(f"{file.path}: {count} streams for harmonics of degree {degree}")
    table = struct.unpack(f"<{2 * count}Q", file.bytes(at, 16 * count))
    at += 16 * count
    parts, zstandard = [], _zstd()
    for stored, size, want in zip(table[::2], table[1::2], need, strict=False):
        if size != want or size > EXPANSION * stored + (1 << 16):
            raise FormatError(f"{file.path}: a stream of {size:,} bytes where {want:,} belong")
        try:
            with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file.bytes(at, stored)) as reader:
                data = reader.read(size)
                more = reader.read(1)
        except zstandard.ZstdError as e:
            raise CorruptError(f"a zstd stream: {e}", path=file.path) from None
        if len(data) != size or more:
            raise CorruptError(f"a stream does not hold {size:,} bytes", path=file.path)
        parts.append(data)
        at += stored
    return version, degree, bits, parts + [b""] * (6 - count)


def _gzipped(file: Mapped, limits: Limits) -> tuple[int, int, int, list[bytes]]:
    machine = zlib.decompressobj(31)
    try:
        head = machine.decompress(file.bytes(0, file.size), 16)
        if len(head) < 16 or head[:4] != MAGIC:
            raise FormatError(f"{file.path}: a gzip of something else than SPZ")
        _, version, n, degree, bits, _, _ = struct.unpack("<4sIIBBBB", head)
        if not 1 <= version <= 3:
            raise UnsupportedError(f"{file.path}: SPZ version {version} in gzip; known are 1 to 3")
        need = _check(file, version, n, degree, limits)
        body = machine.decompress(machine.unconsumed_tail, sum(need) + 1)
    except zlib.error as e:
        raise CorruptError(f"gzip: {e}", path=file.path) from None
    if len(body) != sum(need) or not machine.eof:
        raise CorruptError(f"{len(body):,} bytes of splats where {sum(need):,} belong", path=file.path)
    ends = np.cumsum([0, *need])
    return version, degree, bits, [body[a:b] for a, b in itertools.pairwise(ends)]


def read(file: Mapped, limits: Limits) -> Splats:
    """The scene of a mapped SPZ. Raises `FormatError`, `CorruptError`, `UnsupportedError`."""
    version, degree, bits, parts = _streams(file, limits)
    places, alphas, colors, scales, turns, rest = (np.frombuffer(p, np.uint8) for p in parts)
    n = len(alphas)
    if version == 1:
        positions = places.view("<f2").reshape(n, 3).astype(np.float32)
    else:
        if bits > 24:
            raise FormatError(f"{file.path}: {bits} bits of fraction in positions of 24")
        b = places.reshape(n, 3, 3).astype(np.int32)
        fixed = b[..., 0] | b[..., 1] << 8 | b[..., 2] << 16
        positions = ((fixed ^ 1 << 23) - (1 << 23)).astype(np.float32) / np.float32(1 << bits)
    if version >= 3:
        word = turns.view("<u4").astype(np.int64)
        largest = word >> 30
        three = np.empty((n, 3))
        for i in range(3):
            v = word >> 10 * (2 - i)
            three[:, i] = np.where(v & 512, -1, 1) * (v & 511) * (np.sqrt(0.5) / 511)
        xyzw = from_three(largest, three)
    else:
        xyz = turns.reshape(n, 3).astype(np.float32) / np.float32(127.5) - 1
        xyzw = np.concatenate([xyz, np.sqrt(np.maximum(0, 1 - (xyz * xyz).sum(1, keepdims=True)))], 1)
    k = 3 * REST[degree]
    positions, rotations, rest = half_turn(positions, xyzw[:, [3, 0, 1, 2]], (rest.reshape(n, k).astype(np.float32) - 128) / 128)
    return Splats(positions=positions, rotations=rotations, sh_rest=rest, opacity=logit(alphas / 255),
                  scales=scales.reshape(n, 3).astype(np.float32) / 16 - 10,
                  sh0=(colors.reshape(n, 3).astype(np.float32) / 255 - np.float32(0.5)) / np.float32(_COLOR))


def write(out, scene: Splats, *, version: int = 4, fraction: int | None = None, bits: tuple[int, int] = (5, 4)) -> None:
    """Write a scene to an open file, version 3 or 4.

    ``fraction``: binary digits of positions after the point (12 unless the scene is too wide). ``bits`` of harmonics of degree 1 and
    above, as other writers choose them.
    """
    n = len(scene)
    positions, turns, rest = half_turn(scene.positions, unit(scene.rotations), scene.sh_rest)
    wide = float(np.abs(positions).max(initial=0))
    if fraction is None:
        fraction = next((f for f in range(12, 0, -1) if wide * 2 ** f < (1 << 23) - 1), 0)
    fixed = np.clip(np.rint(positions.astype(np.float64) * 2 ** fraction), -(1 << 23), (1 << 23) - 1).astype(np.int32)
    places = np.stack([fixed >> s & 255 for s in (0, 8, 16)], -1).astype(np.uint8)
    largest, three = to_three(turns[:, [1, 2, 3, 0]])
    word = largest.astype(np.uint32) << 30
    for i in range(3):
        size = np.minimum(np.rint(np.abs(three[:, i]) * (511 / np.sqrt(0.5))), 511).astype(np.uint32)
        word |= (size | np.where(three[:, i] < 0, 512, 0).astype(np.uint32)) << np.uint32(10 * (2 - i))

    def byte(x: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(x), 0, 255).astype(np.uint8)

    buckets = np.repeat([1 << (8 - (bits[0] if j < 3 else bits[1])) for j in range(rest.shape[1] // 3)], 3)
    q = np.rint(rest.astype(np.float64) * 128) + 128
    q = byte(np.floor((q + buckets / 2) / buckets) * buckets) if rest.size else np.zeros((n, 0), np.uint8)
    color = byte((scene.sh0.astype(np.float64) * _COLOR + 0.5) * 255)
    parts = [places, byte(alpha_of(scene.opacity) * 255), color, byte((scene.scales.astype(np.float64) + 10) * 16), word.astype("<u4"), q]
    streams = [np.ascontiguousarray(p).tobytes() for p in parts]
    if version == 3:
        data = struct.pack("<4sIIBBBB", MAGIC, 3, n, scene.degree, fraction, 0, 0) + b"".join(streams)
        machine = zlib.compressobj(6, zlib.DEFLATED, 31)
        out.write(machine.compress(data) + machine.flush())
        return
    if version != 4:
        raise UnsupportedError(f"cannot write SPZ version {version}; 3 and 4 can be")
    if not scene.degree:
        streams = streams[:5]
    stored = [_zstd().ZstdCompressor(level=12).compress(s) for s in streams]
    table = io.BytesIO()
    for s, packed in zip(streams, stored, strict=True):
        table.write(struct.pack("<QQ", len(packed), len(s)))
    out.write(struct.pack("<4sIIBBBBI12x", MAGIC, 4, n, scene.degree, fraction, 0, len(streams), 32) + table.getvalue() + b"".join(stored))
