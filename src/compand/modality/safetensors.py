""".safetensors: a JSON header and tensors one after another. Own bounded parser; the file is restored bit by bit.

Source: the safetensors format (Hugging Face, 2022): 8-byte header length, header of at most 100 MB, tensors without holes
or overlap. Duplicate names are refused too, so that two readers cannot see different tensors.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np

from ..array import dtype_name
from ..errors import CompandError, FormatError
from .source import Item, Mapped, Source, product

MAX_HEADER = 100_000_000
DTYPES = {  # name in the header → (bits, name of compand's dtype; None: opaque bytes)
    "BOOL": (8, "bool"), "U8": (8, "uint8"), "I8": (8, "int8"), "U16": (16, "uint16"), "I16": (16, "int16"),
    "U32": (32, "uint32"), "I32": (32, "int32"), "U64": (64, "uint64"), "I64": (64, "int64"), "F16": (16, "float16"),
    "BF16": (16, "bfloat16"), "F32": (32, "float32"), "F64": (64, "float64"), "C64": (64, "complex64"),
    "F8_E4M3": (8, "float8_e4m3fn"), "F8_E5M2": (8, "float8_e5m2"), "F8_E8M0": (8, "float8_e8m0fnu"),
    "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"), "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"),
    "F4": (4, None), "F6_E2M3": (6, None), "F6_E3M2": (6, None),
}
_CODES = {name: code for code, (_, name) in DTYPES.items() if name}


class Tensor(NamedTuple):
    """A tensor's line in the header: shape and dtype as compand sees them, and where its bytes are in the data part."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    stop: int


def _pairs(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FormatError("a name stands twice in the header")
    return found


def parse_header(text: bytes, data_bytes: int | None = None) -> list[Tensor]:
    """The header's JSON → tensors in the order of their bytes. ``data_bytes`` is what they must cover exactly.

    Raises `FormatError` for anything the format forbids.
    """
    try:
        header = json.loads(text, object_pairs_hook=_pairs, parse_constant=lambda c: c)
    except (ValueError, RecursionError) as e:
        if isinstance(e, CompandError):
            raise
        raise FormatError(f"header is not JSON: {e}") from None
    if not isinstance(header, dict):
        raise FormatError("header is not a JSON object")
    tensors = []
    for name, info in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
            raise FormatError(f"tensor {name[:80]!r}: needs dtype, shape and data_offsets")
        code, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
        if not isinstance(code, str) or code not in DTYPES:
            raise FormatError(f"tensor {name[:80]!r}: dtype {str(code)[:20]!r} is not one of {', '.join(DTYPES)}")
        for numbers in (shape, offsets):
            if not isinstance(numbers, list) or len(numbers) > 32 \
                    or any(type(v) is not int or not 0 <= v < 1 << 63 for v in numbers):
                raise FormatError(f"tensor {name[:80]!r}: {str(numbers)[:60]} is not a list of sizes")
        if len(offsets) != 2:
            raise FormatError(f"tensor {name[:80]!r}: data_offsets must be [start, stop]")
        bits, dtype = DTYPES[code]
        need = product(tuple(shape)) * bits
        if need % 8 or need // 8 != offsets[1] - offsets[0]:
            raise FormatError(f"tensor {name[:80]!r}: {code}{shape} has {need:,} bits, "
                              f"data_offsets say {offsets[1] - offsets[0]:,} bytes")
        tensors.append(Tensor(name, tuple(shape) if dtype else (need // 8,), dtype or "uint8", *offsets))
    tensors.sort(key=lambda t: (t.start, t.stop))
    at = 0
    for t in tensors:
        if t.start != at:
            raise FormatError(f"tensor {t.name[:80]!r} starts at {t.start:,}, the one before ends at {at:,}")
        at = t.stop
    if data_bytes is not None and at != data_bytes:
        raise FormatError(f"tensors cover {at:,} bytes, the file has {data_bytes:,}")
    return tensors


class Shard:
    """One .safetensors file, mapped."""

    def __init__(self, path):
        self.file = Mapped(path)
        length = int.from_bytes(self.file.bytes(0, 8), "little")
        if length > MAX_HEADER or 8 + length > self.file.size:
            raise FormatError(f"{path}: a safetensors header of {length:,} bytes in a file of {self.file.size:,}")
        self.header = self.file.bytes(8, length)
        self.start = 8 + length
        try:
            self.tensors = parse_header(self.header, self.file.size - self.start)
        except FormatError as e:
            raise FormatError(f"{path}: {e}") from None

    def load(self, t: Tensor, rows: slice | None = None) -> np.ndarray:
        """A tensor, or some rows of it, as a view of the file."""
        x = self.file.array(self.start + t.start, t.dtype, t.shape)
        return x if rows is None else x[rows]


def entry_names(shards: list[tuple[str, list[Tensor]]]) -> list[list[str]]:
    """The stored name of each tensor of each shard: its own, or 'shard:name' where an earlier shard has that name."""
    taken: set[str] = set()
    names = []
    for shard, tensors in shards:
        names.append([t.name if t.name not in taken else f"{shard}:{t.name}" for t in tensors])
        taken.update(names[-1])
    return names


class Safetensors(Source):
    """An opened .safetensors file, or several that belong together (see `hf.Folder`)."""

    format = "safetensors"

    def __init__(self, path, shards: dict[str, object] | None = None):
        super().__init__(path)
        self.shards = {name: Shard(p) for name, p in (shards or {self.path.name: path}).items()}
        self.meta["shards"] = list(self.shards)
        self.files |= {f"{name}:header": s.header for name, s in self.shards.items()}

    def items(self):
        names = entry_names([(name, s.tensors) for name, s in self.shards.items()])
        for shard, stored in zip(self.shards.values(), names, strict=True):
            for t, name in zip(shard.tensors, stored, strict=True):
                if t.dtype == "bool" and shard.load(t).view(np.uint8).max(initial=0) > 1:
                    t = t._replace(dtype="uint8")  # bytes that are no truth values, kept as they are
                yield Item(name, t.shape, t.dtype, lambda rows=None, shard=shard, t=t: shard.load(t, rows))


def write_shard(out, header: bytes, stored: list[str], tensors: list[Tensor], array) -> None:
    """Write one .safetensors to an open file: the header as it was, and array(name), or its pieces one by one, for each tensor."""
    out.write(len(header).to_bytes(8, "little") + header)
    for t, name in zip(tensors, stored, strict=True):
        found, done = array(name), 0
        for x in (found,) if hasattr(found, "dtype") else found:
            if (own := dtype_name(x)) != t.dtype and (t.dtype, own) != ("bool", "uint8"):
                raise FormatError(f"{name}: {own}{list(x.shape)} where the header has {t.dtype}{list(t.shape)}")
            done += x.nbytes
            if done <= t.stop - t.start:
                out.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
        if done != t.stop - t.start:
            raise FormatError(f"{name}: {done:,} bytes where the header has {t.dtype}{list(t.shape)}")


def new_header(arrays: list[tuple[str, tuple[int, ...], str]], metadata: dict[str, str] | None = None) -> bytes:
    """The header of (name, shape, dtype name) one after another. Raises `FormatError` for a dtype that safetensors has not."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, shape, dtype in arrays:
        if dtype not in _CODES:
            raise FormatError(f"{name}: safetensors has no dtype {dtype}")
        stop = at + product(shape) * DTYPES[_CODES[dtype]][0] // 8
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


def write_new(out, arrays: list[tuple[str, tuple[int, ...], str, object]], metadata: dict[str, str] | None = None) -> None:
    """Write (name, shape, dtype name, load) as a new .safetensors, for arrays that came from elsewhere; load() gives one, or its pieces."""
    text = new_header([array[:3] for array in arrays], metadata)
    out.write(len(text).to_bytes(8, "little") + text)
    for _, _, _, load in arrays:
        found = load()
        for x in (found,) if hasattr(found, "dtype") else found:
            out.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
