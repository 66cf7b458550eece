"""Tables of float32 without loss, each row foretold by rows that lie near it."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from .. import _native  # type: ignore[attr-defined]
from ..array import is_numpy, like, to_numpy
from ..errors import CorruptError
from ..stage import Part, Quantizer

PARTS = ("columns", "coded", "raw")


class Neighbours(Quantizer, name="neighbours"):
    """Every bit of float32 rows whose first ``axes`` values say where they lie (NaN payloads and −0 too).

    Each further value is foretold by the 32 nearest rows before it, weighted by how well they foretold the columns before, and
    corrected by what up to 24 columns before were off (weights fitted, stored). Values are whole steps of 2^-24 of their column's
    greatest, or ranks where a column has few values, so all of it is integer arithmetic: the same bits on every machine. What is left
    is coded by a mixture of contexts; the last bits of mantissas are kept as they are. Best with rows in an order of space, as a
    curve gives; looks at most 8,192 rows back. About 12,000 rows of 59 values/s to encode, 19,000 to decode.
    Rows that differ from the row before take 2·axes + 2 + (d − axes)/2 bytes at least (zeros fill up what is shorter), so that what
    decoding takes is bounded by the bytes there are.

    Mahoney, "Adaptive weighing of context models for lossless data compression", 2005 (mixing).

    >>> import compand
    >>> place = np.sort(np.random.default_rng(0).uniform(0, 9, (2000, 1)), 0)
    >>> x = np.concatenate([place, np.sin(place), np.cos(place)], 1).astype(np.float32)
    >>> codes = compand.Codec("neighbours:1").encode(x)
    >>> compand.Codec("neighbours:1").decode(codes).tobytes() == x.tobytes(), codes.nbytes < 0.7 * x.nbytes
    (True, True)
    """

    examples = ("neighbours", "neighbours:2")
    raw = True

    axes: Annotated[int, range(1, 65)] = 3

    @property
    def most_rows(self) -> int:
        """Rows of a block."""
        return 65536

    @property
    def effort(self):
        return 8

    def layout(self, form):
        if form.dtype != "float32":
            raise self.fail(f"rows of float32 are what it takes, not {form.dtype}; try planes,rans")
        return {name: Part((-1,), "uint8") for name in PARTS}

    def encode(self, x):
        words = np.ascontiguousarray(to_numpy(x)).view(np.uint32)
        if not words.size:
            return {name: np.zeros(0, np.uint8) for name in PARTS}
        return dict(zip(PARTS, _native.neighbours_encode(words, self.axes), strict=True))

    def decode(self, parts, form):
        if not form.n or not form.d:
            return np.zeros((form.n, form.d), np.float32)
        data = [np.ascontiguousarray(to_numpy(parts[name])) for name in PARTS]
        words = _native.neighbours_decode(*data, form.n, form.d, self.axes)
        if words is None:
            raise CorruptError(f"{self}: the streams of these rows are damaged")
        first = next(iter(parts.values()))
        return words.view(np.float32) if is_numpy(first) else like(words.view(np.float32), first)
