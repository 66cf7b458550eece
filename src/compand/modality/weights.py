"""Weights of a model: what gets quantized, and tensors stored as their difference to a base model's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import xxhash

from ..dtypes import dtype as dtype_of
from ..dtypes import is_float
from ..errors import CorruptError, InputError
from .source import Item, Source

LEAST_QUANTIZED = 1024  # values; smaller tensors (norms, biases) matter more than their bytes
_SAMPLE = 1 << 18


def quantizable(item: Item, modality: str = "weights") -> bool:
    """Whether a lossy spec applies to this array: float matrices; of weights, those of at least 1,024 values.

    Of splats and pictures: the array of that name.

    >>> quantizable(Item("mlp", (64, 64), "bfloat16", None)), quantizable(Item("norm", (64,), "float32", None))
    (True, False)
    """
    if modality in ("splats", "image"):
        return item.name == modality
    return is_float(item.dtype) and len(item.shape) >= 2 and item.size >= (LEAST_QUANTIZED if modality == "weights" else 1)


def digest(x: np.ndarray) -> str:
    """XXH3-128 of an array's bytes, as hex: for finding equal tensors, not for security."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


# -- differences -------------------------------------------------------------------------------------------------------
def _ordered(x: np.ndarray, name: str) -> np.ndarray:
    """The bits of x as unsigned integers, floats so that neighbours in value are neighbours as integers."""
    bits = np.ascontiguousarray(x).view(np.dtype(f"u{x.dtype.itemsize}"))
    if not is_float(name):
        return bits
    top = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    return np.where(bits & top, ~bits, bits | top)


def difference(x: np.ndarray, base: np.ndarray) -> np.ndarray:
    """x against base (same shape and dtype) as unsigned integers, small where the values are near. Any bits, exactly.

    >>> difference(np.float32([1, 2]), np.float32([1, 2]))
    array([0, 0], dtype=uint32)
    """
    d = _ordered(x, x.dtype.name) - _ordered(base, base.dtype.name)  # wraps
    sign = (d.view(np.dtype(f"i{d.dtype.itemsize}")) >> (8 * d.dtype.itemsize - 1)).view(d.dtype)
    return (d << 1) ^ sign


def restore(d: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The x of which ``difference(x, base)`` gave d.

    >>> x, base = np.float32([-0.0, np.nan]), np.float32([1, 2])
    >>> restore(difference(x, base), base).tobytes() == x.tobytes()
    True
    """
    one = d.dtype.type(1)
    bits = ((d >> one) ^ (~(d & one) + one)) + _ordered(base, base.dtype.name)
    if is_float(base.dtype.name):
        top = d.dtype.type(1 << (8 * d.dtype.itemsize - 1))
        bits = np.where(bits & top, bits ^ top, ~bits)
    return bits.view(base.dtype)


def _plane_bits(x: np.ndarray) -> float:
    """Order-0 entropy of the byte planes of a sample, in bits a value."""
    flat = np.ascontiguousarray(x).reshape(-1)
    flat = flat[:: max(1, flat.size // _SAMPLE)]
    planes = np.ascontiguousarray(flat).view(np.uint8).reshape(-1, flat.dtype.itemsize)
    total = 0.0
    for plane in planes.T:
        p = np.bincount(plane, minlength=256) / max(len(plane), 1)
        total -= float((p[p > 0] * np.log2(p[p > 0])).sum())
    return total


class Base:
    """A base model (a path, or an open `Source`) whose tensors others are stored against."""

    def __init__(self, source: Source):
        self.source = source
        self.items = {item.name: item for item in source.items()}

    def identity(self) -> dict[str, str]:
        """Its name and the SHA-256 of its file (of a folder: of the list of its shards' SHA-256)."""
        paths = [s.file.path for s in self.source.shards.values()] if hasattr(self.source, "shards") else [self.source.path]
        sums = []
        for path in paths:
            with open(path, "rb") as f:
                sums.append(hashlib.file_digest(f, "sha256").hexdigest())
        sha = sums[0] if len(sums) == 1 else hashlib.sha256("\n".join(sums).encode()).hexdigest()
        return {"name": Path(self.source.path).name, "sha256": sha}

    def find(self, item: Item) -> np.ndarray | None:
        """The base's tensor of this name, shape and dtype."""
        own = self.items.get(item.name)
        if own is None or own[1:3] != item[1:3] or not item.size or item.dtype == "complex64":
            return None
        return own.load()

    def against(self, item: Item, x: np.ndarray) -> tuple[np.ndarray, dict] | None:
        """x's difference to the base's tensor and the attribute that says so; None if that would not be smaller."""
        base = self.find(item)
        if base is None:
            return None
        d = difference(x, base)
        if _plane_bits(d) > 0.97 * _plane_bits(x):
            return None
        return d, {"name": item.name, "dtype": item.dtype, "xxh3_128": digest(base)}

    def change(self, item: Item, x: np.ndarray) -> tuple[np.ndarray, dict] | None:
        """x minus the base's tensor of floats, as float32, and the attribute that says so; None if there is none."""
        base = self.find(item) if is_float(item.dtype) else None
        if base is None:
            return None
        d = x.astype(np.float32) - base.astype(np.float32)
        return d, {"name": item.name, "dtype": item.dtype, "xxh3_128": digest(base)}


def from_base(d: np.ndarray, attr: dict, base: Base | None, needed: dict) -> np.ndarray:
    """The tensor whose difference to the base is d: integers of `difference`, or float32 to be added.

    Raises `InputError`, naming the base, if it is not the right one.
    """
    which = f"{needed.get('name', '?')!r} (SHA-256 {needed.get('sha256', '?')})"
    if base is None:
        raise InputError(f"this file holds differences to the base model {which}; give it: base=PATH, on the command line --base PATH")
    name, dtype = attr.get("name"), attr.get("dtype")
    own = base.items.get(name) if isinstance(name, str) else None
    if own is None or own.dtype != dtype or own.shape != d.shape or digest(x := own.load()) != attr.get("xxh3_128"):
        raise InputError(f"{name!r} of {base.source.path} is not the tensor this file was made against; the base is {which}")
    if d.dtype == np.float32 and is_float(own.dtype):
        return (x.astype(np.float32) + d).astype(x.dtype)
    if d.dtype != np.dtype(f"u{dtype_of(own.dtype).itemsize}"):
        raise CorruptError(f"{name!r}: a difference of {d.dtype.name} cannot give {own.dtype}")
    return restore(d, np.ascontiguousarray(x))
