"""The best approximation of low rank."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from ..array import array_namespace, cast, dtype_name, is_numpy, like, rounded
from ..dtypes import dtype
from ..stage import KW_ONLY, Part, Quantizer, replace

_DTYPES = {"float16": "float16", "float32": "float32", "float8": "float8_e4m3fn"}


class Lowrank(Quantizer, name="lowrank"):
    """Rows as ``rank`` coefficients of as many directions: the truncated SVD of the array. What is left over is for ``+``.

    Parameters
    ----------
    rank : int
        Directions, at most d. Each costs a coefficient a row, and d values once for the array.
    value : float16, float8 or float32
        Of stored coefficients; float8 is e4m3 (relative error ≤ 2^-4) and lets the next term code what is lost. Directions are
        stored as float16 (float32 with float32).

    The directions are learnt by fit: those that keep most of weight · x², so that column weights (the mean square of a layer's
    inputs) make it the activation-aware form. They are found from the array itself, so fit to the array that is encoded;
    on other data the coefficients are still the projection. Not exact: matrix products sum in an order that varies.
    Raises `SpecError` for rank > d. Worth it where rows share strong directions. The weights of MiniLM-L6 do not: there
    ``lowrank:4:value=float8+int:3:group=64`` (3.50 bits, 15.0 dB) is below ``sparse:0.01+int:3:group=64`` (3.42 bits, 15.9 dB).
    Source: Eckart & Young 1936; LoRC in ZeroQuant-V2 (Yao et al. 2023), LQ-LoRA (Guo et al. 2023), EoRA (Liu et al. 2024),
    SVDQuant (Li et al. 2024).

    >>> import numpy as np, compand
    >>> x = np.outer([1., 2, 3], [4., 0, 8]).astype(np.float32)
    >>> codec = compand.Codec("lowrank:1").fit(x)
    >>> codec.decode(codec.encode(x)).round(1)
    array([[ 4.,  0.,  8.],
           [ 8.,  0., 16.],
           [12.,  0., 24.]], dtype=float32)
    """

    examples = ("lowrank:4", "lowrank:4+int:4")
    exact = False
    rank: Annotated[int, range(1, 1 << 16)]
    _: KW_ONLY
    value: Literal["float16", "float8", "float32"] = "float16"
    basis_: np.ndarray  # (rank, d) float16 or float32, rows of length 1
    scale_: np.ndarray  # (rank,) float32: root mean square of each coefficient
    gain_: np.ndarray   # (d,) float32: 1 / square root of the weight of columns

    def _need(self, d: int) -> None:
        if self.rank > d:
            raise self.fail(f"rank is at most the row length d={d}; try lowrank:{max(d // 4, 1)}")

    def state(self, form):
        self._need(form.d)
        return {"basis_": Part((self.rank, form.d), "float32" if self.value == "float32" else "float16"),
                "scale_": Part((self.rank,), "float32"), "gain_": Part((form.d,), "float32")}

    def layout(self, form):
        self._need(form.d)
        return {"coefficients": Part((form.n, self.rank), _DTYPES[self.value])}

    def fit(self, x, *, weight=None):
        from ..fit.subspace import subspace

        self._need(x.shape[1])
        s = subspace(x, self.rank, weight=weight, center=False)
        scale = np.clip(np.sqrt(s.variance), 1e-30, 1e30)
        basis = np.ascontiguousarray(s.basis.T, np.float32 if self.value == "float32" else np.float16)
        return replace(self, basis_=basis, scale_=scale.astype(np.float32), gain_=(1 / s.gain).astype(np.float32))

    def encode(self, x):
        xp = array_namespace(x)
        basis, scale, gain = self._arrays(x)
        c = rounded(xp.matmul(x / gain, basis.T) / scale, _DTYPES[self.value])
        return {"coefficients": c.astype(dtype(_DTYPES[self.value])) if is_numpy(c) else c}

    def decode(self, parts, form):
        c = cast(parts["coefficients"], form.dtype)
        basis, scale, gain = self._arrays(c)
        return array_namespace(c).matmul(c * scale, basis) * gain

    def _arrays(self, x):
        return (cast(like(a, x), dtype_name(x)) for a in (self.basis_, self.scale_, self.gain_))
