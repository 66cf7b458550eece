"""The IQ2 and IQ3 block formats of GGUF, written: four or eight magnitudes are an entry of a table, signs stand apart.

A value is S·sign·table[q], where S = unit · d · (scale + ½) belongs to 16 or 32 values, d is a float16 of the block and scale 4 bits. The
XXS and XS forms store seven of eight signs: the number of negative values is even. Tables are those of the `gguf` package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from ..errors import UnsupportedError
from ..fit.descend import half
from .gguf_types import TYPES

F32 = np.float32
EIGHT = 8  # values whose signs belong together
_PIECE = 1 << 22  # distances at once


class Vectors(NamedTuple):
    """What n blocks say: q uint16 (n, vectors); signs uint8 (n, 32), a bit a value; d float32 (n,); scales int16 (n, subs)."""

    q: np.ndarray
    signs: np.ndarray
    d: np.ndarray
    scales: np.ndarray


@dataclass(frozen=True)
class VectorGrid:
    """One format: table (entries, 4 or 8), values of a scale, unit, whether signs are even, and the bytes."""

    kind: int
    sub: int
    unit: float
    even: bool
    table: np.ndarray
    pack: Callable[[Vectors], np.ndarray]
    values = 256
    top = 15

    def step(self, f: Vectors) -> np.ndarray:
        """S of each sub-block: float32 (n, subs)."""
        return F32(self.unit) * f.d[:, None] * (f.scales.astype(F32) + F32(0.5))

    def shape(self, f: Vectors) -> np.ndarray:
        """Values before S: float32 (n, 256)."""
        signs = np.unpackbits(f.signs, axis=1, bitorder="little").astype(F32)
        return self.table[f.q].reshape(len(f.q), -1) * (1 - 2 * signs)

    def decode(self, f: Vectors) -> np.ndarray:
        """float32 (n, 256)."""
        return np.repeat(self.step(f), self.sub, axis=1) * self.shape(f)

    def nearest(self, x: np.ndarray, s: np.ndarray, weight: np.ndarray, *, free: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The codes of least squared error that counts ``weight`` (8,) or (n, 8), for x (n, 8) and scales s (n,).

        q (n, 8 / width), signs (n,) and the values before S (n, 8). ``free`` lets signs be odd: a third of the work, to choose scales by.
        """
        many = max(1, _PIECE // (len(self.table) * EIGHT))
        even = self.even and not free
        pieces = [self._nearest(x[at:at + many], s[at:at + many], weight if weight.ndim == 1 else weight[at:at + many], even)
                  for at in range(0, len(x), many)] or [self._nearest(x, s, weight, even)]
        q, signs, u = (np.concatenate(p) for p in zip(*pieces, strict=True))
        return q, signs, u

    def _nearest(self, x, s, weight, even):
        a = np.abs(x) / np.where(s > 0, s, F32(1))[:, None]
        minus = x < 0
        v = np.broadcast_to(weight, x.shape)
        width = self.table.shape[1]
        odd = (minus.sum(axis=1) & 1).astype(bool) if even else np.zeros(len(x), bool)
        q = np.empty((len(x), EIGHT // width), np.int64)
        turned, more = np.full((len(x), EIGHT // width), -1), np.zeros((len(x), EIGHT // width), F32)
        other = np.zeros_like(q)
        for part in range(EIGHT // width):
            cut = slice(part * width, (part + 1) * width)
            va = v[:, cut] * a[:, cut]
            cost = v[:, cut] @ np.square(self.table).T - 2 * va @ self.table.T
            q[:, part] = cost.argmin(axis=1)
            if odd.any():  # one value takes the other sign: the one that this costs least
                flip = va[odd][:, None] * self.table
                at = flip.argmin(axis=2)
                with_flip = cost[odd] + 4 * np.take_along_axis(flip, at[..., None], axis=2)[..., 0]
                best = with_flip.argmin(axis=1)
                rows = np.arange(len(best))
                more[odd, part] = with_flip[rows, best] - cost[odd][rows, q[odd, part]]
                other[odd, part], turned[odd, part] = best, at[rows, best] + part * width
        if odd.any():
            rows, part = np.flatnonzero(odd), more[odd].argmin(axis=1)
            q[rows, part] = other[rows, part]
            minus[rows, turned[rows, part]] ^= True
        u = self.table[q].reshape(len(x), EIGHT) * (1 - 2 * minus.astype(F32))
        return q.astype(np.uint16), np.packbits(minus, axis=1, bitorder="little")[:, 0], u

    def fit(self, x: np.ndarray, weight: np.ndarray | None = None) -> Vectors:
        """Scales and codes of blocks x (n, 256) for squared errors that count ``weight`` (n or 1, 256), not negative."""
        x = np.clip(np.ascontiguousarray(x, F32), -1e9, 1e9)
        n, subs = len(x), self.values // self.sub
        v = np.broadcast_to(np.ones((1, 1), F32) if weight is None else np.asarray(weight, F32), x.shape)
        v = np.ascontiguousarray(v / (v.mean(axis=1, keepdims=True) + F32(1e-30)) + F32(1e-6), F32)
        xs, vs = x.reshape(n * subs, self.sub), v.reshape(n * subs, self.sub)
        level = np.sqrt((vs * xs * xs).sum(axis=1) / vs.sum(axis=1)) / F32(np.sqrt(np.square(self.table).mean()))
        best, real = np.full(len(xs), -1.0, F32), np.zeros(len(xs), F32)
        for factor in (0.75, 0.9, 1.05, 1.25, 1.5):
            u = self._shapes(xs, level * F32(factor), vs)
            over, under = (vs * xs * u).sum(axis=1), np.maximum((vs * u * u).sum(axis=1), F32(1e-30))
            gain = over * over / under
            better = (gain > best) & (over > 0)
            best, real = np.where(better, gain, best), np.where(better, over / under, real)
        d, scales = self._integers(real.reshape(n, subs), vs.sum(axis=1).reshape(n, subs))
        s = F32(self.unit) * d[:, None] * (scales.astype(F32) + F32(0.5))
        q, signs, _ = self.nearest(x.reshape(-1, EIGHT), np.repeat(s, self.sub // EIGHT, axis=1).reshape(-1), v.reshape(-1, EIGHT))
        return Vectors(q.reshape(n, -1), signs.reshape(n, -1), d, scales)

    def _shapes(self, x: np.ndarray, s: np.ndarray, v: np.ndarray) -> np.ndarray:
        each = self.sub // EIGHT
        return self.nearest(x.reshape(-1, EIGHT), np.repeat(s, each), v.reshape(-1, EIGHT), free=True)[2].reshape(x.shape)

    def _integers(self, s: np.ndarray, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Real S (n, subs) as d of the block and integers."""
        peak = s.max(axis=1) / F32(self.unit * (self.top + 0.5))
        best, d, ints = np.full(len(s), np.inf, F32), np.zeros(len(s), F32), np.zeros(s.shape, np.int16)
        for factor in (0.85, 0.92, 1.0, 1.05, 1.12, 1.3):
            trial = half(peak * F32(factor))
            unit = F32(self.unit) * np.where(trial == 0, F32(1), trial)[:, None]
            near = np.clip(np.rint(s / unit - F32(0.5)), 0, self.top)
            lost = (curve * np.square(s - F32(self.unit) * trial[:, None] * (near + F32(0.5)))).sum(axis=1)
            better = lost < best
            best, d = np.where(better, lost, best), np.where(better, trial, d)
            ints = np.where(better[:, None], near, ints).astype(np.int16)
        return d, ints


# -- bytes -------------------------------------------------------------------------------------------------------------
def f16(x: np.ndarray) -> np.ndarray:
    """A float16 of each block (n,) as its bytes: (n, 2) uint8."""
    return x.astype("<f2").view(np.uint8).reshape(len(x), 2)


def _words(f: Vectors) -> np.ndarray:
    """Seven of the signs of each eight values, four times, and a scale: uint8 (n, 32)."""
    seven = (f.signs & 127).astype(np.uint32).reshape(len(f.signs), 8, 4)
    word = seven[..., 0] | seven[..., 1] << 7 | seven[..., 2] << 14 | seven[..., 3] << 21 | f.scales.astype(np.uint32) << 28
    return word.astype("<u4").view(np.uint8).reshape(len(f.signs), 32)


def _pairs(scales: np.ndarray) -> np.ndarray:
    s = scales.astype(np.uint8)
    return s[:, ::2] | s[:, 1::2] << 4


def iq2_xxs(f: Vectors) -> np.ndarray:
    both = np.stack([f.q.astype(np.uint8).reshape(len(f.q), 8, 4), _words(f).reshape(len(f.q), 8, 4)], axis=2)
    return np.concatenate([f16(f.d), both.reshape(len(f.q), 64)], axis=1)


def iq2_xs(f: Vectors) -> np.ndarray:
    word = (f.q | (f.signs & 127).astype(np.uint16) << 9).astype("<u2").view(np.uint8).reshape(len(f.q), 64)
    return np.concatenate([f16(f.d), word, _pairs(f.scales)], axis=1)


def iq2_s(f: Vectors) -> np.ndarray:
    high = (f.q >> 8).astype(np.uint8).reshape(len(f.q), 8, 4)
    high = high[..., 0] | high[..., 1] << 2 | high[..., 2] << 4 | high[..., 3] << 6
    return np.concatenate([f16(f.d), f.q.astype(np.uint8), f.signs, high, _pairs(f.scales)], axis=1)


def iq3_xxs(f: Vectors) -> np.ndarray:
    return np.concatenate([f16(f.d), f.q.astype(np.uint8), _words(f)], axis=1)


def iq3_s(f: Vectors) -> np.ndarray:
    high = np.packbits((f.q >> 8).astype(np.uint8), axis=1, bitorder="little")
    return np.concatenate([f16(f.d), f.q.astype(np.uint8), high, f.signs, _pairs(f.scales)], axis=1)


_FORMS = {"IQ2_XXS": (16, 32, 0.25, True, iq2_xxs), "IQ2_XS": (17, 16, 0.25, True, iq2_xs), "IQ2_S": (22, 16, 0.25, False, iq2_s),
          "IQ3_XXS": (18, 32, 0.5, True, iq3_xxs), "IQ3_S": (21, 32, 2.0, False, iq3_s)}
NAMES = tuple(_FORMS)


@cache
def vector_grid(name: str) -> VectorGrid:
    """The grid of a type by its name, as IQ3_XXS. Raises `UnsupportedError` where the `gguf` package is not installed."""
    try:
        from gguf import quants
    except ImportError:
        raise UnsupportedError(f"GGUF type {name} is written with the code tables of the gguf package: "
                               "pip install 'compand[gguf]'") from None
    own = getattr(quants, name)
    own.init_grid()
    kind, sub, unit, even, pack = _FORMS[name]
    assert TYPES[kind].name == name
    return VectorGrid(kind, sub, unit, even, np.array(own.grid, F32).reshape(own.grid_shape), pack)
