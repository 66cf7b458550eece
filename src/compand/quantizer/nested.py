"""Integers whose leading bits are a quantizer too: one set of values at several numbers of bits."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from ..array import array_namespace, cast
from ..stage import KW_ONLY, Part, Quantizer, replace
from . import groups

RATIOS = (1.0, 0.88, 0.77, 0.68, 0.6, 0.52, 0.45, 0.38, 0.3, 0.22)  # of the range that the scale may cover


class Nested(Quantizer, name="nested"):
    """``nested:2x4x8``: integers of 8 bits that decode at 4 and 2 bits too, by ``terms=1``, 2 or 3 as a sum does.

    Parameters
    ----------
    bits : such as 2x4x8
        Bits of a value after each term, rising, at most 16.
    group : int
        One scale for each so many values of a row; none: one a row.
    rule : floor or round
        ``floor``: the fewer bits are the leading ones, and values lie in the middle of their cell. ``round``: they are the more bits
        rounded to nearest (double rounding, Huang et al. 2025, eq. 6: q_l = round(q_h / 2^(h - l))), and zero is exact; worse at 1
        and 2 bits, because what rounds up beyond the largest level is clipped for all terms.
    scales : bfloat16, float16 or float32
        Of the scales, which all terms share: of a few tried, the one whose errors at all terms have the least geometric mean.

    Each term stores only the bits it adds, so the file is as large as that of the last term alone. A network is trained for all of
    them with ``Recipe(prefix=True)``.

    >>> import numpy as np, compand
    >>> codec = compand.Codec("nested:2x8:rule=round")
    >>> codes = codec.encode(np.float32([[0.0, 1.0, -2.0, 0.9]]))
    >>> [codec.decode(codes, terms=t).astype(float).round(1).tolist() for t in (2, 1)]
    [[[0.0, 1.0, -2.0, 0.9]], [[0.0, 0.8, -1.6, 0.8]]]
    """

    examples = ("nested:2x4x8", "nested:2x4:group=16:rule=round")
    progressive = True
    bits: tuple[int, ...]
    _: KW_ONLY
    group: Annotated[int, range(1, 1 << 24)] | None = None
    rule: Literal["floor", "round"] = "floor"
    scales: Literal["bfloat16", "float16", "float32"] = "bfloat16"

    def check(self):
        if self.bits[0] < 1 or self.bits[-1] > 16 or any(a >= b for a, b in pairwise(self.bits)):
            raise self.fail("bits rise from 1 or more to 16 at most, such as nested:2x4x8")

    @property
    def widths(self) -> list[int]:
        """Bits that each term adds."""
        return [self.bits[0], *(b - a for a, b in pairwise(self.bits))]

    @property
    def span(self) -> tuple[int, int]:
        """The least and the largest integer: what rounds to more than the first term can say is left out."""
        low, high = -(1 << (self.bits[0] - 1)), (1 << (self.bits[0] - 1)) - 1
        for w in self.widths[1:]:
            half = 1 << (w - 1) if self.rule == "round" else 0
            low, high = (low << w) - half, (high << w) + (1 << w) - 1 - half
        return low, high

    def layout(self, form):
        parts = {f"{t}.ids": Part((form.n, form.d), k=1 << w) for t, w in enumerate(self.widths)}
        return parts | {"scale": Part((form.n, groups.count(form.d, self.group)), self.scales)}

    def encode(self, x):
        return groups.concat([self._encode(groups.float32(x[rows])) for rows in groups.chunks(x)])

    def _encode(self, x):
        xp = array_namespace(x)
        s = groups.store(self._scale(x), self.scales)
        ids = self._split(self._integers(x, groups.spread(groups.widen(s), x.shape[1], self.group)), xp)
        return {f"{t}.ids": xp.astype(own, xp.uint8 if w <= 8 else xp.int32) for t, (own, w) in
                enumerate(zip(ids, self.widths, strict=True))} | {"scale": s}

    def _scale(self, x):
        """The step of the last term for each group: (n, groups)."""
        xp, (low, high) = array_namespace(x), self.span
        y = groups.split(x, self.group)
        top = xp.max(xp.abs(y), axis=2)
        unit = xp.where(top == 0, xp.ones_like(top), top)
        y, best, least = y / unit[:, :, None], None, None
        for ratio in RATIOS:
            s = groups.widen(groups.store(unit * (ratio / min(-low, high + 1)), self.scales)) / unit
            q, worth = self._integers(y, s[:, :, None]), 0
            for values in self._values(self._split(q, xp), xp):
                error = values * s[:, :, None] - y
                worth = worth + xp.log(groups.total(error * error)[:, :, 0] + 1e-12)
            if best is None:
                best, least = s, worth
            else:
                best, least = xp.where(worth < least, s, best), xp.minimum(worth, least)
        return xp.where(top == 0, xp.zeros_like(top), best * unit)

    def _integers(self, x, s):
        xp = array_namespace(x)
        q = x / xp.where(s == 0, xp.ones_like(s), s)
        q = xp.round(q) if self.rule == "round" else xp.floor(q)
        return xp.astype(xp.clip(q, *self.span), xp.int32)

    def _split(self, q, xp) -> list:
        """Integers → the ids of each term."""
        ids = []
        for w in reversed(self.widths[1:]):
            half = 1 << (w - 1) if self.rule == "round" else 0
            coarse = (q + half) >> w
            ids.append(q - (coarse << w) + half)
            q = coarse
        return [q + (1 << (self.bits[0] - 1)), *reversed(ids)]

    def _steps(self, ids: list):
        """The integers that the ids of the first 1, 2, ... terms say, each in steps of its own: int32."""
        for t, own in enumerate(ids):
            own = array_namespace(own).astype(own, array_namespace(own).int32)
            if t == 0:
                q = own - (1 << (self.bits[0] - 1))
            else:
                w = self.widths[t]
                q = (q << w) + own - (1 << (w - 1) if self.rule == "round" else 0)
            yield q

    def integers(self, ids: list):
        """The integers that all these ids say: int32 (n, d), within `span` for ids of every term."""
        return list(self._steps(ids))[-1]

    def _values(self, ids: list, xp) -> list:
        """What the ids of the first 1, 2, ... terms stand for, in steps of the last one, float32."""
        middle = 0.5 if self.rule == "floor" else 0.0
        return [(xp.astype(q, xp.float32) + middle) * float(1 << (self.bits[-1] - b))
                for q, b in zip(self._steps(ids), self.bits, strict=False)]

    def joined(self) -> Joined:
        """The same values with all bits of each in one id, for feedback a column at a time."""
        return Joined(self)

    def first(self, terms: int):
        """See `compand.terms.first`: the leading bits alone, whose steps are larger."""
        grown = self.bits[-1] - self.bits[terms - 1]
        short = replace(self, bits=self.bits[:terms], scales="float32" if self.scales == "float16" else self.scales)
        return short, lambda path: (path, grown if path == "scale" else 0)

    def decode(self, parts, form, terms: int | None = None):
        ids = [parts[f"{t}.ids"] for t in range(min(terms or len(self.bits), len(self.bits)))]
        y = self._values(ids, array_namespace(ids[0]))[-1]
        return cast(groups.times(y, groups.widen(parts["scale"]), self.group), form.dtype)


class Joined:
    """A ``nested`` stage as a scalar one: parts ``ids``, all bits of a value, and ``scale``."""

    def __init__(self, nested: Nested):
        self.nested, self.group, self.name = nested, nested.group, "joined"
        self.low, self.high = nested.span

    def layout(self, form):
        return {"ids": Part((form.n, form.d), k=self.high - self.low + 1), "scale": self.nested.layout(form)["scale"]}

    def encode(self, x):
        parts = self.nested.encode(x)
        return {"ids": self.nested.integers([parts[f"{t}.ids"] for t in range(len(self.nested.bits))]) - self.low, "scale": parts["scale"]}

    def decode(self, parts, form):
        return self.nested.decode(self.parts(parts), form)

    def parts(self, parts):
        """The parts of the nested stage."""
        q = array_namespace(parts["ids"]).astype(parts["ids"], array_namespace(parts["ids"]).int32) + self.low
        return {f"{t}.ids": own for t, own in enumerate(self.nested._split(q, array_namespace(q)))} | {"scale": parts["scale"]}
