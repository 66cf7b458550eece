"""Random numbers that are the same for ever: splitmix64, counted from a seed (Steele, Lea, Flood 2014).

NumPy's generators may change their streams between versions; what a file's seed means must not.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15


def bits(seed: int, n: int, start: int = 0) -> np.ndarray:
    """Values start to start + n of stream ``seed``: uint64 (n,).

    >>> [hex(v) for v in bits(0, 2).tolist()]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    z = np.arange(start + 1, start + n + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(seed % (1 << 64))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def signs(seed: int, n: int) -> np.ndarray:
    """±1 by the top bit: float32 (n,), read-only if short: those are remembered."""
    return _short_signs(seed, n) if n <= 4096 else _signs(seed, n)


@lru_cache(64)
def _short_signs(seed: int, n: int) -> np.ndarray:
    found = _signs(seed, n)
    found.flags.writeable = False
    return found


def _signs(seed: int, n: int) -> np.ndarray:
    return np.where(bits(seed, n) >> np.uint64(63), np.float32(-1), np.float32(1))


def uniform(seed: int, n: int, start: int = 0) -> np.ndarray:
    """Multiples of 2^-53 in [0, 1): float64 (n,)."""
    return (bits(seed, n, start) >> np.uint64(11)).astype(np.float64) * 2.0 ** -53


def normal(seed: int, n: int) -> np.ndarray:
    """Standard normal by Box and Muller (1958): float64 (n,). Equal between machines but for the last bits of log and cos.

    >>> x = normal(1, 10_000)
    >>> bool(abs(x.mean()) < 0.05 and abs(x.std() - 1) < 0.05)
    True
    """
    m = -(-n // 2)
    radius = np.sqrt(-2 * np.log1p(-uniform(seed, m)))
    angle = 2 * np.pi * uniform(seed, m, m)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]
