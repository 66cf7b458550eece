"""Principal components."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from ..array import array_namespace, cast, dtype_name, like
from ..stage import KW_ONLY, Part, Transform, replace


class Pca(Transform, name="pca"):
    """Coordinates along the ``k`` directions of largest variance, learnt by fit: (n, d) → (n, k).

    Parameters
    ----------
    k : int
        Directions kept, in order of falling variance; none = all d, which is a rotation.
    whiten : bool
        Divide each coordinate by its standard deviation.

    With a weight, the directions keep most of weight · x² (row weights, and column weights through ``gain_``), and squared errors
    of coordinates are weighted squared errors of values. The error is what the dropped directions hold; for k = d it is about
    2^-20 of the norm of a row, not exact: matrix products sum in an order that varies between machines.
    Raises `SpecError` for k > d. Source: Pearson 1901; OPQ's parametric start (Ge et al. 2013).

    >>> import numpy as np
    >>> x = np.array([[3., 4.], [-3., -4.], [6., 8.], [-6., -8.]])
    >>> Pca(1).fit(x).forward(x)[0].ravel().round(3)
    array([  5.,  -5.,  10., -10.])
    """

    examples = ("pca:16,int:8",)
    exact = False
    k: Annotated[int, range(1, 1 << 20)] | None = None
    _: KW_ONLY
    whiten: bool = False
    mean_: np.ndarray   # (d,) float32
    gain_: np.ndarray   # (d,) float32: 1 / square root of the weight of columns
    basis_: np.ndarray  # (d, k) float32, orthonormal columns
    scale_: np.ndarray  # (k,) float32: standard deviations, if whiten

    def _width(self, d: int) -> int:
        if self.k and self.k > d:
            raise self.fail(f"asks for {self.k} directions of {d} columns; try pca:{max(d, 1)}")
        return self.k or d

    def out(self, form):
        return form._replace(d=self._width(form.d))

    def state(self, form):
        k = self._width(form.d)
        parts = {"mean_": Part((form.d,), "float32"), "gain_": Part((form.d,), "float32"), "basis_": Part((form.d, k), "float32")}
        return parts | ({"scale_": Part((k,), "float32")} if self.whiten else {})

    def fit(self, x, *, weight=None):
        from ..fit.subspace import subspace

        s = subspace(x, self._width(x.shape[1]), weight=weight)
        deviation = np.sqrt(s.variance)
        deviation = np.maximum(deviation, 1e-6 * deviation[0]) if deviation[0] > 0 else np.ones_like(deviation)
        arrays = {"mean_": s.mean, "gain_": 1 / s.gain, "basis_": s.basis} | ({"scale_": deviation} if self.whiten else {})
        return replace(self, **{name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items()})

    def forward(self, x):
        mean, gain, basis = (cast(like(a, x), dtype_name(x)) for a in (self.mean_, self.gain_, self.basis_))
        y = array_namespace(x).matmul((x - mean) / gain, basis)
        return (y / cast(like(self.scale_, x), dtype_name(x)) if self.whiten else y), {}

    def inverse(self, y, side, form):
        mean, gain, basis = (cast(like(a, y), dtype_name(y)) for a in (self.mean_, self.gain_, self.basis_))
        if self.whiten:
            y = y * cast(like(self.scale_, y), dtype_name(y))
        return array_namespace(y).matmul(y, basis.T) * gain + mean
