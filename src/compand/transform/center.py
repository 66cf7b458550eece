"""Subtract the mean of each column."""

from __future__ import annotations

import numpy as np

from ..array import array_namespace, like, to_numpy
from ..stage import Part, Transform, replace


class Center(Transform, name="center"):
    """Subtract the (weighted) mean of each column, learnt by fit: (n, d) → (n, d).

    >>> import numpy as np
    >>> y, _ = Center().fit(np.array([[1., 4.], [3., 8.]])).forward(np.array([[2., 7.]]))
    >>> y
    array([[0., 1.]])
    """

    elementwise = True
    mean_: np.ndarray  # (d,) float32

    def state(self, form):
        return {"mean_": Part((form.d,), "float32")}

    def fit(self, x, *, weight=None):
        xp = array_namespace(x)
        x = xp.astype(x, xp.float64)
        if weight is None or weight.shape[0] == 1:
            mean = xp.mean(x, axis=0)
        else:
            w = xp.astype(weight, xp.float64)
            mean = xp.sum(x * w, axis=0) / xp.clip(xp.sum(w, axis=0), 1e-300)
        return replace(self, mean_=to_numpy(mean).astype(np.float32))

    def forward(self, x):
        return x - like(self.mean_, x), {}

    def inverse(self, y, side, form):
        return y + like(self.mean_, y)
