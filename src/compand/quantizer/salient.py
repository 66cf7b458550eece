"""More bits for the rows that matter most."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from array_api_compat import is_torch_array

from ..array import array_namespace, cast, device, is_numpy, like, to_numpy
from ..dtypes import dtype
from ..errors import CorruptError
from ..stage import Form, Part, Quantizer
from ..symbols import pack, row_bytes, unpack
from .int import Int


class Salient(Quantizer, name="salient"):
    """The ``share`` of rows that matters most, in integers of ``bits`` bits times a scale a row; all other rows decode to 0.

    It follows other terms: ``(hadamard,trellis:3)+salient:0.1:4`` gives every row 3 bits, and a tenth of them 4 more;
    ``...+salient:0.2:2+salient:0.05:4`` has three classes of rows. A row matters by the sum of weight · x², so that behind a ``+`` it is
    what the terms before it lost, times the importance of the row where one is given, as ``encode(x, weight=counts[:, None])``: how often
    a token occurs for an embedding, the curvature of an output for a layer.

    Parameters
    ----------
    share : float
        0 to 1, of each block of rows that is coded at a time (about a million values); `compand.fit.feedback.encode` picks among all
        rows of a matrix. Rows of zeros are never taken.
    bits : int
        1 to 8 a value of these rows, and 16 for the row's scale; the grid is that of ``int`` (of 1 and 2 bits: ``mid=true``).

    Which rows is one bit a row. So the rate is share · (bits + 16 / d) + 1 / d bits a value. Decoding raises `CorruptError` where rows, ids
    and scales do not fit each other.
    Source: mixed bits by output row as in MixLLM (Zheng et al. 2024), as a term of a sum.

    >>> import numpy as np, compand
    >>> x = np.array([[1, -2, 3, 4], [100, -128, 2, 7], [0, 1, 0, 1], [0, 0, 5, 0]], np.float32)
    >>> codec = compand.Codec("salient:0.25:8")
    >>> codec.decode(codec.encode(x))
    array([[   0.,    0.,    0.,    0.],
           [ 100., -128.,    2.,    7.],
           [   0.,    0.,    0.,    0.],
           [   0.,    0.,    0.,    0.]], dtype=float32)
    >>> codec.decode(codec.encode(x, weight=np.float32([[1], [0], [0], [9]])))[3].tolist() == [0, 0, 5, 0]
    True
    """

    weighs = True
    examples = ("salient:0.25:4", "int:3:group=16+salient:0.1:4")
    share: Annotated[float, (0.0, 1.0)] = 0.1
    bits: Annotated[int, range(1, 9)] = 4

    @property
    def grid(self) -> Int:
        """What codes a row that is taken."""
        return Int(self.bits, mid=self.bits < 3)

    def layout(self, form):
        return {"rows": Part((-(-form.n // 8),), "uint8"), "ids": Part((-1,), "uint8"), "scale": Part((-1,), "bfloat16")}

    def encode(self, x, weight=None):
        here = to_numpy(x)
        rows = largest(_worth(here, None if weight is None else to_numpy(weight)), self.share)
        coded = self.rows(np.ascontiguousarray(here[rows]))
        return {name: like(a, x) for name, a in self.parts(len(here), rows, coded["ids"], coded["scale"]).items()}

    def rows(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Ids (rows, d) and scale (rows, 1) of rows that are all taken, as many as there are."""
        return self.grid.encode(x) if x.size else {"ids": np.zeros(x.shape, np.uint8), "scale": np.zeros((len(x), 1), dtype("bfloat16"))}

    def parts(self, n: int, rows: np.ndarray, ids: np.ndarray, scale: np.ndarray) -> dict[str, np.ndarray]:
        """The parts of n rows of which these were coded: ids (rows, d), scale (rows, 1)."""
        there = np.zeros(n, bool)
        there[rows] = True
        return {"rows": np.packbits(there, bitorder="little"), "ids": pack(np.ascontiguousarray(ids), self.grid.k).reshape(-1),
                "scale": scale.reshape(-1)}

    def chosen(self, rows: np.ndarray, n: int) -> np.ndarray:
        """The numbers, rising, of the rows that a bitmap of n rows holds. Raises `CorruptError` for bits of rows that are not there."""
        there = np.unpackbits(rows, bitorder="little")
        if there[n:].any():
            raise CorruptError(f"{self}: a row beyond the {n:,} is marked")
        return np.flatnonzero(there[:n])

    def coded(self, parts: dict, form: Form) -> tuple[np.ndarray, np.ndarray]:
        """The rows taken and their ids packed (rows, bytes). Raises `CorruptError` where parts do not fit each other."""
        rows = self.chosen(to_numpy(parts["rows"]), form.n)
        ids, width = to_numpy(parts["ids"]), row_bytes(form.d, self.grid.k)
        if ids.size != len(rows) * width or parts["scale"].shape[0] != len(rows):
            raise CorruptError(f"{self}: {len(rows):,} rows need {len(rows) * width:,} bytes of ids, there are {ids.size:,}, "
                               f"and {parts['scale'].shape[0]:,} scales")
        return rows, ids.reshape(len(rows), width)

    def decode(self, parts, form):
        xp = array_namespace(parts["scale"])
        rows, packed = self.coded(parts, form)
        ids = like(unpack(packed, form.d, self.grid.k), parts["scale"])
        some = self.grid.decode({"ids": ids, "scale": xp.reshape(parts["scale"], (-1, 1))}, form._replace(n=len(rows)))
        some = cast(some, form.dtype)
        if is_numpy(some) or is_torch_array(some):
            x = xp.zeros((form.n, form.d), dtype=some.dtype, device=device(some))
            x[like(rows, some)] = some
            return x
        dense = np.zeros((form.n, form.d), form.dtype)
        dense[rows] = to_numpy(some)
        return like(dense, some)


def _worth(x: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Sum of weight · x² of each row: float64 (n,), added column by column so that it is the same on every machine."""
    total = np.zeros(x.shape[0])
    unit = np.float64(np.abs(x).max(initial=0) or 1)
    for j in range(x.shape[1]):
        own = np.square(x[:, j] / unit)
        total += own if weight is None else own * weight[:, min(j, weight.shape[1] - 1)]
    return total


def largest(worth: np.ndarray, share: float) -> np.ndarray:
    """The numbers, rising, of this share of rows whose worth is largest and above 0; ties go to the first.

    >>> largest(np.array([3., 0., 5., 5.]), 0.5)
    array([2, 3])
    """
    order = np.argsort(-worth, kind="stable")[:round(share * len(worth))]
    return np.sort(order[worth[order] > 0])
