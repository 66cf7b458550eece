"""A code to scan and a finer one of what it leaves, in one: the short list is scored by both."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from ..array import cast, like, to_numpy
from ..stage import KW_ONLY, Form, Part, Quantizer, replace
from .ecsq import Ecsq
from .gain import coded, gain_of, span
from .grouped import Grouped


class Refined(Quantizer, name="refined"):
    """``grouped`` of ``size`` bytes to scan, ``ecsq`` of ``more`` bytes for what it leaves, and a gain for both together.

    Parameters
    ----------
    size : int
        Bytes a row of the scanned code, its gain included (see ``grouped``).
    more : int
        Bytes a row of the refinement once an entropy coder follows, its gain included (see ``ecsq``).
    bits : 4 or 6
        Of the scanned ids.
    trellis : bool
        Of the refinement (see ``ecsq``).

    A sum ``grouped:48+ecsq:48`` codes what the *scaled* codewords leave, and removes the bias of the rest alone: that costs two to
    three points of recall. Here the rest is taken before the scaling, which only the scan uses, and one gain makes
    ⟨x, x_hat⟩ = ⟨x, x⟩ of the whole. Put ``klt`` before it and ``rans`` after it. Successive refinement: Equitz & Cover 1991.

    >>> import numpy as np
    >>> from compand import Codec, search
    >>> x = np.random.default_rng(0).standard_normal((3000, 32), dtype=np.float32) * np.float32(.9) ** np.arange(32)
    >>> codes = Codec("klt,refined:8:12,rans").fit(x).encode(x)
    >>> search(x[:3], codes, 1, metric="cosine")[1].ravel().tolist()
    [0, 1, 2]
    """

    examples = ("klt,refined:6:6,rans", "refined:6:6:bits=4,rans")
    size: Annotated[int, range(2, 1 << 14)]
    more: Annotated[int, range(3, 1 << 14)]
    _: KW_ONLY
    bits: Literal[4, 6] = 6
    trellis: bool = False
    codewords_: np.ndarray  # (d, 2^bits) float16, sizes_ (groups,) uint16, unit_ (3,) float32: as of grouped
    sizes_: np.ndarray
    unit_: np.ndarray
    factors_: np.ndarray    # (d,) float32, reach_ (classes,) uint16, range_ (3,) float32, price_ (classes,) float32: as of ecsq
    reach_: np.ndarray
    range_: np.ndarray
    price_: np.ndarray
    whole_: np.ndarray      # (2,) float32: least gain of the whole, step of gains

    @property
    def coarse(self) -> Grouped:
        """What is scanned."""
        return Grouped(self.size, bits=self.bits, codewords_=self.codewords_, sizes_=self.sizes_, unit_=self.unit_)

    @property
    def fine(self) -> Ecsq:
        """What refines it."""
        return Ecsq(self.more - 1, gain=False, trellis=self.trellis, factors_=self.factors_, reach_=self.reach_, range_=self.range_,
                    price_=self.price_)

    def layout(self, form):
        return self.coarse.layout(form) | self.fine.layout(form) | {"whole": Part((form.n, 1), "uint8")}

    def state(self, form):
        return self.coarse.state(form) | self.fine.state(form) | {"whole_": Part((2,), "float32")}

    def gains(self, parts) -> np.ndarray:
        """The gain of each row's two codes together: (n,) float32."""
        return to_numpy(parts["whole"])[:, 0] * self.whole_[1] + self.whole_[0]

    # -- fit, encode, decode -------------------------------------------------------------------------------------------
    def fit(self, x, *, weight=None):
        y = np.ascontiguousarray(to_numpy(x), np.float32)
        coarse = self.coarse.fit(y, weight=weight)
        near = coarse.values(coarse.encode(y)["ids"], y.shape[1])
        fine = self.fine.fit(y - near)
        some = slice(None, None, max(1, len(y) >> 14))
        near = near[some] + fine.decode(fine.encode(y[some] - near[some]), Form(*near.shape, "float32"))
        return replace(self, codewords_=coarse.codewords_, sizes_=coarse.sizes_, unit_=coarse.unit_, factors_=fine.factors_,
                       reach_=fine.reach_, range_=fine.range_, price_=fine.price_, whole_=np.float32(span(gain_of(y[some], near))))

    def encode(self, x):
        y = np.ascontiguousarray(to_numpy(x), np.float32)
        coarse, fine = self.coarse, self.fine
        parts = coarse.encode(y)
        near = coarse.values(parts["ids"], y.shape[1])
        rest = fine.encode(y - near)
        whole = coded(gain_of(y, near + fine.decode(rest, Form(*y.shape, "float32"))), *map(float, self.whole_))
        return {path: like(a, x) for path, a in (parts | rest | {"whole": whole}).items()}

    def decode(self, parts, form):
        rest = self.fine.decode({path: to_numpy(a) for path, a in parts.items()}, form._replace(dtype="float32"))
        y = self.coarse.values(to_numpy(parts["ids"]), form.d) + rest
        y = np.clip(y * self.gains(parts)[:, None].astype(np.float64), -3.4e38, 3.4e38).astype(np.float32)
        return cast(like(y, parts["ids"]), form.dtype)
