"""GGUF (versions 2 and 3): own bounded parser. Tensors come as float32, or as they are for lossless packing.

Every count is held against the bytes that are left before any loop, every size is computed without overflow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..errors import FormatError, UnsupportedError
from ..limits import DEFAULT, Limits
from .gguf_types import TYPES, BlockType, dequantize
from .source import Item, Mapped, Source, check_array, product

MAGIC = b"GGUF"
_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8", 12: "<f8"}
_STRING, _ARRAY = 8, 9
_MAX_HEADER = 1 << 28
_MAX_STRING = 1 << 26


class Tensor(NamedTuple):
    """A tensor's line: its shape (slowest axis first), type, and where its bytes are in the data part."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    nbytes: int

    @property
    def type(self) -> BlockType:
        """The block format."""
        return TYPES[self.kind]


class _Reader:
    """Little-endian values from bounded bytes."""

    def __init__(self, file: Mapped):
        self.file, self.at = file, 0

    @property
    def left(self) -> int:
        return min(self.file.size, _MAX_HEADER) - self.at

    def take(self, n: int) -> bytes:
        if n > self.left:
            raise FormatError(f"header is cut short: {n:,} bytes needed at {self.at:,}, {self.left:,} left")
        self.at += n
        return self.file.bytes(self.at - n, n)

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def count(self, least: int, what: str) -> int:
        """A count of things of at least so many bytes each."""
        n = self.u64()
        if n * least > self.left:
            raise FormatError(f"{n:,} {what} cannot be in the {self.left:,} bytes that are left")
        return n

    def string(self) -> str:
        n = self.u64()
        if n > min(self.left, _MAX_STRING):
            raise FormatError(f"a string of {n:,} bytes, {self.left:,} are left")
        try:
            return self.take(n).decode()
        except UnicodeDecodeError:
            raise FormatError("a string is not UTF-8") from None

    def value(self, kind: int, depth: int = 0):
        if kind in _SCALARS:
            return np.frombuffer(self.take(int(_SCALARS[kind][2])), _SCALARS[kind])[0].item()
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY or depth >= 4:
            raise FormatError(f"metadata of unknown type {kind}" if kind != _ARRAY else "arrays nested too deep")
        inner = self.u32()
        if inner in _SCALARS:
            width = int(_SCALARS[inner][2])
            return np.frombuffer(self.take(self.count(width, "array values") * width), _SCALARS[inner])
        return [self.value(inner, depth + 1) for _ in range(self.count(8 if inner == _STRING else 12, "array values"))]


def _read_tensor(r: _Reader, limits: Limits) -> Tensor:
    name = r.string()
    what = f"tensor {name[:80]!r}"
    axes = r.u32()
    if not 1 <= axes <= 4:
        raise FormatError(f"{what}: {axes} axes, 1 to 4 are allowed")
    shape = tuple(r.u64() for _ in range(axes))[::-1]
    kind, start = r.u32(), r.u64()
    t = TYPES.get(kind)
    if t is None:
        raise UnsupportedError(f"{what}: type {kind} is not known; known are {', '.join(t.name for t in TYPES.values())}")
    if shape[-1] % t.values:
        raise FormatError(f"{what}: rows of {shape[-1]:,} values are no whole blocks of {t.values} ({t.name})")
    check_array(shape, t.read if isinstance(t.read, str) else "float32", what, limits)
    return Tensor(name, shape, kind, start, product(shape) // t.values * t.nbytes)


class Gguf(Source):
    """An opened GGUF file.

    Quantized tensors are float32 (dequantized block by block); with ``exact`` they are uint8 (rows, bytes of a row), and the
    file can be restored bit by bit.
    """

    format = "gguf"

    def __init__(self, path, *, exact: bool = False, limits: Limits = DEFAULT):
        super().__init__(path)
        self.exact = exact
        self.file = Mapped(path)
        try:
            self._parse(limits)
        except FormatError as e:
            raise FormatError(f"{path}: {e}") from None
        kinds = sorted({t.type.name for t in self.tensors})
        self.meta |= {"types": kinds, "architecture": str(self.metadata.get("general.architecture", ""))[:200]}
        if exact:
            self._keep_container()

    def _parse(self, limits: Limits) -> None:
        r = _Reader(self.file)
        if r.take(4) != MAGIC:
            raise FormatError("not a GGUF file")
        version = r.u32()
        if version not in (2, 3):
            raise UnsupportedError(f"{self.path}: GGUF version {version:#x}; versions 2 and 3 (little-endian) are read")
        n_tensors = r.count(32, "tensors")
        self.metadata: dict[str, object] = {}
        for _ in range(r.count(13, "metadata values")):
            key = r.string()
            if key in self.metadata:
                raise FormatError(f"metadata {key[:80]!r} stands twice")
            self.metadata[key] = r.value(r.u32())
        limits.check("entries", n_tensors, "tensors")
        self.tensors = [_read_tensor(r, limits) for _ in range(n_tensors)]
        if len({t.name for t in self.tensors}) != n_tensors:
            raise FormatError("two tensors have one name")
        align = self.metadata.get("general.alignment", 32)
        if type(align) is not int or not 1 <= align <= 1 << 20 or align & (align - 1):
            raise FormatError(f"alignment {str(align)[:40]} is not a power of two up to 2^20")
        self.data_start = min(-(-r.at // align) * align, self.file.size) if not n_tensors else -(-r.at // align) * align
        at = 0
        for t in sorted(self.tensors, key=lambda t: (t.start, t.nbytes)):
            if t.start < at or t.start % align:
                raise FormatError(f"tensor {t.name[:80]!r} at {t.start:,} overlaps the one before or is not aligned to {align}")
            at = t.start + t.nbytes
        if self.data_start + at > self.file.size:
            raise FormatError(f"tensors end at byte {self.data_start + at:,}, the file has {self.file.size:,}")

    def _keep_container(self) -> None:
        """Header and the bytes between tensors, so that the file can be restored."""
        ordered = sorted(self.tensors, key=lambda t: (t.start, t.nbytes))
        gaps, at = [self.file.bytes(0, self.data_start)], 0
        layout = []
        for t in ordered:
            gaps.append(self.file.bytes(self.data_start + at, t.start - at))
            layout.append(t.start - at)
            at = t.start + t.nbytes
        gaps.append(self.file.bytes(self.data_start + at, self.file.size - self.data_start - at))
        self.files["gguf:container"] = b"".join(gaps)
        self.meta |= {"header": self.data_start, "gaps": layout, "order": [t.name for t in ordered]}

    def items(self):
        for t in self.tensors:
            plain = isinstance(t.type.read, str)
            if plain or not self.exact:
                dtype = t.type.read if plain else "float32"
                yield Item(t.name, t.shape, dtype, lambda rows=None, t=t: self._load(t, rows))
            else:
                shape = (product(t.shape[:-1]), t.shape[-1] // t.type.values * t.type.nbytes)
                yield Item(t.name, shape, "uint8", lambda rows=None, t=t, shape=shape:
                           self.file.array(self.data_start + t.start, "uint8", shape)[rows or slice(None)])

    def _load(self, t: Tensor, rows: slice | None) -> np.ndarray:
        at = self.data_start + t.start
        if isinstance(t.type.read, str):
            x = self.file.array(at, t.type.read, t.shape)
            return x if rows is None else x[rows]
        if len(t.shape) == 1:  # its first axis cuts blocks
            return self._blocks(t, at, t.nbytes).reshape(t.shape)[rows or slice(None)]
        start, stop, step = (rows or slice(None)).indices(t.shape[0])
        n, row = max(stop - start, 0), t.nbytes // max(t.shape[0], 1)
        return self._blocks(t, at + start * row if n else at, n * row).reshape(n, *t.shape[1:])[::step]

    def _blocks(self, t: Tensor, at: int, nbytes: int) -> np.ndarray:
        """So many bytes of a tensor, dequantized piece by piece."""
        blocks = self.file.array(at, "uint8", (nbytes // t.type.nbytes, t.type.nbytes))
        out = np.empty((len(blocks), t.type.values), np.float32)
        many = max(1, (1 << 18) // t.type.values)
        for i in range(0, len(blocks), many):
            out[i:i + many] = dequantize(t.kind, blocks[i:i + many])
        return out


def write_exact(out, container: bytes, meta: dict, array) -> None:
    """Restore a GGUF file to an open file from its container bytes and array(name) for each tensor."""
    header, gaps, order = meta.get("header"), meta.get("gaps"), meta.get("order")
    sizes = [header, *(gaps if isinstance(gaps, list) else [None])]
    if any(type(v) is not int or v < 0 for v in sizes) or not isinstance(order, list) or len(order) != len(gaps) \
            or sum(sizes) > len(container):
        raise FormatError("the GGUF container kept in this file is damaged")
    out.write(container[:header])
    at = header
    for name, gap in zip(order, gaps, strict=True):
        out.write(container[at:at + gap])
        at += gap
        out.write(np.ascontiguousarray(array(name)).reshape(-1).view(np.uint8).data)
    out.write(container[at:])

