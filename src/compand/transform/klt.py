"""Principal components in the units of inner products: what a search must tell apart gets large coordinates."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from .. import _native
from ..array import array_namespace, cast, dtype_name, is_numpy, like, to_numpy
from ..errors import FitError
from ..stage import KW_ONLY, Part, Transform, replace

_ROWS = 8192
_MOST = 8192   # columns
_FLOOR = 1e-7  # least query energy of a direction, of the largest


class Klt(Transform, name="klt"):
    """Coordinates along principal directions, each times (query energy)^(power / 2): (n, d) → (n, k).

    Parameters
    ----------
    k : int
        Directions kept, by falling variance of what comes out; none = all d.
    power : float
        0: a rotation, squared errors stay as they are. 1: the squared error of a row is the mean squared error of its inner
        products with queries. 0.5 (default): between the two, best for codes of 1 to 4 bits a value on measured embeddings.

    The energy of direction v is E[(q·v)²] over queries q; where a fit is given none, the rows themselves stand in. The basis is stored as
    float16, so a row comes back to about 2^-11 of its norm and what the dropped directions hold.
    Raises `SpecError` for k > d, `FitError` for more than 8192 columns. Karhunen 1947, Loève 1948; query-weighted loss as in
    score-aware quantization (Guo et al. 2020).

    >>> import numpy as np
    >>> x = np.array([[3., 4.], [-3., -4.], [6., 8.], [-6., -8.]])
    >>> Klt(1, power=0).fit(x).forward(x)[0].ravel().round(2)
    array([  5.,  -5.,  10., -10.])
    """

    exact = False
    queried = True
    examples = ("klt:16,int:8", "klt,grouped:8:bits=4")
    k: Annotated[int, range(1, 1 << 20)] | None = None
    _: KW_ONLY
    power: Annotated[float, (0.0, 1.0)] = 0.5
    mean_: np.ndarray   # (d,) float32
    basis_: np.ndarray  # (d, k) float16, columns of length 1
    scale_: np.ndarray  # (k,) float32

    def _width(self, d: int) -> int:
        if self.k and self.k > d:
            raise self.fail(f"asks for {self.k} directions of {d} columns; try klt:{max(d, 1)}")
        return self.k or d

    def out(self, form):
        return form._replace(d=self._width(form.d))

    def state(self, form):
        k = self._width(form.d)
        return {"mean_": Part((form.d,), "float32"), "basis_": Part((form.d, k), "float16"), "scale_": Part((k,), "float32")}

    def fit(self, x, *, weight=None, queries=None):
        x = to_numpy(x)
        n, d = x.shape
        if d > _MOST:
            raise FitError(f"{self}: {d:,} columns are more than {_MOST:,}; cut or reshape rows first")
        rows = np.ones((n, 1), np.float32)
        if weight is not None and weight.shape[0] == n > 1:
            rows = np.sqrt(to_numpy(weight).mean(axis=1, keepdims=True)).astype(np.float32)
        weights = np.square(rows[:, 0], dtype=np.float64)
        total = max(float(weights.sum()), 1e-300)
        top = float(np.abs(x).max()) or 1.0
        mean, covariance = np.zeros(d), np.zeros((d, d))
        for at in range(0, n, _ROWS):
            mean += weights[at:at + _ROWS] @ (x[at:at + _ROWS] / top) / total
        for at in range(0, n, _ROWS):
            z = ((x[at:at + _ROWS] / top - mean) * rows[at:at + _ROWS]).astype(np.float32)
            covariance += z.T @ z
        variance, basis = np.linalg.eigh(covariance / total)
        energy = np.maximum(variance, 0) + (mean @ basis) ** 2 if queries is None else _energy(to_numpy(queries), basis)
        order = np.argsort(-variance * energy ** self.power, kind="stable")[:self._width(d)]
        basis, energy = basis[:, order], energy[order]
        basis *= np.where(basis[np.abs(basis).argmax(axis=0), np.arange(len(order))] < 0, -1, 1)
        scale = np.maximum(energy / energy.max(), _FLOOR) ** (self.power / 2) if energy.max() > 0 else np.ones(len(order))
        return replace(self, mean_=(mean * top).astype(np.float32), basis_=np.ascontiguousarray(basis, np.float16),
                       scale_=scale.astype(np.float32))

    def _arrays(self, x):
        name = dtype_name(x)
        return (cast(like(a.astype(np.float32), x), name) for a in (self.mean_, self.basis_, self.scale_))

    def forward(self, x):
        mean, basis, scale = self._arrays(x)
        if is_numpy(x) and x.dtype == np.float32 and _native.isa() != "scalar":
            return _native.scan_turned(np.ascontiguousarray(x), basis, mean, scale), {}
        y = array_namespace(x).matmul(x - mean, basis)
        y *= scale
        return y, {}

    def inverse(self, y, side, form):
        mean, basis, scale = self._arrays(y)
        return array_namespace(y).matmul(y / scale, basis.T) + mean


def _energy(queries: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """E[(q·v)²] of each direction, up to a factor; one that no query asks for is worth a thousandth of the mean."""
    q = queries / (float(np.abs(queries).max()) or 1.0)
    energy = np.square((q @ basis).astype(np.float64)).mean(axis=0)
    return np.maximum(energy, 1e-3 * energy.mean())
