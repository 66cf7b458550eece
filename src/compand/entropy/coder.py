"""Ids to bytes by the native rANS coder: plain functions, NumPy in and out.

Streams are the same for every instruction set and thread count. Decoders take any bytes: they return ids of the shape asked
for or raise `CorruptError`. What a stream holds is written in native/rans/static.hpp and its neighbours.
"""

from __future__ import annotations

import numpy as np

from .. import _native
from ..errors import CorruptError, InputError

MOST = 1 << 16  # largest alphabet


def _ids(ids: np.ndarray, k: int, most: int = MOST) -> np.ndarray:
    """ids as a flat uint8 or uint16 array, checked to be in [0, k)."""
    ids = np.asarray(ids)
    if not 1 <= k <= most:
        raise InputError(f"alphabets have 1 to {most} symbols, not {k}")
    if ids.dtype.kind not in "ui":
        raise InputError(f"ids must be integers, not {ids.dtype}")
    if ids.size and k <= np.iinfo(ids.dtype).max and (int(ids.max()) >= k or int(ids.min()) < 0):
        raise InputError(f"ids must be in [0, {k}), got {int(ids.min())}..{int(ids.max())}")
    return np.ascontiguousarray(ids, np.uint8 if k <= 256 else np.uint16).reshape(-1)


def _bytes(data) -> np.ndarray:
    """Bytes-like or uint8 array as a flat uint8 array."""
    flat = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    return np.ascontiguousarray(flat, np.uint8).reshape(-1)


def _or_corrupt(ids: np.ndarray | None, what: str) -> np.ndarray:
    if ids is None:
        raise CorruptError(f"this is not {what}, or it is damaged")
    return ids


def encode_static(ids: np.ndarray, k: int) -> np.ndarray:
    """Code ids by one table made from them (order 0).

    ids: any shape, integers in [0, k), k up to 65,536. Returns uint8 (bytes,): within about 0.02 % + 150 bytes of the
    empirical entropy for byte alphabets, and never more than packed bits + 16 bytes. Raises `InputError` for ids outside.
    Interleaved rANS (Duda 2013, arXiv:1311.2540; Giesen 2014, arXiv:1402.3392).

    >>> ids = np.repeat(np.arange(4), (90, 5, 3, 2)).astype(np.uint8)
    >>> data = encode_static(ids, 4)
    >>> data.size < 24, bool((decode_static(data, 100, 4) == ids).all())
    (True, True)
    """
    return _native.rans_encode_static(_ids(ids, k))


def decode_static(data, n: int, k: int) -> np.ndarray:
    """The n ids of `encode_static`: uint8 if k ≤ 256, else uint16. Raises `CorruptError`."""
    decode = _native.rans_decode_static8 if k <= 256 else _native.rans_decode_static16
    return _or_corrupt(decode(_bytes(data), n, k), f"a stream of {n} ids below {k}")
