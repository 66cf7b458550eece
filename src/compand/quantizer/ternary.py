"""Three levels: -s, 0, s."""

from __future__ import annotations

from typing import Annotated, Literal

from ..array import array_namespace, cast
from ..stage import KW_ONLY, Part, Quantizer
from . import groups


class Ternary(Quantizer, name="ternary"):
    """-s, 0 or s, with a scale for each row or group; ids 0, 1, 2, five to a byte (1.6 bits a value).

    ===================  ======================================================================================
    ``rule=twn``         values beyond 0.7 mean |x|; s = their mean magnitude (TWN, Li 2016): the default
    ``rule=best``        the threshold of least squared error, found by sorting
    ``rule=absmean``     s = mean |x|, values rounded to the nearest level (BitNet b1.58, Ma 2024)
    ``rule=median``      s = median |x|, rounded to the nearest level: robust to outliers
    ``keep=0.2``         the largest share of each row or group, s = their mean magnitude: with ``,rans`` sparse ternary codes
                         of as few bits as zeros are many (ComPEFT, Yadav 2023)
    ===================  ======================================================================================

    ``encode(x, weight)`` weighs means and errors; the median takes no weights.

    >>> import numpy as np
    >>> parts = Ternary().encode(np.float32([[4, -0.5, 0, -2]]))
    >>> parts["ids"], float(parts["scale"][0, 0])
    (array([[2, 1, 1, 0]], dtype=uint8), 3.0)
    """

    weighs = True
    examples = ("ternary", "ternary:16:rule=best")

    group: Annotated[int, range(1, 1 << 24)] | None = None
    _: KW_ONLY
    rule: Literal["twn", "best", "absmean", "median"] = "twn"
    keep: Annotated[float, (0.001, 1.0)] | None = None
    scales: Literal["bfloat16", "float16", "float32"] = "bfloat16"

    def check(self):
        if self.keep is not None and self.rule != "twn":
            raise self.fail("keep says which values are not 0, and so does rule; give one")

    def layout(self, form):
        return {"ids": Part((form.n, form.d), k=3), "scale": Part((form.n, groups.count(form.d, self.group)), self.scales)}

    def encode(self, x, weight=None):
        return groups.concat([self._encode(groups.float32(x[rows]), groups.of_rows(weight, rows)) for rows in groups.chunks(x)])

    def _encode(self, x, weight):
        xp = array_namespace(x)
        a, w = xp.abs(x), groups.weights(weight, x)
        if self.rule in ("absmean", "median"):
            s = groups.statistic(a, self.group, "mean" if self.rule == "absmean" else "median", w)
            least = groups.spread(s * 0.5, x.shape[1], self.group)
        else:
            if self.keep is not None:
                limit = self._share(a)
            elif self.rule == "twn":
                limit = groups.statistic(a, self.group, "mean", w) * 0.7
            else:
                limit = self._best(a, w)
            least = groups.spread(limit, x.shape[1], self.group)
            kept = xp.astype(a > least, xp.float32)
            share = groups.statistic(kept, self.group, "mean", w)
            s = groups.statistic(a * kept, self.group, "mean", w) / xp.where(share == 0, xp.ones_like(share), share)
        beyond = a > least
        ids = xp.astype(beyond & (x > 0), xp.uint8) + xp.astype(~(beyond & (x < 0)), xp.uint8)
        return {"ids": ids, "scale": groups.store(s, self.scales)}

    def _share(self, a):
        """The largest value of each group that is left out, or -1 if none is."""
        xp = array_namespace(a)
        y, real = groups.split(a, self.group), groups.mask(a, self.group)
        y = y if real is None else y * real - (1 - real)  # what fills a group up comes last
        size = xp.sum(xp.ones_like(y) if real is None else xp.broadcast_to(real, y.shape), axis=2, keepdims=True)
        kept = xp.clip(xp.round(size * self.keep), 1, None)
        y = xp.concat([xp.sort(y, axis=2, descending=True), xp.full_like(y[:, :, :1], -1.0)], axis=2)
        return xp.take_along_axis(y, xp.astype(kept, xp.int64), axis=2)[:, :, 0]

    def _best(self, a, w=None):
        """The threshold of each group that maximises (sum of the j largest)² / j, the error removed; with weights (Σ w a)² / Σ w."""
        xp = array_namespace(a)
        y = groups.split(a, self.group)
        real = groups.mask(a, self.group)
        top = xp.max(y, axis=2, keepdims=True)
        y = y / xp.where(top == 0, xp.ones_like(top), top)
        y = y if real is None else y * real
        if w is None:
            y = xp.sort(y, axis=2, descending=True)
            total, count = xp.cumulative_sum(y, axis=2), xp.cumulative_sum(xp.ones_like(y), axis=2)
            mass = count
        else:
            w = groups.split(w, self.group)
            order = xp.argsort(y, axis=2, descending=True)
            y, w = (xp.take_along_axis(v, order, axis=2) for v in (y, w if real is None else w * real))
            count = xp.cumulative_sum(xp.ones_like(y), axis=2)
            total, mass = xp.cumulative_sum(w * y, axis=2), xp.cumulative_sum(w, axis=2)
            mass = xp.where(mass == 0, xp.ones_like(mass), mass)
        j = xp.argmax(total * total / mass, axis=2, keepdims=True)
        next_ = xp.where(count > xp.astype(j, xp.float32) + 1, y, xp.zeros_like(y))  # the largest value left out
        return xp.max(next_, axis=2) * top[:, :, 0]

    def decode(self, parts, form):
        ids = parts["ids"]
        xp = array_namespace(ids)
        y = xp.astype(ids, xp.float32)
        y -= 1
        return cast(groups.times(y, groups.widen(parts["scale"]), self.group), form.dtype)
