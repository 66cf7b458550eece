"""A residual code whose later codewords are made by a small network of what the earlier ones say."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from ..array import cast, like, to_numpy, total
from ..errors import FitError
from ..stage import KW_ONLY, Part, Quantizer, replace
from . import codebook
from .gain import coded, gain_of, span

_K = 256
_TRIES = 8         # nearest codewords that are bent
_ROWS = 1 << 14    # rows that codewords start from, and gains
_HELD = 1 << 21    # values of candidates held at a time


class Neural(Quantizer, name="neural"):
    """``size`` bytes a row, its gain included: ids of 256 codewords, each but the first bent by the sum of those before it.

    Parameters
    ----------
    size : int
        Bytes a row: one for each step, one for the gain.
    hidden : int
        Units of each step's network: y + c + leave · max(0, enter · c + context · y + bias), y what the steps before say, c the codeword.
    gain : bool
        One byte a row so that ⟨x, x_hat⟩ = ⟨x, x⟩: inner products are then unbiased.
    beam : int
        Beginnings that the encoder keeps; of each the 8 nearest codewords are tried, bent. More takes longer and finds less error.

    ``fit`` starts from residual k-means and networks that bend nothing; `compand.torch.train_neural` trains both. Decoding is sums and
    products in a fixed order and needs no PyTorch. Searches decode every row, hundreds of thousands a second: for short lists (the
    second term of a sum), or for collections that are read more often than searched. The fitted state is large:
    size · (768 hidden + 512 d) bytes or so. Huijben et al. 2024 (QINCo); Vallaeys et al. 2025 (QINCo2: preselected candidates, beam).

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((600, 8), dtype=np.float32)
    >>> q = Neural(3, hidden=4).fit(x)
    >>> parts = q.encode(x)
    >>> parts["ids"].shape, bool(np.square(x - q.decode(parts, (600, 8, "float32"))).mean() < 0.2)
    ((600, 2), True)
    """

    examples = ("neural:3:hidden=4", "klt,neural:4:hidden=4")
    size: Annotated[int, range(2, 1 << 9)]
    _: KW_ONLY
    hidden: Annotated[int, range(1, 1 << 12)] = 128
    gain: bool = True
    beam: Annotated[int, range(1, 9)] = 4
    codewords_: np.ndarray  # (steps, 256, d) float16, in units of unit
    enter_: np.ndarray      # (steps, d, hidden) float16
    context_: np.ndarray    # (steps, d, hidden) float16
    bias_: np.ndarray       # (steps, hidden) float16
    leave_: np.ndarray      # (steps, hidden, d) float16
    unit_: np.ndarray       # (3,) float32: unit, least gain, step of gains

    @property
    def effort(self) -> int:
        return 40 * self.steps

    @property
    def steps(self) -> int:
        """Ids of a row."""
        return self.size - self.gain

    def layout(self, form):
        parts = {"ids": Part((form.n, self.steps), k=_K)}
        return parts | ({"gain": Part((form.n, 1), "uint8")} if self.gain else {})

    def state(self, form):
        s, d, h = self.steps, form.d, self.hidden
        return {"codewords_": Part((s, _K, d), "float16"), "enter_": Part((s, d, h), "float16"), "context_": Part((s, d, h), "float16"),
                "bias_": Part((s, h), "float16"), "leave_": Part((s, h, d), "float16"), "unit_": Part((3,), "float32")}

    def gains(self, parts) -> np.ndarray:
        """The gain of each row: (n,) float32."""
        n = parts["ids"].shape[0]
        return to_numpy(parts["gain"])[:, 0] * self.unit_[2] + self.unit_[1] if self.gain else np.ones(n, np.float32)

    # -- fit, encode, decode -------------------------------------------------------------------------------------------
    def fit(self, x, *, weight=None):
        y = to_numpy(x)
        n, d = y.shape
        if n < 2:
            raise FitError(f"{self}: needs rows to learn codewords from, got {n}")
        unit = min(max(float(np.abs(y).max()), 1e-30), 1e38)
        rest = (y[:: max(1, n // _ROWS)] / y.dtype.type(unit)).astype(np.float32)
        words = np.zeros((self.steps, _K, d), np.float16)
        for own in words:
            own[:] = codebook.learn(rest, _K)
            rest = rest - own.astype(np.float32)[codebook.nearest(rest, own.astype(np.float32))]
        size = max(float(np.sqrt(total(np.square(y / y.dtype.type(unit), dtype=np.float64))[:, 0].mean())), 1e-3)
        enter = np.random.default_rng(0).standard_normal((self.steps, 2 * d, self.hidden)) / size  # where training starts
        fitted = replace(self, codewords_=words, enter_=enter[:, :d].astype(np.float16), context_=enter[:, d:].astype(np.float16),
                         bias_=np.zeros((self.steps, self.hidden), np.float16), leave_=np.zeros((self.steps, self.hidden, d), np.float16),
                         unit_=np.float32([unit, 1, 0]))
        return fitted.with_gains(y)

    def with_gains(self, x: np.ndarray) -> Neural:
        """The same with the range of gains that rows x (n, d) need."""
        if not self.gain:
            return self
        y = self._scaled(x[:: max(1, len(x) >> 11)])
        return replace(self, unit_=np.float32([self.unit_[0], *span(gain_of(y, self._near(self._ids(y))))]))

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x / x.dtype.type(self.unit_[0]), np.float32)

    def _step(self, m: int):
        """Codewords, what the network takes of them, context with bias, and leave, of step m."""
        from .. import _native

        words = self.codewords_[m].astype(np.float32)
        if not m or not self.leave_[m].any():  # no network, or one that bends nothing
            return words, None, None, None
        entered = _native.scan_turned(words, self.enter_[m].astype(np.float32)) + self.bias_[m].astype(np.float32)
        return words, entered, self.context_[m].astype(np.float32), self.leave_[m].astype(np.float32)

    @staticmethod
    def _bent(step, near: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """What codewords ids (n, m) add to rows that are near (n, d) so far: (n, m, d)."""
        from .. import _native

        words, entered, context, leave = step
        if entered is None:
            return words[ids]
        inner = np.maximum(entered[ids] + _native.scan_turned(near, context)[:, None], np.float32(0))
        return words[ids] + _native.scan_turned(inner.reshape(-1, inner.shape[2]), leave).reshape(*ids.shape, -1)

    def _near(self, ids: np.ndarray) -> np.ndarray:
        """What ids (n, steps) say, no gain, in units of unit: (n, d) float32."""
        near = np.zeros((len(ids), self.codewords_.shape[2]), np.float32)
        with np.errstate(all="ignore"):
            for m in range(self.steps):
                near += self._bent(self._step(m), near, ids[:, m:m + 1])[:, 0]
        return near

    def _ids(self, x: np.ndarray) -> np.ndarray:
        """Ids (n, steps) uint8 by beam search: x (n, d) in units of unit."""
        from .. import _native

        steps = [self._step(m) for m in range(self.steps)]
        n, d = x.shape
        some, out = max(1, _HELD // (self.beam * _TRIES * max(d, self.hidden))), np.zeros((n, self.steps), np.uint8)
        for at in range(0, n, some):
            rows = x[at:at + some]
            near, kept = np.zeros((len(rows), 1, d), np.float32), np.zeros((len(rows), 1, 0), np.uint8)
            lines = np.arange(len(rows))[:, None]
            for step in steps:
                words, beams = step[0], near.shape[1]
                rest = (rows[:, None] - near).reshape(-1, d)
                far = total(np.square(words))[:, 0] - 2 * _native.scan_turned(rest, np.ascontiguousarray(words.T))
                tried = _least(far, _TRIES)  # (rows · beams, tries)
                base = np.ascontiguousarray(near.reshape(-1, d))
                after = (base[:, None] + self._bent(step, base, tried)).reshape(len(rows), -1, d)
                error = total(np.square(rows[:, None] - after).reshape(-1, d))[:, 0].reshape(len(rows), -1)
                best = np.argsort(error, axis=1, kind="stable")[:, :self.beam]
                own = best // _TRIES
                word = tried.reshape(len(rows), beams * _TRIES)[lines, best].astype(np.uint8)
                near, kept = after[lines, best], np.concatenate([kept[lines, own], word[..., None]], axis=2)
            out[at:at + some] = kept[:, 0]
        return out

    def encode(self, x):
        y = self._scaled(to_numpy(x))
        ids = self._ids(y)
        parts = {"ids": like(ids, x)}
        if self.gain:
            parts["gain"] = like(coded(gain_of(y, self._near(ids)), *map(float, self.unit_[1:])), x)
        return parts

    def decode(self, parts, form):
        y = self._near(to_numpy(parts["ids"])).astype(np.float64) * (self.gains(parts).astype(np.float64) * float(self.unit_[0]))[:, None]
        return cast(like(np.clip(y, -3.4e38, 3.4e38).astype(np.float32), parts["ids"]), form[2])


def _least(x: np.ndarray, count: int) -> np.ndarray:
    """Columns of the least values of each row, in order of columns; of equal values the first, on every machine."""
    bits = np.ascontiguousarray(x, np.float32).view(np.int32).astype(np.int64)
    keys = ((bits ^ (bits >> 31 & 0x7FFFFFFF)) << 8) + np.arange(x.shape[1])
    return np.sort(np.partition(keys, count - 1, axis=1)[:, :count] & 255, axis=1)
