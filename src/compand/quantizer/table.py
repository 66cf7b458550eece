"""Scalar quantization by a table of levels: fitted by k-means, or named."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from ..array import array_namespace, cast, is_numpy, like, to_numpy
from ..stage import KW_ONLY, Part, Quantizer, replace
from . import groups
from .levels import NAMED, learn, place


class Table(Quantizer, name="table"):
    """The nearest of up to 256 levels, in any places.

    ==========================  ===============================================================================
    ``table:16``                16 levels fitted to all values by weighted k-means (SqueezeLLM, Kim 2023)
    ``table:16:per=row``        levels for each row, stored beside it; ``rows=8`` for each 8 rows
    ``table:16:group=64``       fitted levels times the largest magnitude of each group of 64 values
    ``table:nf4``               NormalFloat, one scale a row, or ``group=64`` (QLoRA, Dettmers 2023); also nf3
    ``table:gauss4``            the best levels for a Gaussian (Max, 1960) times the root mean square; gauss1 to gauss5
    ==========================  ===============================================================================

    ``scale`` is what a row or group is divided by: ``absmax``, ``rms`` or ``none``; ``auto`` is absmax for nf, rms for gauss,
    none for fitted levels without ``group``. Ties go to the lower level.

    >>> import numpy as np
    >>> x = np.float32([[1, 1, 7, 7.5, 1]])
    >>> q = Table("2").fit(x)
    >>> q.table_, q.encode(x)["ids"]
    (array([1.  , 7.25], dtype=float32), array([[0, 0, 1, 1, 0]], dtype=uint8))
    """

    weighs = True
    examples = ("table:16", "table:nf4")
    levels: str
    _: KW_ONLY
    per: Literal["tensor", "row"] = "tensor"
    rows: Annotated[int, range(1, 1 << 24)] = 1
    group: Annotated[int, range(1, 1 << 24)] | None = None
    scale: Literal["auto", "none", "absmax", "rms"] = "auto"
    scales: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    table_: np.ndarray  # (k,) float32, ascending

    def __post_init__(self):
        if type(self.levels) is int:
            object.__setattr__(self, "levels", str(self.levels))
        super().__post_init__()

    def check(self):
        number = self.levels.isascii() and self.levels.isdigit() and self.levels == str(int(self.levels[:9]))
        if self.levels not in NAMED and not (number and 1 <= int(self.levels) <= 256):
            raise self.fail(f"levels must be a number from 1 to 256 or one of {', '.join(NAMED)}, not {self.levels!r}")
        if self.per == "row" and (not number or self.group or self.scale != "auto"):
            raise self.fail("per=row fits levels to each row; names, group and scale are for levels that all rows share")
        if self.rows > 1 and self.per != "row":
            raise self.fail("rows is how many rows share levels with per=row")
        if self.group and self.scale == "none":
            raise self.fail("group gives each part of a row its scale; scale=none has none")

    @property
    def k(self) -> int:
        """Number of levels."""
        return len(NAMED[self.levels]) if self.levels in NAMED else int(self.levels)

    @property
    def _scale(self) -> str:
        if self.scale != "auto":
            return self.scale
        if self.levels in NAMED:
            return "rms" if self.levels.startswith("gauss") else "absmax"
        return "absmax" if self.group else "none"

    def layout(self, form):
        n, d = form[:2]
        parts = {"ids": Part((n, d), k=self.k)}
        if self.per == "row":
            parts["table"] = Part((-(-n // self.rows), self.k), self.scales)
        elif self._scale != "none":
            parts["scale"] = Part((n, groups.count(d, self.group)), self.scales)
        return parts

    def state(self, form):
        return {"table_": Part((self.k,), "float32")} if self.per == "tensor" and self.levels not in NAMED else {}

    def _scales(self, x):
        """The scale of each group of x (n, d), as it is stored."""
        xp = array_namespace(x)
        if self._scale == "absmax":
            s = xp.max(xp.abs(groups.split(x, self.group)), axis=2)
            return groups.store(s, self.scales, up=True)
        top = xp.max(xp.abs(x), axis=1, keepdims=True)
        y = x / xp.where(top == 0, xp.ones_like(top), top)
        return groups.store(xp.sqrt(groups.statistic(y * y, self.group, "mean")) * top, self.scales)

    def _unit(self, x, s):
        """x divided by its scale, zeros where the scale is zero."""
        xp = array_namespace(x)
        s = groups.spread(s, x.shape[1], self.group)
        return xp.where(s == 0, xp.zeros_like(x), x / xp.where(s == 0, xp.ones_like(s), s))

    def fit(self, x, *, weight=None):
        if self.per == "row" or self.levels in NAMED:
            return self
        x = to_numpy(groups.float32(x))
        w = None if weight is None else np.broadcast_to(to_numpy(weight).astype(np.float64), x.shape)
        if self._scale != "none":
            s = groups.widen(self._scales(x))
            x = self._unit(x, s)
            s = groups.spread(s, x.shape[1], self.group).astype(np.float64)
            w = (s / max(s.max(), 1e-300)) ** 2 * (1.0 if w is None else w)
        w = None if w is None else np.broadcast_to(w, x.shape).reshape(1, -1)
        return replace(self, table_=learn(x.reshape(1, -1), self.k, w)[0])

    @property
    def table(self) -> np.ndarray:
        """The levels all rows share: (k,) float32, ascending."""
        return NAMED[self.levels] if self.levels in NAMED else self.table_

    def encode(self, x, weight=None):
        """x (n, d) → ids, and scales or levels. ``weight`` (n or 1, d) is for per=row."""
        if self.per == "row":
            return self._encode_rows(x, weight)
        return groups.concat([self._encode(groups.float32(x[rows])) for rows in groups.chunks(x)])

    def _encode(self, x):
        parts = {}
        if self._scale != "none":
            parts["scale"] = self._scales(x)
            x = self._unit(x, groups.widen(parts["scale"]))
        return {"ids": place(x, self.table), **parts}

    def _encode_rows(self, x, weight):
        from ..dtypes import dtype

        rows = to_numpy(groups.float32(x))
        n = len(rows)
        w = None if weight is None else np.broadcast_to(to_numpy(weight), rows.shape)
        ids = np.empty(rows.shape, np.uint8)
        whole = n - n % self.rows
        tables = [learn(a.reshape(r, -1), self.k, None if w is None else w[at].reshape(r, -1))
                  for at, r in ((slice(0, whole), whole // self.rows), (slice(whole, n), 1)) if r and (a := rows[at]).size]
        table = np.concatenate(tables)
        table = (np.clip(table, -65504, 65504) if self.scales == "float16" else table).astype(dtype(self.scales))
        for i, levels in enumerate(np.sort(table.astype(np.float32), axis=1)):
            at = slice(i * self.rows, (i + 1) * self.rows)
            ids[at] = place(rows[at], levels)
        return {"ids": like(ids, x), "table": like(table, x)}

    def decode(self, parts, form):
        n, d, dtype = form
        ids = parts["ids"]
        xp = array_namespace(ids)
        if self.per == "row":
            tables = groups.widen(parts["table"])
            which = xp.astype(ids, xp.int64) + like((np.arange(n)[:, None] // self.rows) * self.k, ids)
            return cast(xp.reshape(xp.take(xp.reshape(tables, (-1,)), xp.reshape(which, (-1,))), (n, d)), dtype)
        if is_numpy(ids):
            y = self.table[ids]
        else:
            y = xp.reshape(xp.take(like(self.table, ids), xp.reshape(xp.astype(ids, xp.int64), (-1,))), (n, d))
        return cast(y if self._scale == "none" else groups.times(y, groups.widen(parts["scale"]), self.group), dtype)
