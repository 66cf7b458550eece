"""Divide columns so that outliers shrink: part of the difficulty moves to the weights that rows are multiplied with."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from ..array import array_namespace, cast, dtype_name, like, to_numpy
from ..stage import Part, Transform, replace


class Smooth(Transform, name="smooth"):
    """Divide column j by max|x_j|^amount / w_j^(1 - amount), learnt by fit: (n, d) → (n, d).

    w_j is the root of the mean ``weight`` of column j: for inputs of a linear layer, whose importance is the square of its weights,
    their root mean square. Without weight it is 1, and ``smooth:1`` gives every column a largest magnitude of 1. Columns of zeros, and
    those of no weight, count as the least that is not. Scales are within 2^±60 of each other.

    SmoothQuant (Xiao et al. 2023, equation 4), with root mean squares of weights instead of their largest.

    >>> import numpy as np
    >>> stage = Smooth(0.5).fit(np.array([[1., -16.], [0.5, 4.]]))
    >>> stage.forward(np.array([[1., 16.]]))[0]
    array([[1., 4.]])
    """

    elementwise = True
    examples = ("smooth:0.5,int:8",)
    amount: Annotated[float, (0.0, 1.0)] = 0.5
    scale_: np.ndarray  # (d,) float32

    def state(self, form):
        return {"scale_": Part((form.d,), "float32")}

    def fit(self, x, *, weight=None):
        xp = array_namespace(x)
        most = _positive(to_numpy(xp.max(xp.abs(x), axis=0)).astype(np.float64))
        if weight is not None:
            w = np.broadcast_to(to_numpy(weight).astype(np.float64), (max(1, weight.shape[0]), x.shape[1])).mean(axis=0)
            most = most ** self.amount / _positive(np.sqrt(w)) ** (1 - self.amount)
        else:
            most = most ** self.amount
        middle = np.exp(np.log(most).mean()) if self.amount < 1 or weight is not None else 1.0
        return replace(self, scale_=(np.clip(most / middle, 2.0 ** -30, 2.0 ** 30) * np.clip(middle, 1e-20, 1e20)).astype(np.float32))

    def carry(self, weight, form):
        return weight if weight.shape[1] == 1 else weight * like(self.scale_, weight) ** 2

    def forward(self, x):
        return x / self._safe(x), {}

    def inverse(self, y, side, form):
        return y * self._safe(y)

    def _safe(self, x):
        scale = cast(like(self.scale_, x), dtype_name(x))
        xp = array_namespace(scale)
        return xp.where(scale == 0, xp.ones_like(scale), scale)


def _positive(v: np.ndarray) -> np.ndarray:
    """Zeros replaced by the least that is above 0; all ones if none is."""
    return np.where(v > 0, v, v[v > 0].min(initial=np.inf) if (v > 0).any() else 1.0)
