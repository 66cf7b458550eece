"""Pyramid vector quantization: a few unit pulses shared by a vector's coordinates, and a gain."""

from __future__ import annotations

from functools import lru_cache
from math import comb
from typing import Annotated, Literal

import numpy as np

from ..array import cast, like, to_numpy
from ..errors import CorruptError
from ..stage import KW_ONLY, Part, Quantizer
from . import groups

MOST = 1 << 63


class Pyramid(Quantizer, name="pyramid"):
    """The direction of each ``dim`` values as integers y with sum |y_i| = ``pulses``, and the gain; no fit.

    Parts: ``ids``, the number of y among all such vectors (``high`` holds what is above 2^32); ``gain``, in 256 steps
    of 0.376 dB below the largest of the row (0 = zero vector); ``scale``, the largest gain of each row.
    ``pulses`` and ``dim`` may give up to 2^63 vectors. The last vector of a row is padded with zeros. ``encode(x, weight)`` chooses
    gains of least weighted error.

    Fischer, A pyramid vector quantizer (1986); greedy search as in Opus (Valin, 2012).

    >>> import numpy as np
    >>> q = Pyramid(4, dim=3)
    >>> x = np.float32([[2, 0, -2]])
    >>> q.decode(q.encode(x), (1, 3, "float32")).round(2)
    array([[ 2.,  0., -2.]], dtype=float32)
    """

    weighs = True
    examples = ("pyramid:8:dim=8", "pyramid:24")

    pulses: Annotated[int, range(1, 129)]
    _: KW_ONLY
    dim: Annotated[int, range(1, 1025)] = 16
    scales: Literal["bfloat16", "float16", "float32"] = "bfloat16"

    @property
    def effort(self):
        return 4 + self.dim * self.pulses.bit_length() // 2

    def check(self):
        if count(self.dim, self.pulses) >= MOST:
            raise self.fail(f"{self.pulses} pulses on {self.dim} dimensions make 2^63 vectors or more; use fewer")

    @property
    def k(self) -> int:
        """Number of vectors y."""
        return count(self.dim, self.pulses)

    def layout(self, form):
        pieces = -(-form[1] // self.dim)
        parts = {"ids": Part((form[0], pieces), k=min(self.k, 1 << 32))}
        if self.k > 1 << 32:
            parts["high"] = Part((form[0], pieces), k=-(-self.k // (1 << 32)))
        return parts | {"gain": Part((form[0], pieces), k=256), "scale": Part((form[0], 1), self.scales)}

    def encode(self, x, weight=None):
        rows = to_numpy(groups.float32(x))
        weight = None if weight is None else to_numpy(weight)
        found = groups.concat([self._encode(rows[at], groups.of_rows(weight, at)) for at in groups.chunks(rows)])
        return {name: like(a, x) for name, a in found.items()}

    def walk(self, w):
        """What `compand.fit.feedback` goes through the columns of rows w with."""
        return Walk(self, groups.float32(w))

    def _encode(self, x, weight, scale=None):
        (n, d), dim = x.shape, self.dim
        w = groups.weights(weight, x)
        if d % dim:
            x, w = (a if a is None else np.pad(a, ((0, 0), (0, -d % dim))) for a in (x, w))
        top = np.abs(x).max(1, keepdims=True)
        v = (x / np.where(top == 0, 1, top)).reshape(-1, dim).astype(np.float64)
        y = pulses(v, self.pulses)
        length = ((v * y).sum(1) / np.sqrt((y * y).sum(1))).reshape(n, -1)  # along y: the gain of least error
        if w is not None:
            w = w.reshape(-1, dim).astype(np.float64)
            mass = (w * y * y).sum(1)
            own = (w * v * y).sum(1) * np.sqrt((y * y).sum(1)) / np.where(mass > 0, mass, 1)
            length = np.where(mass.reshape(n, -1) > 0, own.reshape(n, -1), length)
        if scale is None:
            scale = groups.store((length.max(1, keepdims=True) * top.astype(np.float64)).clip(max=3.4e38).astype(np.float32), self.scales)
        stored = groups.widen(scale).astype(np.float64) / np.where(top == 0, 1, top)
        ratio = length / np.where(stored == 0, 1, stored)
        gain = np.where((ratio > 0) & (stored > 0), np.rint(255 + 16 * np.log2(np.maximum(ratio, 1e-30))), 0).clip(0, 255)
        index = enumerate_(y, self.pulses)
        index[gain.reshape(-1) == 0] = 0
        index = index.reshape(n, -1)
        parts = {"ids": (index & np.uint64(0xFFFFFFFF)).astype(np.uint32)}
        if self.k > 1 << 32:
            parts["high"] = (index >> np.uint64(32)).astype(np.uint32)
        return parts | {"gain": gain.astype(np.uint8), "scale": scale}

    def decode(self, parts, form):
        n, d, dtype = form
        host = {name: to_numpy(a) for name, a in parts.items()}
        index = host["ids"].astype(np.uint64)
        if self.k > 1 << 32:
            index |= host["high"].astype(np.uint64) << np.uint64(32)
        if index.size and int(index.max()) >= self.k:
            raise CorruptError(f"{self}: vector {int(index.max())} is not below their number {self.k}")
        y = vectors(index.reshape(-1), self.dim, self.pulses)
        gain = _GAIN[host["gain"].astype(np.int64)] * groups.widen(host["scale"])
        norm = np.sqrt((y.astype(np.int64) ** 2).sum(1)).astype(np.float32)
        y = (y * (gain.reshape(-1) / norm)[:, None]).reshape(n, -1)[:, :d]
        return cast(like(np.ascontiguousarray(y, np.float32), parts["gain"]), dtype)


class Walk:
    """Vectors of some columns of rows, decided when they are reached; the scale of a row leaves room for gains to grow twofold."""

    def __init__(self, stage: Pyramid, w: np.ndarray):
        self.stage, self.step, self.d, self.x = stage, stage.dim, w.shape[1], w
        self.found = stage.encode(w)
        self.scale = groups.store(np.minimum(2 * groups.widen(self.found["scale"]), np.float32(3e38)), stage.scales)
        self.found["scale"] = self.scale

    def _cut(self, lo: int, hi: int) -> slice:
        return slice(lo // self.step, -(-hi // self.step))

    def block(self, target: np.ndarray, lo: int, hi: int) -> np.ndarray:
        """Code columns lo to hi, whole vectors, as near to the target as can be; what they decode to."""
        for name, part in self.stage._encode(target[:, lo:hi], None, self.scale).items():
            if name != "scale":
                self.found[name][:, self._cut(lo, hi)] = part
        return self.values(lo, hi)

    def values(self, lo: int, hi: int) -> np.ndarray:
        """What some columns decode to."""
        own = {name: part if name == "scale" else part[:, self._cut(lo, hi)] for name, part in self.found.items()}
        return self.stage.decode(own, (len(self.scale), hi - lo, "float32"))

    def rescale(self, hessian: np.ndarray) -> None:
        """Scales stay: gains are relative to them."""

    def descend(self, gradient: np.ndarray, hessian: np.ndarray, importance: np.ndarray | None = None, *, least: float = 0.0) -> float:
        """Vectors stay: nothing is won."""
        return 0.0

    def parts(self) -> dict[str, np.ndarray]:
        """The codes."""
        return self.found


# exact in float32: each step halves after 16, and 2^(i/16) is written out, not computed
_ROOT = [1.0, 1.0442737824274138, 1.0905077326652577, 1.1387886347566916, 1.189207115002721, 1.241857812073484, 1.2968395546510096,
         1.3542555469368927, 1.4142135623730951, 1.4768261459394993, 1.5422108254079407, 1.6104903319492543, 1.681792830507429,
         1.7562521603732995, 1.8340080864093424, 1.9152065613971474]
_GAIN = np.float32([0.0] + [_ROOT[(i - 255) % 16] * 2.0 ** ((i - 255) // 16) for i in range(1, 256)])


@lru_cache(256)
def count(n: int, k: int) -> int:
    """Integer vectors of n coordinates with sum of magnitudes k; `MOST` where there are as many or more.

    >>> count(3, 2), count(16, 8), count(8, 0)
    (18, 30316544, 1)
    """
    total = int(k == 0)
    for used in range(1, min(n, k) + 1):  # coordinates that are not zero, their signs, how the pulses are shared
        total += comb(n, used) * comb(k - 1, used - 1) << used
        if total >= MOST:
            return MOST
    return total


@lru_cache(16)
def _tables(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """V[m, j] = vectors of m coordinates and j pulses, and S[m, j] = V[m, 0] + ... + V[m, j], both uint64 (S wraps)."""
    v = np.zeros((n + 1, k + 1), np.uint64)
    v[:, 0] = 1
    for j in range(1, k + 1):  # V[m, j] - V[m - 1, j] = V[m, j - 1] + V[m - 1, j - 1]
        np.cumsum(v[1:, j - 1] + v[:-1, j - 1], out=v[1:, j])
    return v, np.cumsum(v, axis=1, dtype=np.uint64)


def pulses(x: np.ndarray, k: int) -> np.ndarray:
    """The integer vector of k pulses near each row of x (m, n): (m, n) int32."""
    a = np.abs(x)
    total = a.sum(1, keepdims=True)
    a = np.where(total > 0, a / np.where(total > 0, total, 1), 1.0 / x.shape[1])
    y = np.floor(a * k)
    left = (k - y.sum(1)).astype(np.int64)
    dot, square = (a * y).sum(1), (y * y).sum(1)
    lines = np.arange(len(x))
    for turn in range(int(left.max(initial=0))):
        active = left > turn
        gain = (dot[:, None] + a) ** 2 / (square[:, None] + 2 * y + 1)
        best = gain.argmax(1)
        dot += np.where(active, a[lines, best], 0)
        square += np.where(active, 2 * y[lines, best] + 1, 0)
        y[lines, best] += active
    return np.where(x < 0, -y, y).astype(np.int32)


def enumerate_(y: np.ndarray, k: int) -> np.ndarray:
    """The number of each vector (m, n) with k pulses: uint64. Coordinates in the order 0, 1, -1, 2, -2, ..."""
    m, n = y.shape
    v, s = _tables(n, k)
    index, left = np.zeros(m, np.uint64), np.full(m, k)
    for i in range(n):
        rest, a = n - 1 - i, np.abs(y[:, i])
        before = v[rest, left] + np.uint64(2) * (s[rest, np.maximum(left - 1, 0)] - s[rest, left - a])
        same = v[rest, left - a]
        index += np.where(a > 0, before + np.where(y[:, i] < 0, same, np.uint64(0)), np.uint64(0))
        left = left - a
    return index


def vectors(index: np.ndarray, n: int, k: int) -> np.ndarray:
    """Inverse of `enumerate_`: (m, n) int32."""
    v, s = _tables(n, k)
    index, left = index.copy(), np.full(len(index), k)
    y = np.zeros((len(index), n), np.int32)
    for i in range(n):
        rest = n - 1 - i
        zero = v[rest, left]
        a, start = np.zeros(len(index), np.int64), np.zeros(len(index), np.uint64)
        for step in (1 << b for b in reversed(range(k.bit_length()))):  # the largest a whose vectors start at or before index
            more = a + step
            at = zero + np.uint64(2) * (s[rest, np.maximum(left - 1, 0)] - s[rest, np.maximum(left - more, 0)])
            fits = (more <= left) & (at <= index)
            a, start = np.where(fits, more, a), np.where(fits, at, start)
        index -= start
        same = v[rest, left - a]
        minus = (a > 0) & (index >= same)
        index -= np.where(minus, same, np.uint64(0))
        y[:, i] = np.where(minus, -a, a)
        left = left - a
    return y
