"""One bit a value: signs, and the fourth roots of unity for pairs of values."""

from __future__ import annotations

from typing import Annotated, Literal

from ..array import array_namespace, cast
from ..stage import KW_ONLY, Part, Quantizer
from . import groups


class Sign(Quantizer, name="sign"):
    """The sign of each value times a scale for each row or group; ids (n, d) in {0: -, 1: +}, zero counts as +.

    ``scale=mean`` is mean |x|, the least squared error (XNOR-Net, Rastegari 2016); ``median`` is robust to outliers.
    ``complex=true`` takes pairs (x_2i, x_2i+1) as complex numbers and keeps the nearest of 1, i, -1, -i, ids (n, ceil(d/2)) in
    that order (iFairy, 2025): also one bit a value. ``encode(x, weight)`` weighs the mean. Repeated by ``+`` it is residual
    binarization (DB-LLM, BitStack).

    >>> import numpy as np
    >>> parts = Sign().encode(np.float32([[3, -1, 2, -2]]))
    >>> parts["ids"], float(parts["scale"][0, 0])
    (array([[1, 0, 1, 0]], dtype=uint8), 2.0)
    """

    weighs = True
    examples = ("sign", "sign:64", "sign:complex=true", "sign:16+sign:16")

    group: Annotated[int, range(1, 1 << 24)] | None = None
    _: KW_ONLY
    scale: Literal["mean", "median"] = "mean"
    complex: bool = False
    scales: Literal["bfloat16", "float16", "float32"] = "bfloat16"

    def check(self):
        if self.complex and self.group and self.group % 2:
            raise self.fail(f"complex pairs need an even group; try group={self.group + 1}")

    def layout(self, form):
        ids = Part((form.n, -(-form.d // 2)), k=4) if self.complex else Part((form.n, form.d), k=2)
        return {"ids": ids, "scale": Part((form.n, groups.count(form.d, self.group)), self.scales)}

    def encode(self, x, weight=None):
        return groups.concat([self._encode(groups.float32(x[rows]), groups.of_rows(weight, rows)) for rows in groups.chunks(x)])

    def _encode(self, x, weight):
        xp, w = array_namespace(x), groups.weights(weight, x)
        if not self.complex:
            s = groups.statistic(xp.abs(x), self.group, self.scale, w)
            return {"ids": xp.astype(x >= 0, xp.uint8), "scale": groups.store(s, self.scales)}
        n, d = x.shape
        if d % 2:
            x, w = (a if a is None else xp.concat([a, xp.zeros((n, 1), dtype=a.dtype)], axis=1) for a in (x, w))
        pairs = xp.reshape(x, (n, -1, 2))
        re, im = pairs[:, :, 0], pairs[:, :, 1]
        real = xp.abs(re) >= xp.abs(im)
        size = xp.where(real, xp.abs(re), xp.abs(im))
        w = None if w is None else xp.where(real, w[:, ::2], w[:, 1::2])
        s = groups.statistic(size, self.group and self.group // 2, self.scale, w)
        ids = xp.where(real, xp.astype(re < 0, xp.uint8) * 2, xp.astype(im < 0, xp.uint8) * 2 + 1)
        return {"ids": xp.astype(ids, xp.uint8), "scale": groups.store(s, self.scales)}

    def decode(self, parts, form):
        ids, s = parts["ids"], groups.widen(parts["scale"])
        xp = array_namespace(ids)
        if not self.complex:
            y = xp.astype(ids, xp.float32)
            y *= 2
            y -= 1
            return cast(groups.times(y, s, self.group), form.dtype)
        sign = 1.0 - xp.astype(ids & 2, xp.float32)
        odd = xp.astype(ids & 1, xp.float32)
        sign = groups.times(sign, s, self.group and self.group // 2)
        y = xp.stack([sign * (1 - odd), sign * odd], axis=2)
        return cast(xp.reshape(y, (form.n, -1))[:, :form.d], form.dtype)
