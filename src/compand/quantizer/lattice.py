"""The E8 lattice: the densest packing in eight dimensions as a quantizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np

from ..array import array_namespace, cast, is_numpy, like, to_numpy, total
from ..stage import KW_ONLY, Part, Quantizer
from . import codebook, e8, groups

SHRINK, TURNS = 0.93, 40  # a vector outside the codebook moves towards zero, until it is inside


class Lattice(Quantizer, name="lattice"):
    """The nearest point of E8 to each eight values divided by the scale of their row or group; no fit.

    =========================  ============================================================================
    ``lattice:e8``             2 bits a value: one id for the 2^16 shortest points (0.9 dB better than a grid)
    ``lattice:e8:bits=1``      the 2^8 shortest points
    ``lattice:e8:bits=4``      3 to 8 bits: eight ids below 2^bits for each point, which any such ids give back
    ``group=64``               a scale for each group, a multiple of 8 values
    ``search=rms``             the scale that suits a Gaussian (after ``hadamard``), no search: twice as fast
    =========================  ============================================================================

    For 3 bits and more a point p is v + h/2 with integers v, h in {0, 1}, sum v even: ids are v_1..v_7 and v_8 with its parity,
    which the others give away, replaced by h. A row's last vector is padded with zeros. ``encode(x, weight)``
    weighs the errors by which ``search=mse`` chooses a scale.

    Conway and Sloane, Fast quantizing and decoding algorithms for lattice quantizers (1982); QuIP# (Tseng, 2024).

    >>> import numpy as np
    >>> q = Lattice("e8", bits=4, search="rms")
    >>> parts = q.encode(np.float32([[1, 1, 0, 0, 0, 0, 0, 0]]))
    >>> parts["ids"]
    array([[14, 14,  8,  8,  8,  8,  8,  8]], dtype=uint8)
    """

    weighs = True
    examples = ("lattice:e8", "lattice:e8:bits=4:group=16")

    points: Literal["e8"]
    _: KW_ONLY
    bits: Annotated[int, range(1, 9)] = 2
    group: Annotated[int, range(8, 1 << 24)] | None = None
    search: Literal["mse", "rms"] = "mse"
    scales: Literal["bfloat16", "float16", "float32"] = "bfloat16"

    @property
    def effort(self):
        return 2

    def check(self):
        if self.group and self.group % 8:
            raise self.fail(f"group must be a multiple of 8; try group={-(-self.group // 8) * 8}")

    @property
    def _ball(self) -> bool:
        return self.bits < 3

    def layout(self, form):
        n, d = form[:2]
        pieces = -(-d // 8)
        ids = Part((n, pieces), k=1 << (8 * self.bits)) if self._ball else Part((n, pieces * 8), k=1 << self.bits)
        return {"ids": ids, "scale": Part((n, groups.count(d, self.group)), self.scales)}

    def walk(self, w):
        """What `compand.fit.feedback` goes through the columns of rows w with."""
        return Walk(self, groups.float32(w))

    def encode(self, x, weight=None):
        return groups.concat([self._encode(groups.float32(x[rows]), groups.of_rows(weight, rows)) for rows in groups.chunks(x)])

    def _encode(self, x, weight):
        xp = array_namespace(x)
        n, d = x.shape
        top = xp.max(xp.abs(x), axis=1, keepdims=True)
        unit = xp.where(top == 0, xp.ones_like(top), top)
        y = x / unit
        real = groups.statistic(y * y, self.group, "mean")
        rms = xp.sqrt(real)
        peak = xp.max(xp.abs(groups.split(y, self.group)), axis=2)
        size = 8 * -(-d // 8)
        w = groups.weights(weight, x)
        if size > d:
            y, w = (a if a is None else xp.concat([a, like(np.zeros((n, size - d), np.float32), a)], axis=1) for a in (y, w))
        tried = []
        if self._ball:
            best = {1: 1.65, 2: 0.98}[self.bits]
            tried = [rms * (best * r) for r in ((1.0, 0.85, 1.2) if self.search == "mse" else (1.0,))]
        else:
            room = 2.0 ** (self.bits - 1) - 1.5
            gaussian = rms * {3: 0.6, 4: 0.35, 5: 0.19, 6: 0.11, 7: 0.06, 8: 0.03}[self.bits]
            fit = peak / room
            tried = [xp.minimum(gaussian, fit), gaussian * 1.2, fit] if self.search == "mse" else [xp.minimum(gaussian, fit)]
        kept = found = least = None
        for s in tried:
            s = groups.widen(groups.store(s * unit, self.scales))
            ids, error = self._ids(y, s / unit, w)
            if least is None:
                kept, found, least = s, ids, error
            else:
                better = error < least
                wide = groups.spread(better, size, self.group)
                if self._ball:
                    wide = wide if wide.shape[1] == 1 else wide[:, ::8]
                kept, least, found = xp.where(better, s, kept), xp.where(better, error, least), xp.where(wide, ids, found)
        dtype = xp.uint8 if not self._ball or self.bits == 1 else getattr(xp, "uint16", xp.int32)
        if not is_numpy(found) and self.bits == 2:
            dtype = xp.int32
        return {"ids": xp.astype(found, dtype), "scale": groups.narrow(kept, self.scales)}

    def _ids(self, y, s, weight):
        """Ids of y (n, 8·pieces) for the scales s (n, groups), and the (weighted) squared error of each group."""
        xp = array_namespace(y)
        n, size = y.shape
        wide = groups.spread(s, size, self.group)
        t = y / xp.where(wide == 0, xp.ones_like(wide), wide)
        t = xp.reshape(xp.where(wide == 0, xp.zeros_like(t), xp.clip(t, -1e6, 1e6)), (-1, 8))
        ids, points = self._ball_ids(t) if self._ball else self._box_ids(t)
        error = xp.reshape(points, (n, size)) * wide - y
        error = error * error if weight is None else error * error * weight
        error = total(groups.split(error, self.group))[:, :, 0]
        return xp.reshape(ids, (n, -1)), error

    def _ball_ids(self, t):
        host = to_numpy(t)
        points = e8.nearest(host)
        ids, inside = e8.ball_ids(points, 8 * self.bits)
        ids = ids.astype(np.int64)
        out = np.flatnonzero(~inside)
        ids[out] = self._outside(host[out], points[out])
        return like(ids, t), like(e8.shortest(8 * self.bits)[0][ids], t)

    def _outside(self, t, points):
        """Ids of good points for vectors whose nearest point is not among the shortest: shrink them, then walk."""
        bits = 8 * self.bits
        ids, left = np.zeros(len(t), np.int64), np.arange(len(t))
        longest = np.sqrt((points**2).sum(1, keepdims=True))
        moved = t * np.minimum(1, {1: 2.0, 2: 3.6}[self.bits] / np.maximum(longest, 1)).astype(np.float32)
        for _ in range(TURNS):
            if not len(left):
                break
            own, inside = e8.ball_ids(e8.nearest(moved), bits)
            ids[left[inside]] = own[inside]
            left, moved = left[~inside], moved[~inside] * np.float32(SHRINK)
        table = e8.shortest(bits)[0]
        steps = table[1:241]  # the 240 shortest vectors
        for norm in (e8.NORM if self.bits == 2 else 4, e8.NORM - 2 if self.bits == 2 else 2) * 2:
            p = table[ids]
            gain = np.zeros((len(t), len(steps)), np.float32)
            for j in range(8):  # not a matrix product, whose sums have no order
                gain += (t[:, j, None] - p[:, j, None]) * steps[:, j]
            gain[(p @ steps.T) * 2 + (p * p).sum(1, keepdims=True) + 2 > norm] = -1
            best = gain.argmax(1)
            own, inside = e8.ball_ids(p + steps[best], bits)
            ids = np.where(inside & (gain[np.arange(len(t)), best] > 1), own, ids)  # |t - p - v|² = |t - p|² - 2 (t - p)·v + 2
        return ids

    def _box_ids(self, t):
        xp = array_namespace(t)
        low, k = -(1 << (self.bits - 1)), 1 << self.bits
        x = xp.clip(t, low + 0.25, -low - 0.75)
        ids = e8.box_ids(e8.nearest(x), low)
        for turn in range(TURNS):  # the few whose parity step left the box
            out = xp.any((ids < 0) | (ids >= k), axis=1, keepdims=True)
            if not bool(xp.any(out)):
                break
            x = xp.where(out, x * (SHRINK if turn < TURNS - 1 else 0.0), x)
            ids = xp.where(out, e8.box_ids(e8.nearest(x), low), ids)
        return ids, e8.box_points(ids, low)

    def decode(self, parts, form):
        n, d, dtype = form
        ids = parts["ids"]
        xp = array_namespace(ids)
        if self._ball:
            points = codebook.take(e8.shortest(8 * self.bits)[0], ids)
        else:
            points = e8.box_points(xp.reshape(xp.astype(ids, xp.float32), (-1, 8)), -(1 << (self.bits - 1)))
        y = xp.reshape(points, (n, -1))[:, :d]
        return cast(groups.times(y, groups.widen(parts["scale"]), self.group), dtype)


class Walk:
    """Points of eight columns, each decided when it is reached; scales are those of the rows alone until `rescale`."""

    step = 8

    def __init__(self, stage: Lattice, w: np.ndarray):
        self.stage, self.alone, self.x, self.d = stage, replace(stage, group=None), w, w.shape[1]
        self.found = stage.encode(w)
        self.each = 1 if stage._ball else 8  # ids of a point

    def _scale(self, at: int) -> np.ndarray:
        """The scale of the columns from ``at`` on: (n, 1)."""
        column = at // self.stage.group if self.stage.group else 0
        return self.found["scale"][:, column:column + 1]

    def block(self, target: np.ndarray, lo: int, hi: int) -> np.ndarray:
        """Code columns lo to hi, whole points, as near to the target as can be; what they decode to."""
        for at in range(lo, hi, 8):
            t = np.zeros((len(target), 8), np.float32)
            t[:, :min(8, self.d - at)] = target[:, at:min(at + 8, hi)]
            ids, _ = self.alone._ids(t, groups.widen(self._scale(at)), None)
            self.found["ids"][:, at // 8 * self.each:(at // 8 + 1) * self.each] = ids
        return self.values(lo, hi)

    def values(self, lo: int, hi: int) -> np.ndarray:
        """What some columns decode to."""
        if (lo, hi) == (0, self.d):
            return self.stage.decode(self.found, (len(self.x), self.d, "float32"))
        pieces = []
        for at in range(lo, hi, 8):
            own = {"ids": self.found["ids"][:, at // 8 * self.each:(at // 8 + 1) * self.each], "scale": self._scale(at)}
            pieces.append(self.alone.decode(own, (len(self.x), min(8, hi - at), "float32")))
        return np.concatenate(pieces, axis=1)

    def rescale(self, hessian: np.ndarray) -> None:
        """All scales of a row by the factor that loses least."""
        y = self.values(0, self.d)
        seen = y @ np.asarray(hessian, np.float32)
        top, under = (seen * self.x).sum(1, keepdims=True), (seen * y).sum(1, keepdims=True)
        factor = np.where((top > 0) & (under > 0), top / np.where(under > 0, under, 1), 1).clip(0.5, 2)
        self.found["scale"] = groups.store((groups.widen(self.found["scale"]) * factor).astype(np.float32), self.stage.scales)

    def descend(self, gradient: np.ndarray, hessian: np.ndarray, importance: np.ndarray | None = None, *, least: float = 0.0) -> float:
        """Points stay: nothing is won."""
        return 0.0

    def parts(self) -> dict[str, np.ndarray]:
        """The codes."""
        return self.found
