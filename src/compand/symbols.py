"""Symbols as bytes: fixed-width bits, or several base-k digits in a byte where that is smaller; each row starts on a byte.

The native kernels do the work; `pack_reference` and `unpack_reference` are the readable form that tests hold them to.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .errors import CorruptError


def id_dtype(k: int) -> np.dtype:
    """The smallest unsigned dtype that holds symbols in [0, k), for k up to 2^32."""
    return np.dtype(np.uint8 if k <= 1 << 8 else np.uint16 if k <= 1 << 16 else np.uint32)


def below(ids: np.ndarray, k: int) -> bool:
    """Whether all ids are in [0, k); looks at them only where their dtype can hold others."""
    if not ids.size or (ids.dtype.kind == "u" and k > (1 << 8 * ids.dtype.itemsize) - 1):
        return True
    return (ids.dtype.kind == "u" or int(ids.min()) >= 0) and int(ids.max()) < k


def width(k: int) -> int:
    """Bits of one symbol in [0, k): 0 for k = 1, 32 for k = 2^32."""
    return (k - 1).bit_length()


@lru_cache(1024)
def digits(k: int) -> int:
    """Base-k digits put into one byte where that beats fixed-width bits (5 for k = 3, 3 for k = 5 and 6), else 0."""
    m = 0
    while k > 1 and k ** (m + 1) <= 256:
        m += 1
    return m if m * width(k) > 8 else 0


def row_bytes(m: int, k: int) -> int:
    """Bytes of a packed row of m symbols in [0, k)."""
    return -(-m // digits(k)) if digits(k) else -(-m * width(k) // 8)


def pack(ids: np.ndarray, k: int) -> np.ndarray:
    """ids (n, m) in [0, k) → uint8 (n, row_bytes).

    >>> pack(np.array([[0, 1, 2, 2, 1]]), 3)
    array([[156]], dtype=uint8)
    """
    from . import _native

    if not below(ids, k):
        raise ValueError(f"symbols must be in [0, {k}), got {int(ids.min())}..{int(ids.max())}")
    ids = np.ascontiguousarray(ids, id_dtype(k))
    if not ids.size or k == 1:
        return np.zeros((ids.shape[0], row_bytes(ids.shape[1], k)), np.uint8)
    if digits(k):
        return _native.pack_radix(ids, k, digits(k))
    return _native.pack_bits(ids, width(k))


def unpack(data: np.ndarray, m: int, k: int) -> np.ndarray:
    """uint8 (n, row_bytes) → ids (n, m). Raises `CorruptError` if a symbol is not below k."""
    from . import _native

    n, dtype = data.shape[0], id_dtype(k)
    if data.shape[1] != row_bytes(m, k):
        raise CorruptError(f"{m} symbols of {k} need rows of {row_bytes(m, k)} bytes, not {data.shape[1]}")
    if not n or not m or k == 1:
        return np.zeros((n, m), dtype)
    data = np.ascontiguousarray(data)
    if digits(k):
        if int(data.max()) >= k ** digits(k):
            raise CorruptError(f"byte {int(data.max())} is not {digits(k)} digits below the alphabet size {k}")
        return _native.unpack_radix(data, m, k, digits(k))
    ids = _native.unpack_bits(data, m, width(k), dtype.itemsize)
    if k & (k - 1) and not below(ids, k):
        raise CorruptError(f"symbol {int(ids.max())} is not below the alphabet size {k}")
    return ids


def pack_reference(ids: np.ndarray, k: int) -> np.ndarray:
    """`pack` in plain NumPy."""
    n, m = ids.shape
    if digits(k):
        padded = np.zeros((n, row_bytes(m, k) * digits(k)), np.int64)
        padded[:, :m] = ids
        return (padded.reshape(n, -1, digits(k)) * k ** np.arange(digits(k))).sum(-1).astype(np.uint8)
    bits = (ids[..., None].astype(np.uint64) >> np.arange(width(k), dtype=np.uint64)) & np.uint64(1)
    return np.packbits(bits.reshape(n, -1).astype(np.uint8), axis=1, bitorder="little")


def unpack_reference(data: np.ndarray, m: int, k: int) -> np.ndarray:
    """`unpack` in plain NumPy, unchecked."""
    n = data.shape[0]
    if digits(k):
        ids = data[..., None] // k ** np.arange(digits(k)) % k
        return ids.reshape(n, -1)[:, :m].astype(id_dtype(k))
    bits = np.unpackbits(data, axis=1, bitorder="little")[:, : m * width(k)].reshape(n, m, width(k)).astype(np.uint64)
    return (bits << np.arange(width(k), dtype=np.uint64)).sum(-1).astype(id_dtype(k))
