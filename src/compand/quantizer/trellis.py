"""Bit-shift trellis codes: the quality of a vector code of a thousand dimensions, one multiplication to decode a value.

**The code.** The bits of a stream are a circle. The window of its value i is the 16 bits from bit i * K on (K bits a value), so
each value shares 16 - K bits with the next. With p = window · c mod 2^16, its level is

    (p & 255) + (p >> 8) - 255                              factors=1
    the same + (r & 255) + (r >> 8) - 255, r = window · e   factors=2

and x_hat = level · scale, exact integers times a float32 scale. c and e are in ``FACTORS``. A smaller ``memory`` L is a smaller
search and not another decoder: c is a multiple of 2^(16-L), so that only the low L bits of the window matter.

**The layout** is made for products of codes with vectors. Rows are cut into strips of ``ROWS`` = 16 (the last has what is left); a
strip is one stream. Its values lie by pairs of columns: (row 0, columns 0 and 1), (row 1, columns 0 and 1), ... (row 15,
columns 0 and 1), (row 0, columns 2 and 3), ...; a single last column follows row by row. Value i has bits i * K to i * K + K - 1, where
bit b is bit b % 8 of byte b / 8. So

- 32 windows in a row are 16 rows by 2 columns: one vector of 16-bit lanes; with the bytes of p as 8-bit lanes a dot product of
  four bytes into 32-bit lanes (vpdpbusd) with (x0 x0 x1 x1) in every lane adds to one accumulator for each row, which needs no
  sum over lanes at the end; subtract 255 · Σ x once;
- the part ``bits`` of all blocks of rows is one array of bytes, a strip at every 2 · d · K bytes (blocks hold a multiple of 16 rows
  for d ≤ 2^14; otherwise each block has its own strips), read from first to last; only the windows of the last 16 bits wrap around.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal

import numpy as np

from .. import _native
from ..array import cast, like, to_numpy
from ..fit.scale import stored
from ..stage import KW_ONLY, Part, Quantizer
from ..symbols import pack
from . import groups

ROWS = 16
FACTORS = {  # (factors, memory, bits): c and e, and the ratio of rms to the deviation of the levels that suits a Gaussian best
    (1, 16, 1): ((38775,), 0.931), (1, 16, 2): ((43915,), 1.048), (1, 16, 3): ((10823,), 1.128), (1, 16, 4): ((4365,), 1.32),
    (1, 14, 1): ((47724,), 0.931), (1, 14, 2): ((31932,), 1.048), (1, 14, 3): ((17820,), 1.164), (1, 14, 4): ((12692,), 1.28),
    (1, 12, 1): ((23920,), 0.902), (1, 12, 2): ((22128,), 1.08), (1, 12, 3): ((38064,), 1.2), (1, 12, 4): ((56080,), 1.28),
    (2, 16, 1): ((29585, 31577), 0.902), (2, 16, 2): ((21455, 45655), 1.03), (2, 16, 3): ((44041, 31281), 1.08),
    (2, 16, 4): ((61685, 41921), 1.106), (2, 14, 1): ((24916, 49324), 0.902), (2, 14, 2): ((56212, 58948), 1.061),
    (2, 14, 3): ((28900, 58932), 1.08), (2, 14, 4): ((61988, 3860), 1.174), (2, 12, 1): ((50800, 35984), 0.96),
    (2, 12, 2): ((46928, 16272), 1.061), (2, 12, 3): ((5008, 53840), 1.112), (2, 12, 4): ((38416, 42704), 1.208),
}
_MOVED = 4    # columns that `Walk.descend` searches anew at a time, besides those that hold the windows of what comes before
_AROUND = 48  # values on each side of the seam that choose the bits both ends share


class Trellis(Quantizer, name="trellis"):
    """Trellis-coded values times the scale of their row or group: ``hadamard,trellis:3``. No fit.

    Parameters
    ----------
    bits : 1 to 4
        Of each value. Distance to the rate-distortion bound for Gaussian values: 0.53, 0.69, 0.94, 1.36 dB; with memory=16
        0.46, 0.62, 0.9, 1.26 dB (scalar codes: 2.8 dB at 2 bits, 4.8 dB at 4).
    factors : 1 or 2
        2 doubles the work of decoding: 0.5, 0.59, 0.69, 0.85 dB; with memory=16 0.41, 0.48, 0.54, 0.66 dB.
    memory : 16, 14 or 12
        Bits of the window that count: 4 times the work of encoding for each 2 bits. The decoder is the same.
    group : int
        A scale for each group of columns; none = one a row.

    Put ``hadamard`` before it: the levels suit a Gaussian, and are best for it. Scales are bfloat16 (a row: 16 / d bits a value).
    Any number of rows and columns has K bits a value. Torch tensors are encoded on the CPU.

    Trellis-coded quantization: Marcellin and Fischer (1990); bit-shift trellises, computed codes, tail-biting: QTIP (Tseng et al. 2024).

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((16, 64), dtype=np.float32)
    >>> from compand.stage import Form
    >>> q = Trellis(2)
    >>> parts = q.encode(x)
    >>> parts["bits"].nbytes, round(float(np.square(q.decode(parts, Form(16, 64)) - x).mean()), 2)
    (256, 0.07)
    """

    examples = ("trellis:2:memory=12", "trellis:3:group=16:memory=12", "trellis:4:factors=2:memory=12")
    bits: Annotated[int, range(1, 5)]
    _: KW_ONLY
    factors: Literal[1, 2] = 1
    memory: Literal[16, 14, 12] = 14
    group: Annotated[int, range(2, 1 << 24)] | None = None

    def layout(self, form):
        n, d = form[:2]
        return {"bits": Part((-(-n * d * self.bits // 8),), "uint8"), "scale": Part((n, groups.count(d, self.group)), "bfloat16")}

    @property
    def multipliers(self) -> tuple[int, ...]:
        """c, or c and e."""
        return FACTORS[self.factors, self.memory, self.bits][0]

    @property
    def fullscale(self) -> int:
        """Units of a level in the search: its targets and levels are integers within ±32640."""
        return 64 if self.factors == 2 else 128

    def encode(self, x):
        walk = self.walk(x)
        walk.block(walk.x, 0, walk.x.shape[1])
        walk.rescale()
        return {name: like(part, x) if name == "bits" else groups.narrow(like(part, x), "bfloat16") for name, part in walk.parts().items()}

    def walk(self, x) -> Walk:
        """An encoding of x (n, d) that takes its columns block by block, from the last to the first; see `compand.fit.feedback`."""
        return Walk(self, groups.float32(to_numpy(x)))

    def decode(self, parts, form):
        n, d = form[:2]
        factors = np.array(self.multipliers, np.uint16)
        data = np.ascontiguousarray(to_numpy(parts["bits"]))
        levels = _native.trellis_decode(data, n * d, max(ROWS * d, 1), self.bits, factors)
        whole = n // ROWS * ROWS
        y = np.empty((n, d), np.float32)
        for lo, hi in ((0, whole), (whole, n)):
            if hi > lo:
                m = max(1, (hi - lo) // ROWS)
                y[lo:hi] = _unstream(levels[lo * d:hi * d].reshape(m, -1), (hi - lo) // m).reshape(hi - lo, d)
        return cast(groups.times(like(y, parts["scale"]), groups.widen(parts["scale"]), self.group), form.dtype)


class Walk:
    """Columns of x (n, d) coded from the last to the first: call `block` until column 0, then `parts`.

    ``scale`` (n, groups) is chosen from x and does not change on the way.
    """

    step = 2  # blocks start at a multiple of this

    def __init__(self, stage: Trellis, x: np.ndarray):
        self.stage, self.x = stage, x
        n, d = x.shape
        ratio = FACTORS[stage.factors, stage.memory, stage.bits][1]
        power = groups.statistic(np.square(x, dtype=np.float64), stage.group, "mean")
        self.scale = stored((np.sqrt(power) * (ratio / levels(stage).std())).astype(np.float32), "bfloat16")
        self.strips = _strips(n, d)
        self.ends: list = [None] * len(self.strips)  # of each strip: the last window, and the bits that the first must end in
        self.level = np.zeros((n, d), np.int16)

    def targets(self, x: np.ndarray, rows: slice, lo: int, hi: int) -> np.ndarray:
        """Some rows and columns of x (n, d) in units of the search: int16."""
        s, x = groups.spread(self.scale[rows], x.shape[1], self.stage.group), x[rows, lo:hi]
        s = s if s.shape[1] == 1 else s[:, lo:hi]
        t = np.where(s == 0, np.float32(0), x / np.where(s == 0, np.float32(1), s)) * np.float32(self.stage.fullscale)
        return np.rint(np.clip(t, -32640, 32640)).astype(np.int16)

    def block(self, x: np.ndarray, lo: int, hi: int) -> np.ndarray:
        """Code columns lo to hi of x (n, d), all those from hi on having been coded; what they decode to: (n, hi - lo) float32.

        Columns before lo are looked at, where a choice of bits will bear on them.
        """
        stage, d = self.stage, self.x.shape[1]
        k = stage.bits
        for i, (top, bottom, ids) in enumerate(self.strips):
            m, part = len(ids), slice(top, bottom)
            rows = (bottom - top) // m
            if rows * d * k < stage.memory:
                ids[0], self.level[part] = _exhaust(stage, self.targets(x, part, 0, d))
                continue
            first = max(0, lo - -(-_AROUND // rows // 2) * 2)
            t = _stream(self.targets(x, part, first if self.ends[i] else 0, hi), m)
            if self.ends[i] is None:
                p = min(_AROUND, t.shape[1] // 2)
                around = np.concatenate([t[:, t.shape[1] - p:], t[:, :p]], axis=1)
                none = np.full(m, -1, np.int32)
                seam = (self._search(around, p + 1, none, none)[:, 0] >> k).astype(np.int32)
                self.ends[i] = (seam, seam)
                t = t[:, rows * first:]
            before, seam = self.ends[i]
            end = seam if lo == 0 else np.full(m, -1, np.int32)
            windows = self._search(t, rows * (hi - lo), before, end)
            self.ends[i] = (windows[:, 0].astype(np.int32), seam)
            ids[:, rows * lo:rows * hi] = windows & ((1 << k) - 1)
            found = levels(stage)[windows & ((1 << stage.memory) - 1)]
            self.level[part, lo:hi] = _unstream(found, rows).reshape(bottom - top, hi - lo)
        return self.values(lo, hi)

    def values(self, lo: int, hi: int) -> np.ndarray:
        """What some columns decode to: float32 (n, hi - lo)."""
        s = groups.spread(self.scale, self.level.shape[1], self.stage.group)
        return self.level[:, lo:hi].astype(np.float32) * (s if s.shape[1] == 1 else s[:, lo:hi])

    def _search(self, t: np.ndarray, count: int, start: np.ndarray, end: np.ndarray, table: np.ndarray | None = None) -> np.ndarray:
        """Windows (m, count) of the last ``count`` of the targets t (m, length)."""
        stage = self.stage
        down = np.ascontiguousarray(t[:, ::-1])
        table = (levels(stage) * stage.fullscale).astype(np.int16) if table is None else table
        return _native.trellis_search(down, count, start, end, stage.bits, stage.memory, table)[:, ::-1]

    def rescale(self, hessian: np.ndarray | None = None) -> None:
        """The scales of least error for the levels found: squared, or trace(e H eᵀ) with a Hessian (d, d)."""
        x, q, g = self.x.astype(np.float64), self.level.astype(np.float64), self.stage.group
        pieces = groups.count(x.shape[1], g)
        if hessian is not None and 1 < pieces <= 64:  # the scales of a row bear on each other
            aim = x @ hessian
            at = np.arange(x.shape[1]) // min(g or x.shape[1], x.shape[1])
            best = self.scale.astype(np.float64)
            for r in range(len(x)):
                spread = np.zeros((pieces, x.shape[1]))
                spread[at, np.arange(x.shape[1])] = q[r]
                gram = spread @ hessian @ spread.T
                if np.trace(gram) > 0:
                    best[r] = np.linalg.lstsq(gram, spread @ aim[r], rcond=1e-10)[0]
        else:
            other = q if hessian is None else q @ hessian
            cross, square = (groups.split(v, g) for v in (x * other, q * other))
            real = groups.mask(x, g)
            total = [v.sum(2) if real is None else (v * real).sum(2) for v in (cross, square)]
            best = np.where((total[0] > 0) & (total[1] > 0), total[0] / np.where(total[1] > 0, total[1], 1), self.scale)
        self.scale = stored(best.astype(np.float32), "bfloat16")

    @classmethod
    def of(cls, stage: Trellis, parts, form) -> Walk:
        """The walk that ended in these codes."""
        walk, at = cls.__new__(cls), 0
        walk.stage, walk.scale, walk.ends = stage, groups.widen(to_numpy(parts["scale"])), []
        n, d, k = *form[:2], stage.bits
        bits = np.unpackbits(to_numpy(parts["bits"]), bitorder="little")
        walk.strips, walk.level = _strips(n, d), np.zeros((n, d), np.int16)
        for lo, hi, ids in walk.strips:
            ids[:] = bits[at:at + ids.size * k].reshape(*ids.shape, k) @ (1 << np.arange(k, dtype=np.uint8))
            at += ids.size * k
            walk.level[lo:hi] = _unstream(levels(stage)[_windows(stage, ids)], (hi - lo) // len(ids)).reshape(hi - lo, d)
        walk.x = walk.values(0, d)
        return walk

    def descend(self, gradient: np.ndarray, hessian: np.ndarray, importance: np.ndarray | None = None, *, least: float = 0.0) -> float:
        """Move codes to where Σ gradient · e + ½ Σ_r importance_r e_r H e_rᵀ is less, e the change of values; what it is less by.

        A few columns of a strip are searched anew between those beside them, which stay, and change if that wins more than ``least``.
        ``gradient`` (n, d) float32 is that of the values as they are, and is moved with them. Scales stay.
        """
        stage, d = self.stage, self.level.shape[1]
        k, fixed = stage.bits, (1 << (stage.memory - stage.bits)) - 1
        table, h, total = (levels(stage) * stage.fullscale).astype(np.int16), hessian.astype(np.float32), 0.0
        weight = np.ones(len(self.level), np.float32) if importance is None else np.asarray(importance, np.float32)
        scale = np.broadcast_to(groups.spread(self.scale, d, stage.group), self.level.shape)
        for top, bottom, ids in self.strips:
            m, part = len(ids), slice(top, bottom)
            rows, windows = (bottom - top) // m, _windows(stage, ids)
            if rows * d * k < 2 * stage.memory:
                continue
            heavy = weight[part].reshape(m, rows)
            keep = -(-(stage.memory - k) // (k * rows) // 2) * 2  # columns that hold the lowest window
            for hi in range(d + d % 2, 0, -_MOVED):
                lo, hi = max(0, hi - _MOVED - keep), min(hi, d)
                at, span = slice(lo, hi), slice(rows * lo, rows * hi)
                s, level = (v[part, at].reshape(m, rows, -1) for v in (scale, self.level))
                g = gradient[part, at].reshape(s.shape)
                curve = (heavy * np.square(s).mean(2)).mean(1) * float(np.diag(h)[at].mean())
                t = level - g * s / np.maximum(curve, 1e-30)[:, None, None]
                t = np.rint(np.clip(t * stage.fullscale, -32640, 32640)).astype(np.int16)
                end = (windows[:, span.start] & fixed).astype(np.int32)
                fresh = self._search(_stream(t.reshape(m * rows, -1), m), t[0].size,
                                     windows[:, span.stop % windows.shape[1]].astype(np.int32), end, table)
                found = _unstream(levels(stage)[fresh], rows)
                e = (found.astype(np.float32) - level) * s
                won = -(g * e).sum((1, 2)) - 0.5 * np.einsum("mrw,wv,mrv,mr->m", e, h[at, at], e, heavy, optimize=True)
                better = won > least
                if better.any():
                    total += float(won[better].sum())
                    windows[:, span] = np.where(better[:, None], fresh, windows[:, span])
                    self.level[part, at] = np.where(better[:, None, None], found, level).reshape(bottom - top, -1)
                    e = (e * (heavy * better[:, None])[:, :, None]).reshape(bottom - top, -1)
                    gradient[part] += e @ h[at]
            ids[:] = windows & ((1 << k) - 1)
        return total

    def parts(self) -> dict[str, np.ndarray]:
        """The parts of the codes; scales as float32 that bfloat16 holds."""
        packed = [pack(ids, 1 << self.stage.bits).reshape(-1) for _, _, ids in self.strips]
        return {"bits": np.concatenate(packed) if packed else np.zeros(0, np.uint8), "scale": self.scale}


@cache
def levels(stage: Trellis) -> np.ndarray:
    """The level of each window: int16 (2^memory,)."""
    s, total = np.arange(1 << stage.memory, dtype=np.uint32), np.zeros(1 << stage.memory, np.int32)
    for c in stage.multipliers:
        p = s * np.uint32(c) & 65535
        total += ((p & 255) + (p >> 8)).astype(np.int32) - 255
    return total.astype(np.int16)


def _strips(n: int, d: int) -> list[tuple[int, int, np.ndarray]]:
    """First and last row, and ids (strips, values) of zeros, of the whole strips of n rows and of what is left."""
    whole = n // ROWS * ROWS
    return [(lo, hi, np.zeros((m, (hi - lo) // m * d), np.uint8)) for lo, hi in ((0, whole), (whole, n)) if hi > lo
            for m in (max(1, (hi - lo) // ROWS),)]


def _windows(stage: Trellis, ids: np.ndarray) -> np.ndarray:
    """The window of each value: uint16, of ids (m, values), whose bits are circles."""
    turns = range(-(-stage.memory // stage.bits))
    found = sum((np.roll(ids, -j, 1).astype(np.uint32) << np.uint32(j * stage.bits) for j in turns), np.zeros(ids.shape, np.uint32))
    return (found & np.uint32((1 << stage.memory) - 1)).astype(np.uint16)


def _stream(y: np.ndarray, m: int) -> np.ndarray:
    """Rows of m strips (m * rows, w) as their streams (m, rows * w), by pairs of columns."""
    w = y.shape[1]
    y = y.reshape(m, -1, w)
    even = w // 2 * 2
    pairs = y[:, :, :even].reshape(m, y.shape[1], even // 2, 2).transpose(0, 2, 1, 3).reshape(m, -1)
    return pairs if even == w else np.concatenate([pairs, y[:, :, even]], axis=1)


def _unstream(t: np.ndarray, rows: int) -> np.ndarray:
    """Inverse of `_stream`: (m, rows * w) → (m, rows, w)."""
    m, w = len(t), t.shape[1] // rows
    even = w // 2 * 2
    y = np.empty((m, rows, w), t.dtype)
    y[:, :, :even] = t[:, :rows * even].reshape(m, even // 2, rows, 2).transpose(0, 2, 1, 3).reshape(m, rows, even)
    if even < w:
        y[:, :, even] = t[:, rows * even:]
    return y


def _exhaust(stage: Trellis, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids (T,) and levels (rows, w) of the best of all streams, for targets so few that their bits do not fill a window."""
    targets = _stream(t, 1)[0].astype(np.float64) / stage.fullscale
    size, k = targets.size, stage.bits
    every = np.arange(1 << size * k, dtype=np.uint64)
    round_ = every.copy()
    for turn in range(1, 16 // (size * k) + 2):
        round_ |= every << np.uint64(turn * size * k)
    cost, found = np.zeros(len(every)), []
    for i in range(size):
        found.append(levels(stage)[(round_ >> np.uint64(i * k)) & np.uint64((1 << stage.memory) - 1)])
        cost += (found[-1] - targets[i]) ** 2
    best = int(cost.argmin())
    ids = np.array([best >> i * k & ((1 << k) - 1) for i in range(size)], np.uint8)
    return ids, _unstream(np.array([[level[best] for level in found]]), t.shape[0])[0]
