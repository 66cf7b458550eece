"""Divide by a scale: of the tensor, a column, a row, or each group of a row."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from ..array import array_namespace, cast, device, dtype_name, like, rounded, to_numpy, total
from ..stage import KW_ONLY, Part, Transform, replace

# bits of the significand, and the smallest normal number
_DTYPES = {"bfloat16": (8, 2.0 ** -126), "float16": (11, 2.0 ** -14), "float32": (24, 2.0 ** -126)}


class Scale(Transform, name="scale"):
    """Divide by the root mean square, largest magnitude, standard deviation or norm: (n, d) → (n, d).

    Parameters
    ----------
    by : rms, absmax, std or norm
        ``scale:norm:row`` gives rows of length 1 and keeps the lengths. ``std`` does not subtract the mean (see `center`).
    per : tensor, column or row
        Scales of tensor and column are learnt by fit (float32, weighted by ``weight``, except absmax); those of a row are
        found when it is encoded and stored with it.
    group : int
        One scale for each so many values of a row; the last group may be shorter.
    dtype : bfloat16, float16 or float32
        Of stored row scales. bfloat16 has the range of float32, and its rounding costs nothing: values are divided by the
        scale *as stored*. For absmax it is rounded up, so that magnitudes do not exceed 1.

    Zero rows have scale 0 and stay zero; where all values are equal ``std`` takes their magnitude as the scale.
    Scales outside the normal range of the dtype are clipped to it (bfloat16 and float32: 1.2e-38 to 3.4e38). ``inverse``
    multiplies: relative error ≤ 2^-23 for float32 where nothing underflows.

    >>> import numpy as np
    >>> y, side = Scale("absmax", "row").forward(np.array([[1., -2.], [0., 0.], [8., 4.]]))
    >>> y
    array([[ 0.5, -1. ],
           [ 0. ,  0. ],
           [ 1. ,  0.5]])
    >>> side["scale"].ravel()
    array([2., 0., 8.])
    """

    examples = ("scale:rms:per=row,int:8",)
    elementwise = True
    by: Literal["rms", "absmax", "std", "norm"] = "rms"
    per: Literal["tensor", "column", "row"] = "tensor"
    _: KW_ONLY
    group: Annotated[int, range(1, 1 << 20)] | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    scale_: np.ndarray  # (1,) or (d,) float32

    def check(self):
        if self.group and self.per == "column":
            raise self.fail(f"groups are of the values of a row, not of a column; try scale:{self.by}:row:group={self.group}")
        if self.fitted and self.by == "norm":
            raise self.fail("a norm is of a row or a group; try scale:norm:row, or rms instead of norm")

    @property
    def fitted(self) -> bool:
        """Whether the scales are learnt by fit, not stored with rows."""
        return self.per != "row" and not self.group

    def state(self, form):
        return {"scale_": Part((form.d if self.per == "column" else 1,), "float32")} if self.fitted else {}

    def layout(self, form):
        return {} if self.fitted else {"scale": Part((form.n, -(-form.d // self._width(form.d))), self.dtype)}

    def _width(self, d: int) -> int:
        return max(min(self.group or d, d), 1)

    def fit(self, x, *, weight=None):
        if not self.fitted:
            return self
        xp = array_namespace(x)
        if weight is not None:
            weight = xp.broadcast_to(weight, x.shape)
        if self.per == "tensor":
            x, weight = xp.reshape(x, (-1, 1)), None if weight is None else xp.reshape(weight, (-1, 1))
        scale = _measure(x, self.by, 0, weight)
        return replace(self, scale_=np.atleast_1d(to_numpy(_clipped(scale, "float32")).astype(np.float32)))

    def forward(self, x):
        if self.fitted:
            return x / _nonzero(cast(like(self.scale_, x), dtype_name(x))), {}
        xp, d = array_namespace(x), x.shape[1]
        width = self._width(d)
        groups = -(-d // width)
        inside = xp.ones((1, d), dtype=x.dtype, device=device(x))
        pad = groups * width - d
        grouped, inside = (xp.reshape(_padded(a, pad), (a.shape[0], groups, width)) for a in (x, inside))
        scale = cast(_clipped(_measure(grouped, self.by, 2, inside if pad else None), self.dtype), dtype_name(x))
        up = rounded(scale, self.dtype)
        if self.by == "absmax":
            up = xp.where(up < scale, rounded(up * (1 + 1.01 * 2.0 ** -_DTYPES[self.dtype][0]), self.dtype), up)
        return x / _spread(_nonzero(up), width, d), {"scale": up}

    def inverse(self, y, side, form):
        scale = cast(side["scale"] if not self.fitted else like(self.scale_, y), dtype_name(y))
        return y * (scale if self.fitted else _spread(scale, self._width(form.d), form.d))


def _padded(x, pad: int):
    xp = array_namespace(x)
    return xp.concat([x, xp.zeros((x.shape[0], pad), dtype=x.dtype, device=device(x))], axis=1) if pad else x


def _spread(scale, width: int, d: int):
    """(n, groups) → what broadcasts to (n, d)."""
    if width == d:
        return scale
    xp, (n, groups) = array_namespace(scale), scale.shape
    return xp.reshape(xp.broadcast_to(scale[:, :, None], (n, groups, width)), (n, groups * width))[:, :d]


def _nonzero(scale):
    xp = array_namespace(scale)
    return xp.where(scale == 0, xp.ones_like(scale), scale)


def _clipped(scale, name: str):
    """Zero, or within the normal range of the dtype."""
    xp = array_namespace(scale)
    most = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028e38}[name]
    return xp.where(scale == 0, scale, xp.clip(scale, _DTYPES[name][1], most))


def _measure(x, by: str, axis: int, weight=None):
    """The magnitude of x along an axis, in float64 (so that libraries agree). ``weight`` 0 excludes padding."""
    xp = array_namespace(x)
    x = xp.astype(x, xp.float64)
    if x.shape[axis] == 0:
        return xp.sum(x, axis=axis)
    most = xp.max(xp.abs(x), axis=axis, keepdims=True)
    if by == "absmax":
        return xp.squeeze(most, axis=axis)
    x = x / _nonzero(most)  # so that squares neither overflow nor underflow
    if weight is None:
        def mean(v):
            return total(v) / v.shape[axis] if axis == v.ndim - 1 else xp.mean(v, axis=axis, keepdims=True)
    else:
        weight = xp.astype(weight, xp.float64)
        mass = xp.sum(weight, axis=axis, keepdims=True)

        def mean(v):
            return (total(v * weight) if axis == v.ndim - 1 else xp.sum(v * weight, axis=axis, keepdims=True)) / _nonzero(mass)
    value = mean((x - mean(x)) ** 2 if by == "std" else x * x)
    if by == "std":  # of what is constant but for rounding: 0; then the magnitude itself is the scale
        value = xp.where(value < 1e-14, xp.ones_like(value), value)
    if by == "norm":
        value = value * (x.shape[axis] if weight is None else mass)
    return xp.squeeze(most * xp.sqrt(value), axis=axis)
