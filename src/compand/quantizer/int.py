"""Uniform grids: integers times a scale."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from .. import seeded
from ..array import array_namespace, cast, host, like, to_numpy
from ..fit import scale as scales
from ..fit.half_quadratic import half_quadratic
from ..stage import KW_ONLY, Part, Quantizer, replace
from . import groups


class Int(Quantizer, name="int"):
    """Integers of ``bits`` bits times a scale, x_hat = s · (id + z): the default quantizer, and the fastest.

    =========================  ==========================================================================
    ``int:8``                  one scale a row, 16 bits of side information; needs no fit
    ``int:4:group=64``         one scale a group of 64 values of a row (the last may be shorter): 4.25 bits a value
    ``per=tensor`` ``column``  scales fitted once and kept in the codec
    default grid               -2^(B-1) .. 2^(B-1)-1: zero is kept exactly; the scale may be negative, which gives the
                               extra level to the longer side
    ``mid=true``               ±1/2, ±3/2, ...: no zero, best for 1 and 2 bits (``int:1`` is always so: ±s/2)
    ``sym=false``              z is free: a float16 in steps beside each scale
    ``search=mse``             the scale of least squared error among a few (clips outliers); ``absmax`` clips nothing, and
                               errors stay within half a step; ``hqq`` lowers the sum of |error|^(3/4), which lets outliers
                               go (half-quadratic, slower)
    ``step=12``                this step and no scale at all; 16 bits unless said otherwise; values beyond are clipped
    ``pow2=true``              scales are powers of two, stored as int8 exponents
    ``noise=1``                a fixed pseudo-random shift of the grid for each column, known to the decoder
    =========================  ==========================================================================

    Scales are stored as bfloat16 (float32's range in two bytes; ``scales=`` float16 or float32), and ids are found with the
    stored scale. A row of zeros decodes to zeros (but for ``noise``); a scale below 1.2e-38 (float16: 6.1e-5) is 0.

    Dithering: NoisyQuant (Liu, 2023); signed scales as in ggml's Q4_0; clipping by error: Banner (2019); half-quadratic: HQQ (Badri and
    Shaji, 2023).

    >>> import numpy as np
    >>> q = Int(4, group=3)
    >>> parts = q.encode(np.array([[0, 1, -8, 50, 70, 0]], np.float32))
    >>> parts["ids"], parts["scale"].astype(np.float32)
    (array([[ 8,  9,  0, 13, 15,  8]], dtype=uint8), array([[ 1., 10.]], dtype=float32))
    """

    weighs = True
    examples = ("int:4:group=16", "int:2", "int:8:per=column")
    bits: Annotated[int, range(1, 17)] | None = None
    _: KW_ONLY
    per: Literal["row", "tensor", "column"] = "row"
    group: Annotated[int, range(1, 1 << 24)] | None = None
    sym: bool = True
    mid: bool = False
    search: Literal["mse", "absmax", "hqq"] = "mse"
    step: Annotated[float, (1e-30, 1e30)] | None = None
    pow2: bool = False
    noise: Annotated[int, range(1 << 31)] | None = None
    scales: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    scale_: np.ndarray  # (1,) or (d,) float32, or int8 exponents
    zero_: np.ndarray   # the same shape, float16

    def check(self):
        if self.group and (self.per != "row" or self.step):
            raise self.fail("group gives each part of a row its scale; it goes with per=row and without step")
        if self.mid and not self.sym:
            raise self.fail("mid and sym=false are two places for the grid; give one")
        if self.step and (self.per != "row" or not self.sym or self.pow2):
            raise self.fail("step fixes the scale; per, sym=false and pow2 choose one")
        if self.scales != "bfloat16" and (self.pow2 or self.step or self.per != "row"):
            raise self.fail("scales is for scales stored with the rows, and not with pow2 or step")

    # -- the grid ------------------------------------------------------------------------------------------------------
    @property
    def k(self) -> int:
        """Number of levels."""
        return 1 << (self.bits or (16 if self.step else 8))

    @property
    def z(self) -> float:
        """Zero point of the grids that have a fixed one."""
        return -(self.k - 1) / 2 if self.mid or self.k == 2 else -self.k / 2

    @property
    def _dtype(self) -> str:
        return "pow2" if self.pow2 else "float32" if self.per != "row" else self.scales

    def shift(self, d: int) -> np.ndarray | None:
        """The noise of each column, in steps within ±1/2: (d,) float32, None without noise."""
        if self.noise is None:
            return None
        return (seeded.uniform(self.noise, d) - 0.5).astype(np.float32)

    def layout(self, form):
        parts = {"ids": Part((form.n, form.d), k=self.k)}
        if self.per == "row" and not self.step:
            shape = (form.n, groups.count(form.d, self.group))
            parts["scale"] = Part(shape, "int8" if self.pow2 else self.scales)
            if not self.sym:
                parts["zero"] = Part(shape, "float16")
        return parts

    def state(self, form):
        if self.per == "row":
            return {}
        shape = (form.d if self.per == "column" else 1,)
        parts = {"scale_": Part(shape, "int8" if self.pow2 else "float32")}
        return parts if self.sym else parts | {"zero_": Part(shape, "float16")}

    def _find(self, x, weight=None, shift=0.0):
        """Scale and zero point of each row of x (m, g): (m, 1) float32 each; z is a float if it is fixed."""
        if self.search == "hqq":
            return half_quadratic(x, self.k, self.z if self.sym else None, self._dtype, weight, shift)
        if self.sym:
            return scales.fixed_zero(x, self.k, self.z, self._dtype, self.search, weight, shift), self.z
        return scales.free_zero(x, self.k, self._dtype, self.search, weight, shift)

    # -- fit, encode, decode -------------------------------------------------------------------------------------------
    def fit(self, x, *, weight=None):
        if self.per == "row":
            return self
        xp = array_namespace(x)
        x = cast(x, "float32")
        w = None if weight is None else xp.broadcast_to(cast(weight, "float32"), x.shape)
        shift = self.shift(x.shape[1])
        shift = 0.0 if shift is None else xp.broadcast_to(like(shift, x), x.shape)
        one = (1, -1) if self.per == "tensor" else (x.shape[1], -1)
        x, w, shift = (a if a is None or isinstance(a, float) else xp.reshape(xp.matrix_transpose(a), one) for a in (x, w, shift))
        s, z = self._find(x, w, shift)
        s = to_numpy(s).reshape(-1)
        fitted = replace(self, scale_=_exponents(s) if self.pow2 else s.astype(np.float32))
        return fitted if self.sym else replace(fitted, zero_=to_numpy(z).reshape(-1).astype(np.float16))

    def encode(self, x, weight=None):
        """x (n, d) → ids, and scale and zero where they belong to rows. ``weight`` (n or 1, d) is for `search` by error."""
        xp = array_namespace(x)
        plain = self.per == "row" and self.sym and not self.step and not self.pow2 and self.noise is None and self.k <= 256 \
            and self.search != "hqq"
        here = host(x) if plain and weight is None else None
        if here is not None and here.size:
            ids, s = scales.encode_native(groups.float32(here), self.group, self.k, self.z, self.scales, self.search)
            return {"ids": like(ids, x), "scale": groups.narrow(like(s, x), self.scales)}
        shift = self.shift(x.shape[1])
        shift = None if shift is None else like(shift, x)
        pieces = []
        for rows in groups.chunks(x):
            w = weight if weight is None or weight.shape[0] == 1 else weight[rows]
            pieces.append(self._encode(x[rows], w, shift, xp))
        return groups.concat(pieces)

    def _encode(self, x, weight, shift, xp):
        ids_dtype = xp.uint8 if self.k <= 256 else getattr(xp, "uint16", xp.int32)
        x = groups.float32(x)
        parts = {}
        if self.step or self.per != "row":
            s, z = self._fixed(x)
            ids = scales.quantize(x, s, z if shift is None else z + shift, self.k)
        else:
            n, d = x.shape
            y = groups.split(x, self.group)
            m, g = y.shape[1], y.shape[2]
            real = groups.mask(x, self.group)
            if weight is not None:
                w = groups.split(xp.broadcast_to(cast(weight, "float32"), x.shape), self.group)
                w = w if real is None else w * real
            else:
                w = None if real is None else xp.broadcast_to(real, y.shape)
            u = 0.0
            if shift is not None:
                u = xp.reshape(xp.broadcast_to(groups.split(shift[None, :], self.group), y.shape), (n * m, g))
            y = xp.reshape(y, (n * m, g))
            s, z = self._find(y, None if w is None else xp.reshape(w, (n * m, g)), u)
            ids = groups.join(xp.reshape(scales.quantize(y, s, z + u, self.k), (n, m, g)), d)
            s = xp.reshape(s, (n, m))
            parts["scale"] = like(_exponents(to_numpy(s)), x) if self.pow2 else groups.narrow(s, self.scales)
            if not self.sym:
                parts["zero"] = groups.narrow(xp.reshape(z, (n, m)), "float16")
        return {"ids": xp.astype(ids, ids_dtype), **parts}

    def _fixed(self, x_like):
        """Scale and zero point that all rows share, as arrays that broadcast to (n, d)."""
        if self.step:
            return like(np.float32([self.step]), x_like), self.z
        s = _powers(self.scale_) if self.pow2 else self.scale_
        return like(s, x_like), self.z if self.sym else like(self.zero_.astype(np.float32), x_like)

    def decode(self, parts, form):
        ids = parts["ids"]
        xp = array_namespace(ids)
        y = xp.astype(ids, xp.float32)
        shift = self.shift(form.d)
        shift = None if shift is None else like(shift, ids)
        if self.step or self.per != "row":
            s, z = self._fixed(ids)
        else:
            s = like(_powers(to_numpy(parts["scale"])), ids) if self.pow2 else groups.widen(parts["scale"])
            z = self.z if self.sym else groups.widen(parts["zero"])
            if self.group and form.d % min(self.group, form.d) == 0:  # broadcast over groups without repeating scales
                shape = (form.n, s.shape[1], form.d // s.shape[1])
                y, s = xp.reshape(y, shape), s[:, :, None]
                z = z if self.sym else z[:, :, None]
                shift = None if shift is None else xp.reshape(shift, shape[1:])
            elif self.group:
                s = xp.repeat(s, self.group, axis=1)[:, :form.d]
                z = z if self.sym else xp.repeat(z, self.group, axis=1)[:, :form.d]
        y += z if shift is None else z + shift
        y *= s
        return cast(xp.reshape(y, (form.n, form.d)), form.dtype)


_POWERS = np.ldexp(np.float32(1), np.arange(256, dtype=np.uint8).view(np.int8)).astype(np.float32)


def _powers(e: np.ndarray) -> np.ndarray:
    """int8 exponents (as bits, the sign of the scale is always +) → float32 2^e."""
    return _POWERS[e.view(np.uint8)]


def _exponents(s: np.ndarray) -> np.ndarray:
    """Powers of two → int8 exponents; 0 → -128."""
    return np.where(s == 0, -128, np.frexp(s)[1] - 1).astype(np.int8)
