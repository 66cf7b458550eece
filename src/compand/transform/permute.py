"""Order columns by importance."""

from __future__ import annotations

import numpy as np

from ..array import array_namespace, like, to_numpy
from ..errors import FitError
from ..stage import Part, Transform, replace


class Permute(Transform, name="permute"):
    """Columns in order of falling energy, learnt by fit: (n, d) → (n, d). Any dtype that flows, no loss.

    Energy is the mean of weight · x², so that the columns which matter most stand first and groups hold columns of like
    magnitude (act-order of GPTQ, Frantar et al. 2023; the reordering of Atom, Zhao et al. 2024). Ties keep their order.
    Any ``order_`` decodes safely; one that is no permutation is refused by `require`.

    >>> import numpy as np
    >>> x = np.array([[1., 5., 3.]])
    >>> Permute().fit(x).forward(x)[0]
    array([[5., 3., 1.]])
    """

    examples = ("permute,int:4:group=16",)
    order_: np.ndarray  # (d,) int32: column of y → column of x

    def state(self, form):
        return {"order_": Part((form.d,), "int32")}

    def require(self, form):
        super().require(form)
        if not np.array_equal(np.sort(self.order_), np.arange(form.d)):
            raise FitError(f"{self}: order_ is not a permutation of the {form.d} columns")

    def fit(self, x, *, weight=None):
        xp = array_namespace(x)
        energy = xp.astype(x, xp.float64) ** 2
        if weight is not None:
            energy = energy * xp.astype(weight, xp.float64)
        energy = to_numpy(xp.mean(energy, axis=0))
        return replace(self, order_=np.argsort(-energy, kind="stable").astype(np.int32))

    def carry(self, weight, form):
        return _take(weight, self.order_) if weight.shape[1] > 1 else weight

    def forward(self, x):
        return _take(x, self.order_), {}

    def inverse(self, y, side, form):
        return _take(y, np.argsort(self.order_, kind="stable"))


def _take(x, order: np.ndarray):
    xp = array_namespace(x)
    return xp.take(x, like(order.astype(np.int64), x), axis=1)
