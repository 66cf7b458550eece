"""Small floating-point formats eXmY: 1 sign, X exponent and Y mantissa bits; their values, and rounding to them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np

from ..array import array_namespace, is_numpy, like


class Format(NamedTuple):
    """A format of 1 + exponent + mantissa <= 8 bits, with subnormals and the bias 2^(X-1) - 1.

    e4m3 and e5m2 are OCP FP8: e4m3 keeps its two all-one codes for NaN (largest value 448), e5m2 keeps its highest exponent
    for infinity and NaN (57344). All other formats use every code for a number.

    >>> Format.parse("e2m1").values[:8].tolist(), Format.parse("e4m3").largest
    ([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], 448.0)
    """

    exponent: int
    mantissa: int

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """The format of a name, None if there is none."""
        m = re.fullmatch(r"e([1-7])m([0-6])", name)
        return cls(int(m[1]), int(m[2])) if m and int(m[1]) + int(m[2]) <= 7 else None

    @property
    def k(self) -> int:
        """Number of codes."""
        return 1 << (1 + self.exponent + self.mantissa)

    @property
    def bias(self) -> int:
        """Exponent bias."""
        return (1 << (self.exponent - 1)) - 1

    @property
    def tiny(self) -> float:
        """Smallest normal number."""
        return 2.0 ** (1 - self.bias)

    @property
    def quantum(self) -> float:
        """Smallest positive number."""
        return 2.0 ** (1 - self.bias - self.mantissa)

    @property
    def top(self) -> int:
        """Code of the largest finite number."""
        if (self.exponent, self.mantissa) == (4, 3):
            return self.k // 2 - 2
        return self.k // 2 - 1 - ((1 << self.mantissa) if (self.exponent, self.mantissa) == (5, 2) else 0)

    @property
    def values(self) -> np.ndarray:
        """The number of each code: (k,) float32."""
        return _values(self)

    @property
    def largest(self) -> float:
        """Largest finite number."""
        return float(self.values[self.top])

    def round(self, t):
        """t (float32) rounded to the nearest number, ties to the even code, saturating; float32."""
        if not is_numpy(t):
            return _take(like(self.values, t), self.code(t))
        drop = 23 - self.mantissa
        u = t.view(np.uint32)
        r = (u >> np.uint32(drop)) & np.uint32(1)
        r += np.uint32((1 << (drop - 1)) - 1)
        r += u
        r &= np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))
        r = r.view(np.float32)
        below = np.abs(t) < np.float32(self.tiny)
        if below.any():
            small = np.clip(t, -self.tiny, self.tiny) * np.float32(1 / self.quantum)
            r = np.where(below, np.rint(small) * np.float32(self.quantum), r)
        return np.clip(r, -self.largest, self.largest)

    def code(self, t):
        """The code of each number t (float32): rounded as by `round`; uint8."""
        xp = array_namespace(t)
        if is_numpy(t):
            r = self.round(t)
            u = r.view(np.uint32)
            code = ((u & np.uint32(0x7FFFFFFF)) >> np.uint32(23 - self.mantissa)) - np.uint32((127 - self.bias) << self.mantissa)
            below = np.abs(r) < np.float32(self.tiny)
            if below.any():
                code = np.where(below, (np.minimum(np.abs(r), self.tiny) * np.float32(1 / self.quantum)).astype(np.uint32), code)
            return (code | ((u >> np.uint32(31)) * np.uint32(self.k // 2))).astype(np.uint8)
        code = xp.searchsorted(like(_borders(self), t), xp.reshape(xp.abs(t), (-1,)))
        return xp.astype(xp.reshape(code, t.shape) + xp.astype(t < 0, code.dtype) * (self.k // 2), xp.uint8)

    def decode(self, code):
        """The number of each code, float32."""
        return _take(like(self.values, code), code)


def _take(table, ids):
    xp = array_namespace(table)
    if is_numpy(table):
        return table[ids]
    return xp.reshape(xp.take(table, xp.reshape(xp.astype(ids, xp.int64), (-1,))), ids.shape)


@lru_cache(64)
def _values(f: Format) -> np.ndarray:
    code = np.arange(f.k // 2)
    e, m = code >> f.mantissa, code & ((1 << f.mantissa) - 1)
    v = np.where(e > 0, np.ldexp(1 + m / (1 << f.mantissa), e - f.bias), m * f.quantum)
    if f.top < f.k // 2 - 1:
        v[f.top + 1:] = np.nan
        if f.exponent == 5:
            v[f.top + 1] = np.inf
    v = np.concatenate([v, -v]).astype(np.float32)
    v.flags.writeable = False
    return v


@lru_cache(64)
def _borders(f: Format) -> np.ndarray:
    """Least upper borders of the codes: a number belongs to the code that counts the borders below it."""
    v = f.values[:f.top + 1]
    middle = (v[:-1] + v[1:]) / np.float32(2)
    odd = np.arange(len(middle)) % 2 == 1  # a tie between an odd code and the next goes up
    middle[odd] = np.nextafter(middle[odd], np.float32(0))
    return middle
