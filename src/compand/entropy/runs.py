"""Symbols as runs of equal ones: for ids that are sorted, such as the lists of an index."""

from __future__ import annotations

import numpy as np

from ..errors import CorruptError
from ..stage import EntropyModel
from ..symbols import below, id_dtype, pack, row_bytes, unpack


class Runs(EntropyModel, name="runs"):
    """Each run of equal symbols as the symbol and the length, packed in as few bits as alphabet and part need.

    For rows in the order of their ids, as ``vq:1024,runs`` gives in an index of inverted lists: a fraction of a bit a row.
    Where neighbours differ it is larger than no coder.

    >>> ids = np.repeat(np.arange(8), 100)[:, None]
    >>> data = Runs().encode(ids, 8)
    >>> bool((Runs().decode(data, (800, 1), 8) == ids).all()), data.size
    (True, 17)
    """

    def encode(self, ids, k):
        flat = np.ascontiguousarray(ids).reshape(-1)
        if not flat.size:
            return np.zeros(4, np.uint8)
        starts = np.flatnonzero(np.diff(flat.astype(np.int64), prepend=-1))
        lengths = np.diff(starts, append=flat.size)
        return np.concatenate([np.array([len(starts)], "<u4").view(np.uint8), pack(flat[starts][None].astype(np.int64), k)[0],
                               pack(lengths[None] - 1, flat.size)[0]])

    def decode(self, data, shape, k):
        n = shape[0] * shape[1]
        count = int(data[:4].view("<u4")[0]) if data.size >= 4 else 0
        size = row_bytes(count, k)
        if data.size < 4 or count > n or (count == 0 and n) or data.size != 4 + size + (row_bytes(count, n) if n else 0):
            raise CorruptError(f"{data.size:,} bytes are not the runs of {n:,} symbols")
        if not n:
            return np.zeros(shape, id_dtype(k))
        data = np.ascontiguousarray(data)
        ids = unpack(data[None, 4:4 + size], count, k)[0]
        lengths = unpack(data[None, 4 + size:], count, n)[0].astype(np.int64) + 1
        if int(lengths.sum()) != n or not below(ids, k):
            raise CorruptError(f"runs of {int(lengths.sum()):,} symbols where {n:,} belong")
        return np.repeat(ids, lengths).reshape(shape)
