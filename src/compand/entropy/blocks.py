"""rANS under models from outside (NumPy, torch...): the caller gives integer cumulative tables block by block.

No callback: the encoder takes the ids with their tables, in the order in which the decoder will ask for them.
"""

from __future__ import annotations

import numpy as np

from .. import _native
from ..errors import CorruptError, InputError
from .coder import _bytes

_FAULTS = {1: "its row must rise from 0 to 2^{p} = {whole}", 2: "the id is outside its row or has frequency 0"}


def _tables(cdf: np.ndarray) -> np.ndarray:
    cdf = np.asarray(cdf)
    if cdf.ndim != 2 or cdf.shape[1] < 2 or cdf.dtype.kind not in "ui":
        raise InputError(f"cdf must be an integer array (m, k + 1), got {cdf.dtype}{list(cdf.shape)}")
    if cdf.size and (int(cdf.min()) < 0 or int(cdf.max()) > 1 << 16):
        raise InputError("cumulative frequencies must be in 0..2^16")
    return np.ascontiguousarray(cdf, np.uint32)


def _raise(fault: int, p: int) -> None:
    if fault >= 0:
        raise InputError(f"row {fault // 4}: " + _FAULTS[fault % 4].format(p=p, whole=1 << p))


class BlockEncoder:
    """Collects ids and their cumulative tables; `finish` gives the bytes.

    ``p``: tables end in 2^p, 1 ≤ p ≤ 16. 12 to 14 is best: above, the coder itself costs up to 0.15 %.

    >>> cdf = np.array([[0, 100, 4000, 4096], [0, 4000, 4095, 4096]])
    >>> encoder = BlockEncoder(p=12)
    >>> encoder.encode(np.array([1, 0]), cdf)
    >>> decoder = BlockDecoder(encoder.finish())
    >>> decoder.decode(cdf[:1]), decoder.decode(cdf[1:])
    (array([1], dtype=uint32), array([0], dtype=uint32))
    >>> decoder.finish()
    """

    def __init__(self, p: int = 14):
        if not 1 <= p <= 16:
            raise InputError(f"p must be from 1 to 16, not {p}")
        self.p, self._steps = p, []

    def encode(self, ids: np.ndarray, cdf: np.ndarray) -> None:
        """Add ids (m,) coded by cdf (m, k + 1): row i runs from 0 to 2^p, id s has the frequency cdf[i, s + 1] - cdf[i, s] > 0."""
        cdf, ids = _tables(cdf), np.asarray(ids).reshape(-1)
        if ids.size != cdf.shape[0] or ids.dtype.kind not in "ui" or (ids.size and int(ids.min()) < 0):
            raise InputError(f"ids must be {cdf.shape[0]} integers ≥ 0, one for each row of cdf, got {ids.dtype}{list(ids.shape)}")
        steps, fault = _native.rans_given_steps(cdf, np.minimum(ids, 1 << 20).astype(np.uint32), self.p)
        _raise(fault, self.p)
        self._steps.append(steps)

    def finish(self) -> np.ndarray:
        """uint8 (bytes,) of everything given so far."""
        return _native.rans_encode_given(np.concatenate([np.zeros(0, np.uint32), *self._steps]), self.p)


class BlockDecoder:
    """Gives back the ids of a `BlockEncoder`, table by table. See there for an example. Raises `CorruptError`."""

    def __init__(self, data):
        self._reader = _native.RansGivenReader(_bytes(data))
        if not self._reader.valid:
            raise CorruptError("this is not a stream of a BlockEncoder, or it is damaged")

    def decode(self, cdf: np.ndarray) -> np.ndarray:
        """The next m ids, uint32, under cdf (m, k + 1), as the encoder had it."""
        ids, fault = self._reader.decode(_tables(cdf))
        if fault >= 0 and fault % 4 == 3:
            raise CorruptError("the stream ended early, or it is damaged")
        _raise(fault, self._reader.p)
        return ids

    def finish(self) -> None:
        """Check that all was read and nothing is damaged, as far as the coder can tell."""
        if self._reader.left or not self._reader.finish():
            raise CorruptError(f"the stream is damaged, or {self._reader.left} of its ids were not asked for")
