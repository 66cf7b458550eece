"""Entropy-coded scalar quantization: one step for all columns, as many bytes as the entropy of what comes out."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from ..array import cast, like, to_numpy, total
from ..errors import FitError
from ..stage import KW_ONLY, Part, Quantizer, replace
from .gain import coded, gain, gain_of, span
from .groups import chunks, concat

_ENDS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # classes of columns, each with its own table of probabilities
_REACH = 2047   # largest |id|
_SAMPLE = 4096  # rows whose entropy sets the step
_ROUNDS = 14    # of step, factors and prices of a trellis
_WORTH = 0.5    # what a bit is worth to a trellis, in squared levels


class Ecsq(Quantizer, name="ecsq"):
    """Integers round(x / step) of every column, about ``size`` bytes a row once an entropy coder follows.

    Parameters
    ----------
    size : int
        Bytes a row to aim at, gain and tables of ``rans`` included; met on rows like those fitted to, to about 1 %.
    gain : bool
        One byte a row so that ⟨x, x_hat⟩ = ⟨x, x⟩: inner products are then unbiased.
    trellis : bool
        Steps are half as wide, and those before in the row say which half of them a value may take; the encoder looks for the best row of
        them, bits counted (32 states). 0.7 dB less error in the same bytes; integers are one bit longer while they are searched.

    Columns should fall in variance, as after ``klt``; runs of them share a table. The interval of zero is a little wider than the
    others, which costs less error than it saves bits; integers decode times a factor of their column. Without ``rans`` after it
    this takes far more bytes. Within 0.1 bit a value of the Gaussian limit at about a bit a value (Gish & Pierce 1968); with a trellis
    nearer (entropy-coded trellis-coded quantization, Marcellin 1994; both halves share a table, as in Joshi, Crump & Fischer 1995).

    >>> import numpy as np
    >>> from compand import Codec
    >>> x = np.random.default_rng(0).standard_normal((4096, 32), dtype=np.float32) * np.float32(2) ** -np.arange(32)
    >>> codes = Codec("ecsq:6,rans").fit(x).encode(x)
    >>> bool(5.5 < codes.nbytes / 4096 < 6.2)
    True
    """

    examples = ("klt,ecsq:24,rans", "ecsq:16", "ecsq:16:trellis=true")
    size: Annotated[int, range(2, 1 << 14)]
    _: KW_ONLY
    gain: bool = True
    trellis: bool = False
    factors_: np.ndarray  # (d,) float32: x_hat = gain · factor · (integer + shift)
    reach_: np.ndarray    # (classes,) uint16: largest |id| of a class; of a trellis ids are from -reach to reach - 1
    range_: np.ndarray    # (3,) float32: step, least gain, step of gains
    price_: np.ndarray    # (classes,) float32, of a trellis: what the encoder counts a larger id by one at, in squared steps

    @staticmethod
    def ends(d: int) -> list[int]:
        """The columns where classes end."""
        return sorted({max(1, round(d * e)) for e in _ENDS}) if d else []

    def layout(self, form):
        ends = self.ends(form.d)
        if self.reach_ is None or len(self.reach_) != len(ends):
            raise FitError(f"{self}: not fitted to {form.d} columns; call fit(x) first")
        parts = {f"ids{c}": Part((form.n, end - start), k=2 * int(reach) + (not self.trellis))
                 for c, (start, end, reach) in enumerate(zip([0, *ends], ends, self.reach_, strict=False))}
        return parts | ({"gain": Part((form.n, 1), "uint8")} if self.gain else {})

    def state(self, form):
        classes = len(self.ends(form.d))
        return {"factors_": Part((form.d,), "float32"), "reach_": Part((classes,), "uint16"), "range_": Part((3,), "float32")} | (
            {"price_": Part((classes,), "float32")} if self.trellis else {})

    @property
    def shift(self) -> float:
        """What decoding adds to an integer."""
        return 0.5 if self.trellis else 0.0

    @property
    def most(self) -> np.ndarray:
        """The largest |integer| of each class: (classes,) int32."""
        return self.reach_.astype(np.int32) * (2 if self.trellis else 1)

    # -- fit, encode, decode -------------------------------------------------------------------------------------------
    def fit(self, x, *, weight=None):
        x = to_numpy(x)
        sample = np.ascontiguousarray(x[:: max(1, len(x) // _SAMPLE)], np.float64)
        fitted, near = self._fit_trellis(sample) if self.trellis else self._fit_scalar(sample)
        if self.gain:
            fitted = replace(fitted, range_=np.float32([fitted.range_[0], *span(gain_of(sample, near))]))
        return fitted

    def _fit_scalar(self, sample: np.ndarray) -> tuple[Ecsq, np.ndarray]:
        """Fitted but for gains, and what the sample decodes to."""
        d = sample.shape[1]
        top = float(np.abs(sample).max())
        ends = self.ends(d)
        low, high = top / _REACH if top > 0 else 1.0, 4 * top if top > 0 else 2.0
        for _ in range(20):
            step = float(np.sqrt(low * high))
            low, high = (step, high) if self._bytes(_ids(sample, step), ends) > self.size - self.gain else (low, step)
        ids = _ids(sample, high)
        reach = [max(1, int(np.abs(ids[:, a:b]).max())) for a, b in zip([0, *ends], ends, strict=False)]
        reach = np.minimum(np.array(reach) * 5 // 4 + 1, _REACH)
        power = (ids.astype(np.float64) ** 2).sum(axis=0)
        factors = np.where(power > 0, (sample * ids).sum(axis=0) / np.maximum(power, 1), high)
        factors = factors.astype(np.float32)
        fitted = replace(self, factors_=factors, reach_=reach.astype(np.uint16), range_=np.float32([high, 1, 0]))
        return fitted, ids * factors.astype(np.float64)

    def _fit_trellis(self, sample: np.ndarray) -> tuple[Ecsq, np.ndarray]:
        """`_fit_scalar` of a trellis: step, factors and prices follow from each other."""
        n, d = sample.shape
        ends, x = self.ends(d), sample.astype(np.float32)
        starts, widths = [0, *ends[:-1]], np.diff([0, *ends])
        rms, top = np.sqrt((sample ** 2).mean(axis=0)), float(np.abs(sample).max())
        least = top / _REACH if top > 0 else 1.0
        step, level, ids = max(float(np.sqrt((rms ** 2).mean())), least), np.zeros((n, d)), np.zeros((n, d))
        fitted = replace(self, reach_=np.full(len(ends), _REACH, np.uint16), price_=np.full(len(ends), _WORTH, np.float32),
                         factors_=np.full(d, step, np.float32), range_=np.float32([step, 1, 0]))
        for _ in range(_ROUNDS):
            level = fitted.integers(fitted._trellis(x)[0]) + 0.5
            ids = np.where(level % 2 == 0.5, level - 0.5, -level - 0.5) / 2
            power = (level ** 2).sum(axis=0)
            ratio = np.maximum((sample * level).sum(axis=0) / np.maximum(power, 0.25), 0) / step
            over = np.add.reduceat(np.abs(level).mean(axis=0) - 0.5, starts) / widths
            price = _WORTH * np.log2(1 + 1 / np.maximum(over, 1e-3))  # a level more, where they fall off geometrically
            bits = 8 * (self._bytes(ids.astype(np.int32), ends) - self.size + self.gain)
            step = max(step * 2 ** float(np.clip(bits / max((rms > step).sum(), d / 8), -1, 1)), least)
            fitted = replace(fitted, price_=price.astype(np.float32), factors_=(step * ratio).astype(np.float32),
                             range_=np.float32([step, 1, 0]))
        reach = [max(2, int(-ids[:, a:b].min()), int(ids[:, a:b].max()) + 1) for a, b in zip(starts, ends, strict=True)]
        reach = np.minimum(np.array(reach) * 5 // 4 + 1, _REACH)
        return replace(fitted, reach_=reach.astype(np.uint16)), level * fitted.factors_.astype(np.float64)

    @staticmethod
    def _bytes(ids: np.ndarray, ends: list[int]) -> float:
        """Bytes a row by the entropy of each class, and for its table where a block has as many rows as usual."""
        found = 0.0
        for a, b in zip([0, *ends], ends, strict=False):
            count = np.bincount((ids[:, a:b] - ids[:, a:b].min()).ravel())
            p = count[count > 0] / count.sum()
            found -= (b - a) * float((p * np.log2(p)).sum()) / 8
            found += (20 + len(p)) / max(1.0, (1 << 20) / ends[-1])
        return found

    def _products(self, x: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """|x|² and ⟨x, factors · ids⟩ of each row: (n,) float64."""
        x = np.asarray(x, np.float64)
        return total(x * x)[:, 0], total(x * (ids * self.factors_.astype(np.float64)))[:, 0]

    def _trellis(self, x: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Ids, ⟨x, what they decode to⟩ and |x|² of each row of float32."""
        from .. import _native

        ends, step = self.ends(x.shape[1]), np.float32(self.range_[0])
        factors = self.factors_.astype(np.float32)
        used = factors > np.float32(1e-3) * step
        columns = np.stack([np.where(used, 1 / np.where(used, factors, 1), 0), np.where(used, np.square(factors / step), 0),
                            np.repeat(self.price_, np.diff([0, *ends])), factors]).astype(np.float32)
        ids, dots, squares = _native.ecsq_trellis(np.ascontiguousarray(x, np.float32), columns, np.array(ends, np.int64),
                                                  self.reach_.astype(np.int64))
        return {f"ids{c}": a for c, a in enumerate(ids)}, dots, squares

    def encode(self, x):
        y = to_numpy(x)
        if self.trellis:
            ids, dots, squares = self._trellis(y)
            parts = {path: like(a, x) for path, a in ids.items()}
            return parts | (self._gains(squares, dots, x) if self.gain else {})
        if y.dtype != np.float32 or not 1e-30 < float(self.range_[0]) < 1e30:
            return concat([self._encode(x[rows]) for rows in chunks(x)])
        from .. import _native

        ids, dots, squares = _native.ecsq_encode(np.ascontiguousarray(y), self.factors_, float(np.float32(1 / self.range_[0])),
                                                 np.array(self.ends(y.shape[1]), np.int64), self.reach_.astype(np.int64))
        parts = {f"ids{c}": like(a, x) for c, a in enumerate(ids)}
        return parts | (self._gains(squares, dots, x) if self.gain else {})

    def _encode(self, x):
        """`encode` in plain NumPy, and of float64."""
        y = to_numpy(x)
        ends, ids = self.ends(y.shape[1]), _ids(y, float(self.range_[0]))
        starts = [0, *ends]
        for a, b, reach in zip(starts, ends, self.reach_.tolist(), strict=False):
            np.clip(ids[:, a:b], -reach, reach, out=ids[:, a:b])
        parts = {f"ids{c}": like((ids[:, a:b] + reach).astype(np.uint8 if reach < 128 else np.uint16), x)
                 for c, (a, b, reach) in enumerate(zip(starts, ends, self.reach_.tolist(), strict=False))}
        return parts | (self._gains(*self._products(y, ids), x) if self.gain else {})

    def _gains(self, squares, dots, x):
        """The part of gains |x|² / ⟨x, y⟩ where y points the way of x, else 1."""
        return {"gain": like(coded(gain(squares, dots), *map(float, self.range_[1:])), x)}

    def gains(self, parts) -> np.ndarray:
        """The gain of each row: (n,) float32."""
        n = parts["ids0"].shape[0]
        return to_numpy(parts["gain"])[:, 0] * self.range_[2] + self.range_[1] if self.gain else np.ones(n, np.float32)

    def integers(self, parts) -> np.ndarray:
        """The integers of all columns: (n, d) int16."""
        if self.trellis:
            from .. import _native

            return _native.ecsq_levels(*self._given(parts))
        return np.concatenate([to_numpy(parts[f"ids{c}"]).astype(np.int16) - np.int16(reach)
                               for c, reach in enumerate(self.reach_.tolist())], axis=1)

    def _given(self, parts) -> tuple[list[np.ndarray], np.ndarray, int]:
        """Ids of a trellis as native code takes them, what they reach, and how many rows they are of."""
        ids = [np.ascontiguousarray(to_numpy(parts[f"ids{c}"]), np.uint8 if reach <= 128 else np.uint16)
               for c, reach in enumerate(self.reach_.tolist())]
        return ids, self.reach_.astype(np.int64), len(ids[0]) if ids else 0

    def decode(self, parts, form):
        if self.trellis:
            from .. import _native

            y = _native.ecsq_values(*self._given(parts), np.ascontiguousarray(self.factors_, np.float32))
        else:
            y = self.integers(parts) * self.factors_
        if self.gain:
            y = y * self.gains(parts)[:, None]
        return cast(like(y.astype(np.float32), parts["ids0"]), form.dtype)


def _ids(x: np.ndarray, step: float) -> np.ndarray:
    """x / step rounded to the nearest integer, up to 0.56 to zero: (n, d) int32."""
    a = np.minimum(np.abs(x) * x.dtype.type(1 / step), _REACH)
    near = np.floor(a + x.dtype.type(0.5))
    near *= a >= x.dtype.type(0.56)
    return np.copysign(near, x, out=near).astype(np.int32)
