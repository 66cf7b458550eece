"""Symbols by an adaptive mixture of contexts: the strong entropy coder."""

from __future__ import annotations

from ..stage import EntropyModel
from . import coder
from .rans import by_halves, from_halves


class Mixed(EntropyModel, name="mixed"):
    """Each symbol predicted from the two before, the one above in the row before, and its column (Mattern 2013).

    Learns while it codes, so it needs no table and is good on small arrays; about 20 M symbols/s of 4 bits, 12 M of 8. Integers only.

    >>> import numpy as np
    >>> ids = np.repeat([[0, 1, 2]], 100, axis=0).astype(np.uint8)
    >>> data = Mixed().encode(ids, 3)
    >>> data.size < 26, bool((Mixed().decode(data, (100, 3), 3) == ids).all())
    (True, True)
    """

    def encode(self, ids, k):
        width = ids.shape[1]
        return by_halves(lambda flat, k: coder.encode_mixed(flat, k, width), ids, k)

    def decode(self, data, shape, k):
        n, width = shape[0] * shape[1], shape[1]
        return from_halves(lambda part, n, k: coder.decode_mixed(part, n, k, width), data, n, k).reshape(shape)
