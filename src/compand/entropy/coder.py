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


def encode_static(ids: np.ndarray, k: int, counts: np.ndarray | None = None) -> np.ndarray:
    """Code ids by one table made from them (order 0), or from ``counts``.

    ids: any shape, integers in [0, k), k up to 65,536. Returns uint8 (bytes,): within about 0.02 % + 150 bytes of the
    empirical entropy for byte alphabets, and never more than packed bits + 16 bytes. Raises `InputError` for ids outside.
    ``counts`` (k,): how often each id came up in a sample, say; ids are then not counted, which saves a third of the time for large
    alphabets, and the stream is as short as the sample is like them. Ids that were not in it can be coded, at a price.
    Interleaved rANS (Duda 2013, arXiv:1311.2540; Giesen 2014, arXiv:1402.3392).

    >>> ids = np.repeat(np.arange(4), (90, 5, 3, 2)).astype(np.uint8)
    >>> data = encode_static(ids, 4)
    >>> data.size < 30, bool((decode_static(data, 100, 4) == ids).all())
    (True, True)
    """
    ids = _ids(ids, k)
    if counts is None:
        return _native.rans_encode_static(ids)
    counts = np.asarray(counts)
    if counts.shape != (k,) or counts.dtype.kind not in "ui" or not 0 <= int(counts.min()) <= int(counts.max()) < 1 << 36:
        raise InputError(f"counts must be {k} integers from 0 to 2^36, one for each id, not {counts.dtype}{list(counts.shape)}")
    return _native.rans_encode_static(ids, np.maximum(counts, 1).astype(np.uint64))


def decode_static(data, n: int, k: int) -> np.ndarray:
    """The n ids of `encode_static`: uint8 if k ≤ 256, else uint16. Raises `CorruptError`."""
    decode = _native.rans_decode_static8 if k <= 256 else _native.rans_decode_static16
    return _or_corrupt(decode(_bytes(data), n, k), f"a stream of {n} ids below {k}")


def encode_order1(ids: np.ndarray, k: int, contexts: np.ndarray | None = None, c: int = 256) -> np.ndarray:
    """Code ids by tables chosen by a context: the id before, or ``contexts`` (one below c ≤ 4096 for each id).

    ids: integers in [0, k), k ≤ 256. Contexts share up to 64 tables, so that rare contexts cost little; falls back to
    `encode_static` where that is smaller. Returns uint8 (bytes,). Raises `InputError`.

    >>> ids = (np.arange(5000) // 7 % 3 + np.arange(5000) % 2).astype(np.uint8)
    >>> encode_order1(ids, 4).size < encode_static(ids, 4).size
    True
    """
    ids = _ids(ids, k, 256)
    return _native.rans_encode_order1(ids, _contexts(contexts, ids.size, c), c)


def decode_order1(data, n: int, k: int, contexts: np.ndarray | None = None, c: int = 256) -> np.ndarray:
    """The n ids of `encode_order1`, uint8, given the same contexts. Raises `CorruptError`."""
    return _or_corrupt(_native.rans_decode_order1(_bytes(data), n, k, _contexts(contexts, n, c), c), f"a stream of {n} ids below {k}")


def _contexts(contexts: np.ndarray | None, n: int, c: int) -> np.ndarray | None:
    if contexts is None:
        return None
    if not 1 <= c <= 4096:
        raise InputError(f"there can be 1 to 4096 contexts, not {c}")
    contexts = _ids(contexts, c)
    if contexts.size != n:
        raise InputError(f"{n} ids need as many contexts, got {contexts.size}")
    return contexts.astype(np.uint16)


def encode_mixed(ids: np.ndarray, k: int, width: int = 0) -> np.ndarray:
    """Code ids by an adaptive mixture of contexts: orders 0, 1, 2 and, in rows of ``width``, the id above and the column.

    ids: integers in [0, k), k ≤ 65,536. Strong, also on small streams; a hundredth of the speed of `encode_static`.
    Returns uint8 (bytes,). Mixing after Mattern 2013, integers only. Raises `InputError`.

    >>> ids = np.tile(np.arange(16), 40)
    >>> data = encode_mixed(ids, 16, width=16)
    >>> data.size < 60, bool((decode_mixed(data, 640, 16, width=16) == ids).all())
    (True, True)
    """
    return _native.rans_encode_mixed(_ids(ids, k), k, width)


def decode_mixed(data, n: int, k: int, width: int = 0) -> np.ndarray:
    """The n ids of `encode_mixed`: uint8 if k ≤ 256, else uint16. Raises `CorruptError`."""
    decode = _native.rans_decode_mixed8 if k <= 256 else _native.rans_decode_mixed16
    return _or_corrupt(decode(_bytes(data), n, k, width), f"a stream of {n} ids below {k}")


FAMILIES = ("gaussian", "laplace", "logistic")
SCALES = 2.0 ** ((np.arange(64) - 20) / 6)  # 0.099 .. 143.7, six to an octave


def scale_index(scale: np.ndarray) -> np.ndarray:
    """The nearest of the 64 `SCALES` as uint8 indices. For encoders only: decoders must get indices, not floats.

    >>> scale_index(np.array([0.01, 1.0, 16.0, 1e9]))
    array([ 0, 20, 44, 63], dtype=uint8)
    """
    middle = np.sqrt(SCALES[1:] * SCALES[:-1])
    return np.searchsorted(middle, scale).astype(np.uint8)


def _models(mean: np.ndarray, scale: np.ndarray, family: str) -> tuple[np.ndarray, np.ndarray, int]:
    if family not in FAMILIES:
        raise InputError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    mean, scale = (np.asarray(a).reshape(-1) for a in (mean, scale))
    if mean.dtype.kind not in "ui" or scale.dtype.kind not in "ui" or mean.size != scale.size:
        raise InputError("mean (in 1/16) and scale (index) must be integer arrays of one size")
    if scale.size and not (0 <= int(scale.min()) and int(scale.max()) < SCALES.size):
        raise InputError(f"scale indices must be in [0, {SCALES.size})")
    return _int32(mean, "mean"), np.ascontiguousarray(scale, np.uint8), FAMILIES.index(family)


def _int32(x: np.ndarray, what: str) -> np.ndarray:
    if x.dtype != np.int32 and x.size and not (-(1 << 31) <= int(x.min()) and int(x.max()) < 1 << 31):
        raise InputError(f"{what} does not fit in int32")
    return np.ascontiguousarray(x, np.int32)


def encode_parametric(x: np.ndarray, mean: np.ndarray, scale: np.ndarray, family: str = "gaussian") -> np.ndarray:
    """Code integers, each under a distribution of its own, integrated over [x - 1/2, x + 1/2].

    x: int32, any values (far ones cost more). mean: int32 in units of 1/16. scale: index into `SCALES` (the standard deviation,
    b, or s of the gaussian, laplace, logistic). Returns uint8 (bytes,). Raises `InputError`.

    >>> x, mean, scale = np.array([3, -70000, 5]), np.array([50, 0, 64]), np.array([20, 30, 8])
    >>> decode_parametric(encode_parametric(x, mean, scale), mean, scale)
    array([     3, -70000,      5], dtype=int32)
    """
    mean, scale, which = _models(mean, scale, family)
    x = np.asarray(x).reshape(-1)
    if x.dtype.kind not in "ui" or x.size != mean.size:
        raise InputError(f"x must be {mean.size} integers, one for each mean, got {x.dtype}{list(x.shape)}")
    return _native.rans_encode_parametric(_int32(x, "x"), mean, scale, which)


def decode_parametric(data, mean: np.ndarray, scale: np.ndarray, family: str = "gaussian") -> np.ndarray:
    """The int32 values of `encode_parametric`, given the same models. Raises `CorruptError`."""
    mean, scale, which = _models(mean, scale, family)
    return _or_corrupt(_native.rans_decode_parametric(_bytes(data), mean, scale, which), f"a stream of {mean.size} values of these models")
