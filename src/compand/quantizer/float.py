"""Small floating-point numbers times a scale: FP8, FP6, FP4, with MX and NVFP4 block scales."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from ..array import array_namespace, cast, exponent, like, power, to_numpy, total
from ..fit import scale as scales
from ..stage import KW_ONLY, Form, Part, Quantizer, replace
from . import groups
from .minifloat import Format

E4M3 = Format(4, 3)


class Float(Quantizer, name="float"):
    """Numbers of a small floating-point format eXmY (a sign, X exponent bits, Y mantissa bits) times a scale.

    ========================  ================================================================================
    ``float:e4m3``            OCP FP8, one scale a row; also e5m2, e3m2, e2m3, e2m1, any with 1 + X + Y <= 8
    ``group=32``              one scale a group of a row's values
    ``scale=tensor``          one fitted scale
    ``scale=none``            plain casting, saturating
    ``scale=mx``              OCP Microscaling (2023): a power of two for each 32 values, stored as E8M0
    ``scale=nvfp4``           an E4M3 scale for each 16 values times a fitted float32 scale
    ========================  ================================================================================

    Ids are the format's bit patterns. Rounding is to nearest, ties to even, saturating, with subnormals; the codes for NaN and
    infinity of e4m3 and e5m2 are never written. ``search=mse`` lets a scale clip or leave room where that lowers the squared
    error; ``absmax`` maps the largest magnitude to the largest number (mx: the OCP rule, 2^(floor(log2 max) - emax)).

    >>> import numpy as np
    >>> q = Float("e2m1", scale="none")
    >>> q.encode(np.float32([[0.2, 0.3, -2.4, 99]]))["ids"]
    array([[ 0,  1, 12,  7]], dtype=uint8)
    """

    weighs = True
    examples = ("float:e4m3", "float:e2m1:scale=mx", "float:e2m1:scale=nvfp4")
    format: str
    _: KW_ONLY
    scale: Literal["row", "tensor", "mx", "nvfp4", "none"] = "row"
    group: Annotated[int, range(1, 1 << 24)] | None = None
    search: Literal["mse", "absmax"] = "mse"
    scales: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    scale_: np.ndarray  # (1,) float32

    def check(self):
        if Format.parse(self.format) is None:
            raise self.fail(f"{self.format!r} is not a format eXmY with X from 1 to 7 and 1 + X + Y of 8 or less, such as e4m3")
        if self.scale != "row" and (self.group or self.scales != "bfloat16"):
            raise self.fail("group and scales go with scale=row; mx has groups of 32, nvfp4 of 16")

    @property
    def of(self) -> Format:
        """The format of the ids."""
        return Format.parse(self.format)  # type: ignore[return-value]

    @property
    def _group(self) -> int | None:
        return {"mx": 32, "nvfp4": 16}.get(self.scale, self.group)

    def layout(self, form):
        parts = {"ids": Part((form.n, form.d), k=self.of.k)}
        if self.scale in ("row", "mx", "nvfp4"):
            parts["scale"] = Part((form.n, groups.count(form.d, self._group)), self.scales if self.scale == "row" else "uint8")
        return parts

    def state(self, form):
        return {"scale_": Part((1,), "float32")} if self.scale in ("tensor", "nvfp4") else {}

    def fit(self, x, *, weight=None):
        if not self.state(Form(1, 1)):
            return self
        xp = array_namespace(x)
        x = cast(x, "float32")
        if self.scale == "nvfp4":  # the largest group scale becomes E4M3's largest number
            s = scales.stored(xp.reshape(xp.max(xp.abs(x)), (1, 1)) / (self.of.largest * E4M3.largest), "float32")
        else:
            w = None if weight is None else xp.reshape(xp.broadcast_to(cast(weight, "float32"), x.shape), (1, -1))
            s = self._find(xp.reshape(x, (1, -1)), w)[0]
        s = to_numpy(s).astype(np.float32).reshape(1)
        return replace(self, scale_=np.where(s == 0, np.float32(1), s))

    def _find(self, x, weight=None):
        """The scale of each row of x (m, g): the scale (m, 1) float32, and as it is stored."""
        xp = array_namespace(x)
        a = xp.max(xp.abs(x), axis=1, keepdims=True)
        base = a / self.of.largest
        ratios = (1.0,) if self.search == "absmax" else (1.0, 0.9, 0.8, 0.7, *(scales.WIDE if x.shape[1] > 512 else ()))
        if self.scale == "mx":
            top = np.floor(np.log2(self.of.largest))
            e = xp.clip(exponent(xp.clip(a, min=2.0**-126)) - float(top), -126, 126)
            tried = [power(e + i) for i in ((0.0, 1.0) if self.search == "mse" else (0.0,))]
        elif self.scale == "nvfp4":
            unit = float(self.scale_[0])  # type: ignore[index]
            tried = [E4M3.round(base / unit * r) * unit for r in ((1.0, 1.5, 0.85) if self.search == "mse" else (1.0,))]
        else:
            dtype = self.scales if self.scale == "row" else "float32"
            tried = [scales.stored(base * r, dtype, up=r == 1) for r in ratios]
        best = tried[0]
        if len(tried) > 1:
            safe = xp.where(a == 0, xp.ones_like(a), a)
            y, least = x / safe, None
            for s in tried:
                unit = xp.where(s == 0, xp.ones_like(s), s) / safe
                err = self.of.round(y / unit) * (s / safe) - y
                err = total(err * err if weight is None else err * err * weight)
                best, least = (s, err) if least is None else (xp.where(err < least, s, best), xp.minimum(err, least))
        return best

    def encode(self, x, weight=None):
        """x (n, d) → ids, and the scale of each row or group. ``weight`` (n or 1, d) is for `search`=mse."""
        pieces = []
        for rows in groups.chunks(x):
            w = weight if weight is None or weight.shape[0] == 1 else weight[rows]
            pieces.append(self._encode(x[rows], w))
        return groups.concat(pieces)

    def _encode(self, x, weight):
        xp = array_namespace(x)
        x = groups.float32(x)
        n, d = x.shape
        if self.scale == "none":
            return {"ids": self.of.code(x)}
        if self.scale == "tensor":
            return {"ids": self.of.code(x / like(self.scale_, x))}
        y = groups.split(x, self._group)
        m, g = y.shape[1], y.shape[2]
        w, real = weight, groups.mask(x, self._group)
        if w is not None:
            w = groups.split(xp.broadcast_to(cast(w, "float32"), x.shape), self._group)
        if real is not None:
            w = xp.broadcast_to(real, y.shape) if w is None else w * real
        y = xp.reshape(y, (n * m, g))
        s = self._find(y, None if w is None else xp.reshape(w, (n * m, g)))
        ids = self.of.code(y / xp.where(s == 0, xp.full_like(s, 3.4e38), s))
        parts = {"ids": groups.join(xp.reshape(ids, (n, m, g)), d)}
        s = xp.reshape(s, (n, m))
        if self.scale == "mx":
            parts["scale"] = like((np.frexp(to_numpy(s))[1] + 126).astype(np.uint8), x)
        elif self.scale == "nvfp4":
            parts["scale"] = E4M3.code(s / like(self.scale_, s))
        else:
            parts["scale"] = groups.narrow(s, self.scales)
        return parts

    def decode(self, parts, form):
        y = self.of.decode(parts["ids"])
        if self.scale == "none":
            return cast(y, form.dtype)
        if self.scale == "tensor":
            s = like(self.scale_, y)
        elif self.scale == "mx":
            s = like(_E8M0[to_numpy(parts["scale"])], y)
        elif self.scale == "nvfp4":
            s = E4M3.decode(parts["scale"]) * like(self.scale_, y)
        else:
            s = groups.widen(parts["scale"])
        return cast(y * s if s.ndim == 1 else groups.times(y, s, self._group), form.dtype)


_E8M0 = np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.nan).astype(np.float32)
