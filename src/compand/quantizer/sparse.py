"""The few largest values, exactly where they are."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from array_api_compat import is_torch_array

from ..array import array_namespace, cast, device, dtype_name, is_numpy, like, rounded, to_numpy
from ..positions import pack_positions, unpack_positions
from ..stage import KW_ONLY, Part, Quantizer, replace

_DTYPES = {"float16": "float16", "float8": "float8_e4m3fn"}


class Sparse(Quantizer, name="sparse"):
    """The largest ``fraction`` of values by magnitude; all others decode to 0. What is left over is for ``+``.

    Parameters
    ----------
    fraction : float
        0 to 0.5, of each block of rows that is coded at a time (about a million values), so that the rate is as asked on any
        data and nothing is fitted. Zeros are never kept.
    per : tensor or row
        Whether the largest of all rows together are kept, or as many of each row. All together is better on real weights.
    value : float8 or float16
        Kept values relative to the smallest of them: float8 (e4m3) errs by ≤ 2^-4 of a value, up to 448 times the smallest;
        float16 by ≤ 2^-11, up to 65504 times; beyond, they are clipped. The next term codes that error anyway: with
        ``+int:3`` both give the same signal-to-noise ratio within 0.02 dB, and float8 saves 8 bits an outlier.
    weighted : bool
        Keep the largest in weight · x² instead, by the weight of columns given to fit (then stored: 4 bytes a column).

    At 1 %, positions take 8.6 bits an outlier (Elias-Fano; the entropy is 8.1), so it is 16.6 bits in all with float8, 24.6 with
    float16 (SpQR and SqueezeLLM store 32). Decoding raises `CorruptError` for positions that do not rise or leave the rows.
    Measured on the weights of MiniLM-L6: ``int:3:group=128`` 3.13 bits 14.0 dB; ``sparse:0.005+int:3:group=384`` 3.13 bits
    14.6 dB. Selecting by row instead of by tensor costs 0.07 dB.
    Source: SpQR (Dettmers et al. 2023), SqueezeLLM (Kim et al. 2023), KVQuant (Hooper et al. 2024).

    >>> import numpy as np, compand
    >>> x = np.array([[1, -2, 800, 3], [-2, 1, 2, -9]], np.float32)
    >>> codec = compand.Codec("sparse:0.25")
    >>> codec.decode(codec.encode(x))
    array([[  0.,   0., 792.,   0.],
           [  0.,   0.,   0.,  -9.]], dtype=float32)
    """

    examples = ("sparse:0.05", "sparse:0.02+int:3:group=16")
    fraction: Annotated[float, (0.0, 0.5)] = 0.01
    per: Literal["tensor", "row"] = "tensor"
    _: KW_ONLY
    value: Literal["float8", "float16"] = "float8"
    weighted: bool = False
    importance_: np.ndarray  # (d,) float32: square root of the weight of each column, mean square 1

    def state(self, form):
        return {"importance_": Part((form.d,), "float32")} if self.weighted else {}

    def layout(self, form):
        return {"scale": Part((1,), "float32"), "low": Part((-1,), "uint8"), "high": Part((-1,), "uint8"),
                "values": Part((-1,), _DTYPES[self.value])}

    def fit(self, x, *, weight=None):
        if not self.weighted:
            return self
        importance = np.ones(x.shape[1]) if weight is None else \
            np.broadcast_to(to_numpy(array_namespace(weight).mean(weight, axis=0)), (x.shape[1],))
        importance = np.sqrt(importance / max(float(importance.mean()), 1e-300))
        return replace(self, importance_=importance.astype(np.float32))

    def encode(self, x):
        xp, (n, d) = array_namespace(x), x.shape
        size = xp.abs(x)
        if self.weighted:
            size = size * cast(like(self.importance_, x), dtype_name(x))
        mask = _largest(size, round(self.fraction * d)) if self.per == "row" else \
            _largest(xp.reshape(size, (1, n * d)), round(self.fraction * n * d))
        positions = np.flatnonzero(to_numpy(mask))
        values = xp.take(xp.reshape(x, (-1,)), like(positions, x))
        scale = np.float32(1)
        if len(positions):
            scale = np.clip(np.float32(float(xp.min(xp.abs(values)))), np.float32(2.0 ** -100), np.float32(2.0 ** 100))
        low, high = pack_positions(positions, n * d)
        values = rounded(values / float(scale), _DTYPES[self.value])
        if is_numpy(values):
            values = cast(values, _DTYPES[self.value])
        return {"scale": like(np.array([scale]), x), "low": like(low, x), "high": like(high, x), "values": values}

    def decode(self, parts, form):
        xp = array_namespace(parts["values"])
        low, high = to_numpy(parts["low"]), to_numpy(parts["high"])
        positions = unpack_positions(low, high, parts["values"].shape[0], form.n * form.d)
        values = cast(parts["values"], form.dtype) * cast(parts["scale"], form.dtype)
        if is_numpy(values) or is_torch_array(values):
            x = xp.zeros(form.n * form.d, dtype=values.dtype, device=device(values))
            x[like(positions, values)] = values
        else:
            dense = np.zeros(form.n * form.d, form.dtype)
            dense[positions] = to_numpy(values)
            x = like(dense, values)
        return xp.reshape(x, (form.n, form.d))


def _largest(size, count: int):
    """Where the ``count`` largest values above 0 of each row of size (n, m) are; ties to the lowest column."""
    xp, (n, m) = array_namespace(size), size.shape
    if not count or not n or not m:
        return xp.zeros_like(size, dtype=xp.bool)
    if is_numpy(size):
        edge = np.partition(size, m - count, axis=1)[:, m - count, None]
    else:
        edge = xp.sort(size, axis=1)[:, m - count:m - count + 1]
    above, ties = size > edge, (size == edge) & (size > 0)
    room = count - xp.sum(xp.astype(above, xp.int64), axis=1, keepdims=True)
    return above | (ties & (xp.cumulative_sum(xp.astype(ties, xp.int64), axis=1) <= room))
