"""Sorted positions as bits: the code of Elias (1974) and Fano (1971), about 2 + log2(total / count) bits a position."""

from __future__ import annotations

import numpy as np

from .errors import CorruptError
from .symbols import pack, row_bytes, unpack


def _low_bits(count: int, total: int) -> int:
    return min((total // count).bit_length() - 1, 31) if count else 0


def _high_bytes(count: int, total: int) -> int:
    return -(-(count + ((total - 1) >> _low_bits(count, total)) + 1) // 8) if count else 0


def pack_positions(positions: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Strictly rising positions in [0, total) → low bits and unary high bits, both uint8 (bytes,).

    >>> low, high = pack_positions(np.array([3, 5, 100]), 1000)
    >>> low.nbytes + high.nbytes
    4
    >>> unpack_positions(low, high, 3, 1000)
    array([  3,   5, 100])
    """
    count = len(positions)
    bits = _low_bits(count, total)
    positions = np.asarray(positions, np.int64)
    low = pack((positions & ((1 << bits) - 1))[None], 1 << bits)[0] if count else np.zeros(0, np.uint8)
    ones = np.zeros(_high_bytes(count, total) * 8, np.uint8)
    ones[(positions >> bits) + np.arange(count)] = 1
    return low, np.packbits(ones, bitorder="little")


def unpack_positions(low: np.ndarray, high: np.ndarray, count: int, total: int) -> np.ndarray:
    """The positions, int64 (count,). Raises `CorruptError` unless the bytes are those of so many rising positions below total."""
    if count > total:
        raise CorruptError(f"{count:,} positions among {total:,} values")
    bits = _low_bits(count, total)
    for name, a, need in (("low", low, row_bytes(count, 1 << bits)), ("high", high, _high_bytes(count, total))):
        if a.shape != (need,) or a.dtype != np.uint8:
            raise CorruptError(f"{count:,} positions among {total:,} values need {need:,} bytes of {name} bits, "
                               f"there are {a.size:,}")
    if not count:
        return np.zeros(0, np.int64)
    ones = np.flatnonzero(np.unpackbits(high, bitorder="little"))
    if len(ones) != count:
        raise CorruptError(f"{count:,} values for {len(ones):,} positions")
    positions = ((ones - np.arange(count)) << bits) | unpack(low[None], count, 1 << bits)[0].astype(np.int64)
    if positions[-1] >= total or (np.diff(positions) <= 0).any():
        raise CorruptError(f"positions do not rise, or leave the {total:,} values")
    return positions
