"""Small codebooks for runs of neighbouring coordinates: strong coordinates alone, weak ones together."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from ..array import cast, like, to_numpy
from ..errors import FitError
from ..fit import waterfill
from ..stage import KW_ONLY, Part, Quantizer, replace

_ROUNDS = 12


class Grouped(Quantizer, name="grouped"):
    """Codes of ``size`` bytes a row: one of 2^bits codewords for each run of columns, and a gain of one byte.

    Parameters
    ----------
    size : int
        Bytes a row, all counted.
    bits : 4, 6 or 8
        Of each codeword's id. 4 and 6 are searched by look-ups in registers (`compand.search`); 6 is the better code.
    gain : bool
        Scale each row so that ⟨x, x_hat⟩ = ⟨x, x⟩: inner products are then unbiased, which least squared error is not.

    Runs are chosen by reverse water-filling on the variance of columns, which should fall: put ``klt`` before it. Codewords are
    fitted by k-means on the given rows. Columns after the last run decode to 0. Jégou et al. 2011 (product codes); length
    renormalization as in RaBitQ (Gao & Long 2024).

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((1000, 8), dtype=np.float32) * np.float32([9, 5, 3, 2, 1, 1, .5, .5])
    >>> q = Grouped(4, gain=False).fit(x)
    >>> q.sizes_.tolist(), q.encode(x)["ids"].shape
    ([1, 1, 1, 2, 3], (1000, 5))
    """

    exact = True
    examples = ("klt,grouped:8:bits=4", "grouped:8:bits=4")
    size: Annotated[int, range(2, 1 << 14)]
    _: KW_ONLY
    bits: Literal[4, 6, 8] = 6
    gain: bool = True
    codewords_: np.ndarray  # (d, k) float16, in units of unit
    sizes_: np.ndarray      # (groups,) uint16 columns of each run
    unit_: np.ndarray       # (3,) float32: unit of codewords, least gain, step of gains

    @property
    def k(self) -> int:
        """Codewords of a run."""
        return 1 << self.bits

    @property
    def groups(self) -> int:
        """Runs of columns, each with one id."""
        return (self.size - self.gain) * 8 // self.bits

    def layout(self, form):
        parts = {"ids": Part((form.n, self.groups), k=self.k)}
        return parts | ({"gain": Part((form.n, 1), "uint8")} if self.gain else {})

    def state(self, form):
        return {"codewords_": Part((form.d, self.k), "float16"), "sizes_": Part((self.groups,), "uint16"), "unit_": Part((3,), "float32")}

    def codebooks(self) -> np.ndarray:
        """The codewords in units of unit, before the gain: (columns of all runs, k) float32."""
        width = int(self.sizes_.sum(dtype=np.int64))
        if width > len(self.codewords_):
            raise FitError(f"{self}: runs of {width} columns in {len(self.codewords_)}")
        return np.ascontiguousarray(self.codewords_[:width].astype(np.float32))

    def gains(self, parts) -> np.ndarray:
        """The gain of each row: (n,) float32."""
        n = parts["ids"].shape[0]
        return to_numpy(parts["gain"])[:, 0] * self.unit_[2] + self.unit_[1] if self.gain else np.ones(n, np.float32)

    # -- fit, encode, decode -------------------------------------------------------------------------------------------
    def fit(self, x, *, weight=None):
        y = to_numpy(x)
        n, d = y.shape
        if n < 2:
            raise FitError(f"{self}: needs rows to learn codewords from, got {n}")
        unit = float(np.abs(y).max()) or 1.0
        unit = min(max(unit, 1e-30), 1e38)
        y = (y / y.dtype.type(unit)).astype(np.float32)
        w = None if weight is None else np.broadcast_to(to_numpy(weight).astype(np.float32), y.shape)
        variance = (np.square(y, dtype=np.float64) * (1 if w is None else w)).mean(axis=0)
        sizes = waterfill.runs(variance, self.groups, self.k)
        rows = None if w is None or weight.shape[0] == 1 else w.mean(axis=1)
        codewords = np.zeros((d, self.k), np.float16)
        width = int(sizes.sum())
        codewords[:width] = _codewords(y[:, :width], sizes, self.k, rows)
        fitted = replace(self, codewords_=codewords, sizes_=sizes.astype(np.uint16), unit_=np.float32([unit, 1, 0]))
        if self.gain:
            y = y[:: max(1, n >> 14)]
            low, high = np.quantile(_gain(*fitted._ids(y, np.float32(1))[1:]), [0.0005, 0.9995])
            fitted = replace(fitted, unit_=np.float32([unit, low, (high - low) / 255]))
        return fitted

    def _ids(self, x: np.ndarray, unit: np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ids (n, groups) of the codewords nearest to y = x / unit, inner products (n,) with them and |y|² (n,)."""
        from .. import _native

        if (found := self.__dict__.get("_books")) is None:  # made once: stages cannot change
            books = self.codebooks()
            self.__dict__["_books"] = found = books.ravel(), _half(books, self.sizes_), self.sizes_.astype(np.int32)
        return _native.scan_encode(np.ascontiguousarray(x), *found, self.k, float(unit))

    def values(self, ids: np.ndarray, d: int) -> np.ndarray:
        """Codewords of ids (n, groups), no gain: (n, d) float32."""
        return self._scaled(ids, d, np.full(len(ids), self.unit_[0], np.float32))

    def _scaled(self, ids: np.ndarray, d: int, scale: np.ndarray) -> np.ndarray:
        """Codewords of ids times the scale (n,) of their row."""
        from .. import _native

        return _native.scan_values(np.ascontiguousarray(ids, np.uint8), self.codebooks().ravel(), self.sizes_.astype(np.int32), self.k,
                                   np.ascontiguousarray(scale, np.float32), d)

    def encode(self, x):
        y, unit = to_numpy(x), self.unit_[0]
        if y.dtype != np.float32:
            y, unit = (y / y.dtype.type(unit)).astype(np.float32), np.float32(1)
        ids, dots, squares = self._ids(y, unit)
        parts = {"ids": like(ids, x)}
        if self.gain:
            low, step = (float(v) for v in self.unit_[1:])
            g = _gain(dots, squares)
            parts["gain"] = like(np.clip(np.rint((g - low) / step if step else g * 0), 0, 255).astype(np.uint8)[:, None], x)
        return parts

    def decode(self, parts, form):
        ids = to_numpy(parts["ids"])
        y = self._scaled(ids, form.d, self.gains(parts) * self.unit_[0])
        return cast(like(y, parts["ids"]), form.dtype)


def _gain(dots: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """|x|² / ⟨x, y⟩ where y points the way of x, else 1."""
    fair = dots > 0.05 * squares
    return np.where(fair, squares / np.where(fair, dots, 1), 1).astype(np.float32)


def _half(books: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Half the squared length of each codeword: (groups, k) float32."""
    ends = np.cumsum(sizes, dtype=np.int64)
    total = np.concatenate([np.zeros((1, books.shape[1])), np.cumsum(books.astype(np.float64) ** 2, axis=0)])
    return ((total[ends] - total[ends - sizes]) / 2).astype(np.float32)


def _codewords(x: np.ndarray, sizes: np.ndarray, k: int, weight: np.ndarray | None) -> np.ndarray:
    """k-means of every run at once: x (n, width) → (width, k). Lloyd 1957; start from spread-out rows (Gersho 1979)."""
    from .. import _native

    x = x[:: max(1, len(x) // (512 * k))] if weight is None else x
    x = np.ascontiguousarray(x)
    n, width = x.shape
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    books = np.empty((width, k), np.float32)
    quantile = np.minimum(((np.arange(k) + 0.5) / k * n).astype(np.int64), n - 1)
    for at, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        spread = np.sqrt((size + 2) / size) if size else 1  # the point density of the best code is flatter than the data's
        if size == 1:
            order = np.sort(x[:, at])
            books[at] = (order[quantile] - order.mean()) * spread + order.mean()
        else:
            books[at:at + size] = x[(quantile + at * 7919) % n, at:at + size].T
    widths, none = sizes.astype(np.int32), np.zeros(0, np.float32)
    run = np.repeat(np.arange(len(sizes)), sizes)
    w = none if weight is None else np.ascontiguousarray(weight, np.float32)
    step = max(1, min(3, n // (64 * k)))  # a part of the rows brings codewords near
    few = (np.ascontiguousarray(x[::step]), np.ascontiguousarray(w[::step]))
    for turn in range(_ROUNDS):
        rows, own = few if turn < _ROUNDS // 2 else (x, w)
        ids, *_ = _native.scan_encode(rows, books.ravel(), _half(books, sizes), widths, k)
        total, count = _native.scan_sums(rows, ids, own, widths, k)
        books = np.where(count[run] > 0, total / np.maximum(count[run], 1e-30), books).astype(np.float32)
        for g in np.flatnonzero((count == 0).any(axis=1) & (sizes > 0)):  # an unused codeword moves next to one of the most used
            empty, at = np.flatnonzero(count[g] == 0), starts[g]
            crowded = np.argsort(-count[g], kind="stable")[:len(empty)]
            books[at:at + sizes[g], empty[:len(crowded)]] = books[at:at + sizes[g], crowded] * np.float32(1.02)
    return books
