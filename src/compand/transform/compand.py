"""Companding: a curve that gives the quantizer finer steps where values crowd."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np

from ..array import array_namespace, cast, dtype_name, like
from ..errors import InputError
from ..stage import Part, Transform, replace

# default of `amount`, its range, and what it is
_AMOUNT = {"power": (0.5, (0.1, 4.0), "an exponent"), "mu": (255.0, (0.01, 1e6), "mu"), "a": (87.6, (1.0, 1e6), "A"),
           "tan": (1.0, (0.01, 1.5), "an angle"), "log2": (15.0, (1.0, 120.0), "octaves"),
           "log-sqrt2": (15.0, (1.0, 120.0), "octaves")}
_EDGE = 1.56  # largest angle of tan, a little below pi / 2


class Compand(Transform, name="compand"):
    """A pointwise curve on u = x / largest magnitude (learnt by fit): (n, d) → (n, d).

    Parameters
    ----------
    curve, amount :
        ========== ======================================= =================== ==================================================
        curve      y for u ≥ 0                              amount (default)    for
        ========== ======================================= =================== ==================================================
        power      u^a                                      a (0.5)             bell-shaped values (NUPES, PowerQuant: Yvinec 2023)
        mu         ln(1 + mu u) / ln(1 + mu)                mu (255)            audio, bell shapes with long tails (G.711)
        a          A-law: linear to 1/A, then logarithmic   A (87.6)            the same (G.711)
        tan        tan(a u) / tan(a)                        a (1)               finer steps near ±1 (DopQ-ViT: Yang 2024)
        log2       log2 u, from -octaves to 0               octaves (15)        softmax outputs (log2 quantizers; FQ-ViT 2022)
        log-sqrt2  2 log2 u, from -2 · octaves to 0         octaves (15)        softmax outputs (RepQ-ViT: Li 2023)
        ========== ======================================= =================== ==================================================

    All are odd, y(-u) = -y(u), but the logarithms, which take values ≥ 0 only and take those below 2^-octaves of the largest
    as that. ``tan`` clips values beyond 1.56 / a times the largest that fit saw. Otherwise inverse ∘ forward gives float32 x with
    a relative error ≤ max(1/a, a) · 2^-22 for power and tan, 2^-19 for the others. Not exact: exp and log differ in
    their last bits between machines.
    Raises `InputError` for negative values with a logarithm, `SpecError` for an amount out of range.

    >>> import numpy as np
    >>> y, _ = Compand("power", 0.5).fit(np.array([[4.]])).forward(np.array([[4., -1., 0.]]))
    >>> y
    array([[ 1. , -0.5,  0. ]])
    """

    exact = False
    elementwise = True
    examples = ("compand:power:0.5,int:4", "compand:mu,int:8")
    curve: Literal["power", "mu", "a", "tan", "log2", "log-sqrt2"] = "power"
    amount: Annotated[float, (0.01, 1e6)] | None = None
    scale_: np.ndarray  # (1,) float32: largest magnitude

    def check(self):
        _, (low, high), what = _AMOUNT[self.curve]
        if self.amount is not None and not low <= self.amount <= high:
            raise self.fail(f"the amount of {self.curve} is {what} from {low:g} to {high:g}")

    def state(self, form):
        return {"scale_": Part((1,), "float32")}

    def fit(self, x, *, weight=None):
        xp = array_namespace(x)
        self._refuse(x)
        most = min(float(xp.max(xp.abs(x))), float(np.finfo(np.float32).max))
        return replace(self, scale_=np.array([most if most > 1e-37 else 1.0], np.float32))

    @property
    def effort(self):
        return 3

    def forward(self, x):
        self._refuse(x)
        xp = array_namespace(x)
        u = xp.astype(x, xp.float64) / self._scale(x)
        return xp.astype(_odd(u, self._forward, self.signed), x.dtype), {}

    def inverse(self, y, side, form):
        xp = array_namespace(y)
        u = _odd(xp.astype(y, xp.float64), self._inverse, self.signed)
        most = float(np.finfo(dtype_name(y)).max)
        return xp.astype(xp.clip(u * self._scale(y), -most, most), y.dtype)

    @property
    def signed(self) -> bool:
        """Whether the curve takes both signs."""
        return not self.curve.startswith("log")

    def _scale(self, x):
        return cast(like(self.scale_, x), "float64")

    def _refuse(self, x) -> None:
        if not self.signed and bool(array_namespace(x).any(x < 0)):
            raise InputError(f"{self}: a logarithm takes values of 0 and above; compand:mu takes both signs")

    def _forward(self, xp, u):
        a = _AMOUNT[self.curve][0] if self.amount is None else self.amount
        match self.curve:
            case "power":
                return u ** a
            case "mu":
                return xp.log1p(a * u) / math.log1p(a)
            case "a":
                return xp.where(u < 1 / a, a * u, 1 + xp.log(xp.clip(a * u, 1.0))) / (1 + math.log(a))
            case "tan":
                return xp.tan(xp.clip(a * u, None, _EDGE)) / math.tan(a)
        return xp.log2(xp.clip(u, 2.0 ** -a)) * (2 if self.curve == "log-sqrt2" else 1)

    def _inverse(self, xp, y):
        a = _AMOUNT[self.curve][0] if self.amount is None else self.amount
        match self.curve:
            case "power":
                return xp.clip(y, None, 1e30) ** (1 / a)
            case "mu":
                return xp.expm1(xp.clip(y * math.log1p(a), None, 300.0)) / a
            case "a":
                y = y * (1 + math.log(a))
                return xp.where(y < 1, y, xp.exp(xp.clip(y - 1, 0.0, 300.0))) / a
            case "tan":
                return xp.atan(y * math.tan(a)) / a
        return 2.0 ** xp.clip(y / (2 if self.curve == "log-sqrt2" else 1), -a, 300.0)


def _odd(u, curve, signed: bool):
    """curve of |u| with the sign of u; of u itself if not signed."""
    xp = array_namespace(u)
    return xp.sign(u) * curve(xp, xp.abs(u)) if signed else curve(xp, u)
