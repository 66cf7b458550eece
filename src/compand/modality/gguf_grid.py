"""The grids of GGUF block formats, written: which values a block can hold, the best one for some weights, and its bytes.

Every format here is one idea: a value is S·level[q] - M, where S and M belong to a sub-block of 16 or 32 values and are small integers
times a float16 of the block (or float16 themselves). `Grid.fit` looks for the scales and codes of least weighted squared error,
`Grid.pack` gives the bytes that `compand.modality.gguf_types.dequantize` reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from ..errors import InputError, UnsupportedError
from ..fit.descend import half
from .gguf_types import IQ4, TYPES
from .gguf_vectors import NAMES, VectorGrid, f16, vector_grid

F32 = np.float32
_PIECE = 1 << 18  # values that are searched at once
_NEAREST_IQ4 = np.searchsorted(IQ4[1:] + IQ4[:-1], np.arange(-256, 256), side="right").astype(np.uint8)  # by floor(2 t)


class Fields(NamedTuple):
    """What n blocks say: q uint8 (n, values); d, m float32 (n,) that float16 holds; scales, mins int16 (n, sub-blocks)."""

    q: np.ndarray
    d: np.ndarray
    m: np.ndarray
    scales: np.ndarray
    mins: np.ndarray


@dataclass(frozen=True)
class Grid:
    """One format: sub-block size, levels (ascending), the integers a scale and a minimum may be (None: a block has one, float16)."""

    kind: int
    sub: int
    levels: np.ndarray
    pack: Callable[[Fields], np.ndarray]
    scales: tuple[int, int] | None = None
    mins: tuple[int, int] | None = None
    offset: bool = False

    @property
    def values(self) -> int:
        """Values of a block."""
        return TYPES[self.kind].values

    def affine(self, f: Fields) -> tuple[np.ndarray, np.ndarray]:
        """S and M of each sub-block, float32 (n, sub-blocks)."""
        return f.d[:, None] * f.scales.astype(F32), f.m[:, None] * f.mins.astype(F32)

    def decode(self, f: Fields) -> np.ndarray:
        """float32 (n, values)."""
        s, m = self.affine(f)
        return np.repeat(s, self.sub, axis=1) * self.levels[f.q] - np.repeat(m, self.sub, axis=1)

    def nearest(self, x: np.ndarray, s: np.ndarray, m: np.ndarray) -> np.ndarray:
        """The codes of the levels nearest to x, for S and M that broadcast to it: uint8."""
        t = (x + m) / np.where(s == 0, F32(1), s)
        if self.levels[1] - self.levels[0] == 1:  # a plain integer grid
            return np.clip(np.rint(t - self.levels[0]), 0, len(self.levels) - 1).astype(np.uint8)
        return _NEAREST_IQ4[np.clip(np.floor(2 * t), -256, 255).astype(np.int16) + 256]

    def fit(self, x: np.ndarray, weight: np.ndarray | None = None) -> Fields:
        """Scales and codes of blocks x (n, values) for squared errors that count ``weight`` (n or 1, values), non-negative."""
        x = np.clip(np.ascontiguousarray(x, F32), -1e9, 1e9)  # beyond what any block holds, and squares stay finite
        v = np.ones((1, x.shape[1]), F32) if weight is None else np.asarray(weight, F32)
        step = max(1, _PIECE // self.values)
        pieces = [self._fit(x[at:at + step], v if len(v) == 1 else v[at:at + step]) for at in range(0, len(x), step)]
        return Fields(*(np.concatenate(p) for p in zip(*pieces, strict=True))) if pieces else self._fit(x, v)

    def _fit(self, x: np.ndarray, v: np.ndarray) -> Fields:
        n = len(x)
        x3 = x.reshape(n, -1, self.sub)
        v3 = np.broadcast_to(v, x.shape).reshape(x3.shape)
        v3 = (v3 + F32(1e-30)) / (v3.mean(axis=(1, 2), keepdims=True) + F32(1e-30)) + F32(1e-6)
        s, m = (_scale_and_minimum if self.offset else _scale)(x3, v3, self)
        curve = v3.sum(axis=2)
        d, scales = _integers(s, curve, self.scales)
        low, mins = _integers(m, curve, self.mins)
        big, small = d[:, None] * scales.astype(F32), low[:, None] * mins.astype(F32)
        q = self.nearest(x3, big[..., None], small[..., None])
        if self.scales:  # the float16 that suits these codes best
            u = self.levels[q] * scales[..., None].astype(F32)
            d = half((v3 * u * (x3 + small[..., None])).sum(axis=(1, 2)) / np.maximum((v3 * u * u).sum(axis=(1, 2)), F32(1e-30)))
        return Fields(q.reshape(n, -1), d, low, scales, mins)


def _factors(k: int) -> np.ndarray:
    """Scales to try, in parts of the one that reaches the largest value: few levels gain from cutting the largest off."""
    low, count = {4: (0.6, 13), 8: (0.62, 13), 16: (0.75, 11), 32: (0.86, 8), 64: (0.93, 6)}.get(k, (0.985, 4))
    return np.linspace(low, 1.06 if k <= 64 else 1.005, count, dtype=F32)


def _scale(x: np.ndarray, v: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The scale of each sub-block x (n, subs, values) whose least-squares error is least; minimum 0."""
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=2)[..., None], axis=2)[..., 0]
    vx = v * x
    best, s = np.full(peak.shape, -1.0, F32), np.zeros_like(peak)
    factors = _factors(len(grid.levels))
    turned = factors[1::3] if len(grid.levels) <= 16 else factors[:0]  # the largest value at the shorter end: seldom better
    for end, tried in ((grid.levels[0], factors), (grid.levels[-1], turned)):
        for factor in tried:
            level = grid.levels[grid.nearest(x, (peak / end * factor)[..., None], F32(0))]
            top, under = (vx * level).sum(axis=2), (v * level * level).sum(axis=2)
            gain = top * top / np.maximum(under, F32(1e-30))
            better = gain > best
            best, s = np.where(better, gain, best), np.where(better, top / np.maximum(under, F32(1e-30)), s)
    return s, np.zeros_like(s)


def _scale_and_minimum(x: np.ndarray, v: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Scale and minimum of each sub-block, both by least squares; the minimum is not positive where integers hold it."""
    lowest, highest = x.min(axis=2), x.max(axis=2)
    if grid.mins:
        lowest = np.minimum(lowest, 0)
    k = len(grid.levels)
    total, vx = v.sum(axis=2), v * x
    sum_x = vx.sum(axis=2)
    best, s, m = np.full(total.shape, -np.inf, F32), np.zeros_like(total), np.zeros_like(total)
    for factor in _factors(k):
        trial, low = (highest - lowest) / (k - 1) * factor, -lowest
        for _ in range(2 if k <= 8 else 1):
            q = grid.nearest(x, trial[..., None], low[..., None]).astype(F32)
            sq, sqq, sxq = (v * q).sum(axis=2), (v * q * q).sum(axis=2), (vx * q).sum(axis=2)
            det = total * sqq - sq * sq
            slope = (total * sxq - sq * sum_x) / np.where(det > 0, det, F32(1))
            base = (slope * sq - sum_x) / total  # minus the minimum
            through = (base < 0) & bool(grid.mins)  # no minimum
            slope = np.where(through, sxq / np.maximum(sqq, F32(1e-30)), slope)
            trial, low = np.where(det > 0, slope, trial), np.where(det > 0, np.where(through, F32(0), base), low)
        gain = 2 * (trial * sxq - low * sum_x) - trial * trial * sqq + 2 * trial * low * sq - low * low * total
        better = gain > best
        best, s, m = np.where(better, gain, best), np.where(better, trial, s), np.where(better, low, m)
    return s, m


def _integers(s: np.ndarray, curve: np.ndarray, span: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Reals s (n, subs) as a float16 of the block times integers in ``span``."""
    if span is None:
        return half(s[:, 0]), np.ones(s.shape, np.int16)
    peak = np.take_along_axis(s, np.abs(s).argmax(axis=1)[:, None], axis=1)[:, 0]
    end = span[0] if -span[0] > span[1] else span[1]
    best, d, ints = np.full(len(s), np.inf, F32), np.zeros(len(s), F32), np.zeros(s.shape, np.int16)
    for factor in (0.9, 0.94, 0.97, 1.0, 1.03, 1.07, 1.12):
        trial = half(peak / end * F32(factor))
        near = np.clip(np.rint(s / np.where(trial == 0, F32(1), trial)[:, None]), *span)
        lost = (curve * np.square(s - trial[:, None] * near)).sum(axis=1)
        better = lost < best
        best, d = np.where(better, lost, best), np.where(better, trial, d)
        ints = np.where(better[:, None], near, ints).astype(np.int16)
    return d, ints


# -- bytes -------------------------------------------------------------------------------------------------------------
def _nibbles(q: np.ndarray, group: int) -> np.ndarray:
    """(n, 2m) values of 4 bits → (n, m) bytes; per ``group`` bytes first the low halves, then the high ones."""
    q = q.reshape(len(q), -1, 2, group)
    return (q[:, :, 0] & 15 | (q[:, :, 1] & 15) << 4).reshape(len(q), -1)


def _crumbs(q: np.ndarray) -> np.ndarray:
    """(n, 256) values of 2 bits → (n, 64) bytes: in each half, four shifts one after another."""
    q = (q & 3).reshape(len(q), 2, 4, 32)
    return (q[:, :, 0] | q[:, :, 1] << 2 | q[:, :, 2] << 4 | q[:, :, 3] << 6).reshape(len(q), 64)


def _bits(q: np.ndarray) -> np.ndarray:
    """(n, 8m) bits → (n, m) bytes, lowest first."""
    return np.packbits(q, axis=1, bitorder="little")


def _tops(q: np.ndarray) -> np.ndarray:
    """(n, 256) bits → (n, 32) bytes: bit i of byte j is value 32 i + j."""
    return np.packbits(q.reshape(len(q), 8, 32), axis=1, bitorder="little").reshape(len(q), 32)


def _six(scales: np.ndarray, mins: np.ndarray) -> np.ndarray:
    """Eight scales and eight minima of 6 bits → 12 bytes."""
    s, m = scales.astype(np.uint8), mins.astype(np.uint8)
    return np.concatenate([s[:, :4] | s[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6, s[:, 4:] & 15 | (m[:, 4:] & 15) << 4], axis=1)


def _join(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts, axis=1)


def q3_k(f: Fields) -> np.ndarray:
    s = (f.scales + 32).astype(np.uint8)
    high = (s >> 4).reshape(len(s), 4, 4)
    return _join(_tops(f.q >> 2), _crumbs(f.q), s[:, :8] & 15 | (s[:, 8:] & 15) << 4,
                 high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6, f16(f.d))


def iq4_xs(f: Fields) -> np.ndarray:
    s = (f.scales + 32).astype(np.uint8)
    high = (s >> 4).reshape(len(s), 2, 4)
    return _join(f16(f.d), high[..., 0] | high[..., 1] << 2 | high[..., 2] << 4 | high[..., 3] << 6,
                 s[:, ::2] & 15 | (s[:, 1::2] & 15) << 4, _nibbles(f.q, 16))


def q6_k(f: Fields) -> np.ndarray:
    return _join(_nibbles(f.q, 64), _crumbs(f.q >> 4), f.scales.astype(np.int8).view(np.uint8), f16(f.d))


def _range(low: int, high: int) -> np.ndarray:
    return np.arange(low, high, dtype=F32)


GRIDS: dict[str, Grid] = {TYPES[g.kind].name: g for g in (
    Grid(2, 32, _range(-8, 8), lambda f: _join(f16(f.d), _nibbles(f.q, 16))),
    Grid(3, 32, _range(0, 16), lambda f: _join(f16(f.d), f16(-f.m), _nibbles(f.q, 16)), offset=True),
    Grid(6, 32, _range(-16, 16), lambda f: _join(f16(f.d), _bits(f.q >> 4), _nibbles(f.q, 16))),
    Grid(7, 32, _range(0, 32), lambda f: _join(f16(f.d), f16(-f.m), _bits(f.q >> 4), _nibbles(f.q, 16)), offset=True),
    Grid(8, 32, _range(-127, 128), lambda f: _join(f16(f.d), f.q - np.uint8(127))),  # kernels negate bytes: no -128
    Grid(10, 16, _range(0, 4), lambda f: _join((f.scales | f.mins << 4).astype(np.uint8), _crumbs(f.q), f16(f.d), f16(f.m)),
         (0, 15), (0, 15), True),
    Grid(11, 16, _range(-4, 4), q3_k, (-32, 31)),
    Grid(12, 32, _range(0, 16), lambda f: _join(f16(f.d), f16(f.m), _six(f.scales, f.mins), _nibbles(f.q, 32)), (0, 63), (0, 63), True),
    Grid(13, 32, _range(0, 32), lambda f: _join(f16(f.d), f16(f.m), _six(f.scales, f.mins), _tops(f.q >> 4), _nibbles(f.q, 32)),
         (0, 63), (0, 63), True),
    Grid(14, 16, _range(-32, 32), q6_k, (-128, 127)),
    Grid(20, 32, IQ4, lambda f: _join(f16(f.d), _nibbles(f.q, 16))),
    Grid(23, 32, IQ4, iq4_xs, (-32, 31)),
    Grid(35, 256, _range(-1, 2), lambda f: _join(_crumbs(f.q), f16(f.d))),
)}


def grid(name: str) -> Grid | VectorGrid:
    """The grid of a type by its name, as Q4_K; `UnsupportedError` for types that are only read."""
    if name in NAMES:
        return vector_grid(name)
    if name not in GRIDS:
        raise UnsupportedError(f"GGUF type {name} is not written; these are: {', '.join((*GRIDS, *NAMES))}")
    return GRIDS[name]


def writable() -> tuple[str, ...]:
    """The block types that can be written here: IQ2 and IQ3 where the `gguf` package is installed."""
    return (*GRIDS, *(NAMES if find_spec("gguf") else ()))


def quantize(name: str, x: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Rows x (..., d) → the bytes of a type, uint8 (..., bytes of a row); ``weight`` (d,) says what an error in a column counts.

    Raises `InputError` if d is no multiple of the block's values or x is not finite.

    >>> from compand.modality.gguf_types import dequantize
    >>> x = np.sin(np.arange(512, dtype=np.float32)).reshape(2, 256)
    >>> blocks = quantize("Q6_K", x)
    >>> blocks.shape, float(np.abs(dequantize(14, blocks) - x).max()) < 0.02
    ((2, 210), True)
    """
    g = grid(name)
    x = np.asarray(x, F32)
    if x.ndim < 1 or x.shape[-1] % g.values:
        raise InputError(f"{name}: rows of {x.shape[-1] if x.ndim else 0:,} values are no whole blocks of {g.values}")
    if not np.isfinite(x).all():
        raise InputError(f"{name}: values must be finite")
    many = x.shape[-1] // g.values
    v = None
    if weight is not None:
        v = np.tile(np.asarray(weight, F32).reshape(many, g.values), (max(x.size // x.shape[-1], 1), 1))
    blocks = g.pack(g.fit(x.reshape(-1, g.values), v))
    return blocks.reshape(*x.shape[:-1], many * TYPES[g.kind].nbytes)
