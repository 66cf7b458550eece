"""A new GGUF file (version 3) of metadata and tensors in any type that can be written."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..dtypes import dtype as dtype_of
from ..errors import InputError
from .gguf_grid import quantize
from .gguf_types import TYPES
from .output import whole_file
from .source import product

_ALIGN = 32
_NUMBERS = {"|u1": 0, "|i1": 1, "<u2": 2, "<i2": 3, "<u4": 4, "<i4": 5, "<f4": 6, "|b1": 7, "<u8": 10, "<i8": 11, "<f8": 12}
_KINDS = {t.name: kind for kind, t in TYPES.items()}


def write_gguf(path, tensors: Mapping[str, tuple[str, np.ndarray]], metadata: Mapping[str, Any] | None = None, *,
               overwrite: bool = False) -> None:
    """Write name → (type, array), as ``{"blk.0.ffn_up.weight": ("Q4_K", w)}``, and metadata.

    Metadata is str, bool, int, float, lists of one of these, and arrays, which keep their dtype.

    Types are plain (F32, F16, BF16, ...) or those of `compand.modality.gguf_grid.GRIDS`. A uint8 array whose rows are as long as the type's
    blocks is taken as blocks that are ready. Raises `InputError` for what GGUF cannot hold.
    """
    todo = []
    for name, (kind, given) in tensors.items():
        x = np.asarray(given)
        todo.append((name, kind, _shape(name, kind, x), lambda x=x: x))
    write_stream(path, todo, metadata, overwrite=overwrite)


def write_stream(path, tensors: Sequence[tuple[str, str, tuple[int, ...], Callable[[], np.ndarray]]],
                 metadata: Mapping[str, Any] | None = None, *, overwrite: bool = False) -> None:
    """As `write_gguf`, for (name, type, shape in values, load): each tensor is loaded, coded and written before the next.

    ``load`` gives values of that shape, or uint8 bytes that are ready.
    """
    entries, sizes, at = [], [], 0
    for name, kind, shape, _ in tensors:
        sizes.append(_size(name, kind, shape))
        entries.append(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], _KINDS[kind], at))
        at += -(-sizes[-1] // _ALIGN) * _ALIGN
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(metadata or {}))
    head += b"".join(_text(key) + _value(key, value) for key, value in (metadata or {}).items()) + b"".join(entries)
    with whole_file(path, overwrite=overwrite) as f:
        f.write(head + bytes(-len(head) % _ALIGN))
        for (name, kind, shape, load), size in zip(tensors, sizes, strict=True):
            raw = _bytes(kind, x := np.asarray(load()))
            if raw.nbytes != size:
                raise InputError(f"{name}: {x.dtype.name}{list(x.shape)} where {list(shape)} was said to come")
            f.write(raw.data)
            f.write(bytes(-raw.nbytes % _ALIGN))


def _size(name: str, kind: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of this type and shape."""
    if kind not in _KINDS:
        raise InputError(f"{name}: no GGUF type {kind}; there are {', '.join(_KINDS)}")
    if not 1 <= len(shape) <= 4:
        raise InputError(f"{name}: {len(shape)} axes, GGUF has 1 to 4")
    t = TYPES[_KINDS[kind]]
    if shape[-1] % t.values:
        raise InputError(f"{name}: rows of {shape[-1]:,} values are no whole blocks of {t.values} ({kind})")
    return product(shape) // t.values * t.nbytes


def _shape(name: str, kind: str, x: np.ndarray) -> tuple[int, ...]:
    """The shape in values of an array of values or of bytes that are ready."""
    t = TYPES[_KINDS[kind]] if kind in _KINDS else None
    if t is None or x.dtype != np.uint8 or isinstance(t.read, str) or not x.ndim:
        return x.shape
    if x.shape[-1] % t.nbytes:
        raise InputError(f"{name}: rows of {x.shape[-1]:,} bytes are no whole blocks of {t.nbytes} ({kind})")
    return (*x.shape[:-1], x.shape[-1] // t.nbytes * t.values)


def _bytes(kind: str, x: np.ndarray) -> np.ndarray:
    """The bytes of an array of values, or those that are ready: uint8 (n,)."""
    t = TYPES[_KINDS[kind]]
    if isinstance(t.read, str):
        x = x.astype(dtype_of(t.read))
    elif x.dtype != np.uint8:
        x = quantize(kind, x)
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


def _text(s: str) -> bytes:
    return struct.pack("<Q", len(s.encode())) + s.encode()


def _value(key: str, v: Any) -> bytes:
    """Type and bytes of a metadata value."""
    if isinstance(v, np.ndarray):
        if v.ndim != 1 or v.dtype.str not in _NUMBERS:
            raise InputError(f"metadata {key}: an array of {v.dtype.name}{list(v.shape)} cannot be stored")
        return struct.pack("<IIQ", 9, _NUMBERS[v.dtype.str], v.size) + v.tobytes()
    if isinstance(v, (list, tuple)):
        parts = [_value(key, item) for item in v]
        if len({p[:4] for p in parts}) > 1:
            raise InputError(f"metadata {key}: a list of values of several kinds")
        return struct.pack("<I", 9) + (parts[0][:4] if parts else struct.pack("<I", 4)) + struct.pack("<Q", len(parts)) \
            + b"".join(p[4:] for p in parts)
    if isinstance(v, str):
        return struct.pack("<I", 8) + _text(v)
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int) and -1 << 63 <= v < 1 << 63:
        return struct.pack("<II", 4, v) if 0 <= v < 1 << 32 else struct.pack("<Iq", 11, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    raise InputError(f"metadata {key}: {type(v).__name__} values cannot be stored")
