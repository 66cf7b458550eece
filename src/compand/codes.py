"""Codes: packed symbols and side information, in blocks of rows. The currency between storage and compute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .dtypes import dtype as dtype_of
from .entropy import coder_of
from .errors import CorruptError
from .limits import DEFAULT, Limits
from .stage import Form, Part
from .symbols import below, id_dtype, pack, row_bytes, unpack

if TYPE_CHECKING:
    from .codec import Codec


@dataclass(frozen=True)
class Block:
    """The codes of some rows: one array a part, symbols as uint8 bytes."""

    rows: int
    parts: dict[str, np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(a.nbytes for a in self.parts.values())


@dataclass(frozen=True)
class Codes:
    """An encoded array: its codec, the source's shape and dtype, and blocks of rows.

    ``form`` is what each row looks like to the stages: the array as n rows of d values.
    """

    codec: Codec
    shape: tuple[int, ...]
    dtype: str
    blocks: tuple[Block, ...]

    @property
    def form(self) -> Form:
        """The array as rows: (n, d, dtype that flows into the first stage)."""
        return self.codec.form(self.shape, self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of symbols and side information; the codec's fitted state is not in it (see `Codec.nbytes`)."""
        return sum(b.nbytes for b in self.blocks)

    @property
    def size(self) -> int:
        """Number of values of the source."""
        return prod(self.shape)

    def part(self, path: str) -> np.ndarray:
        """One part over all rows, as stored: packed symbols (n, row_bytes) or side information.

        No copy for one block, nor for blocks that lie one after the other in one buffer, as in the map of a file.
        """
        arrays = [b.parts[path] for b in self.blocks]
        return arrays[0] if len(arrays) == 1 else _adjacent(arrays)

    def symbols(self, path: str) -> np.ndarray:
        """The symbols of one part, unpacked: (n, m) uint8, uint16 or uint32."""
        layout = [self.codec.layout(self.form._replace(n=b.rows))[path] for b in self.blocks]
        return np.concatenate([unpack_part(b.parts[path], p) for b, p in zip(self.blocks, layout, strict=True)])

    def rows(self, start: int, stop: int) -> Codes:
        """The blocks that cover rows start to stop; `Codec.decode` takes the exact range itself."""
        at, kept = 0, []
        for b in self.blocks:
            if at < stop and at + b.rows > start:
                kept.append(b)
            at += b.rows
        n = sum(b.rows for b in kept)
        return replace(self, blocks=tuple(kept), shape=(n, *self.shape[1:]))

    def to_bytes(self) -> bytes:
        """The bytes of a .cpd file that holds just this array."""
        from .file import dumps

        return dumps(self)

    @property
    def bits(self) -> float:
        """Bits per value of the source, every byte of the file counted: codes, side information, fitted state, headers."""
        return 8 * len(self.to_bytes()) / max(self.size, 1)

    def __repr__(self) -> str:
        return f"<Codes {self.codec.spec} of {self.dtype}{list(self.shape)}: {self.nbytes:,} bytes>"


def _adjacent(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays joined along the first axis: as a view where they follow each other in one flat uint8 buffer, else as a copy."""
    first, base = arrays[0], arrays[0].base
    ends = [a.ctypes.data + a.nbytes for a in arrays]
    flat = isinstance(base, np.ndarray) and base.dtype == np.uint8 and base.ndim == 1 and base.flags.c_contiguous
    alike = all(a.base is base and a.flags.c_contiguous and a.dtype == first.dtype and a.shape[1:] == first.shape[1:]
                for a in arrays)
    if not flat or not alike or any(a.ctypes.data != end for a, end in zip(arrays[1:], ends, strict=False)):
        return np.concatenate(arrays)
    start = first.ctypes.data - base.ctypes.data
    return base[start:ends[-1] - base.ctypes.data].view(first.dtype).reshape(sum(a.shape[0] for a in arrays), *first.shape[1:])


def pack_part(value: Any, part: Part) -> np.ndarray:
    """What a quantizer gave for a part → what is stored."""
    if part.k is None:
        return np.ascontiguousarray(value, dtype_of(part.dtype))  # type: ignore[arg-type]
    ids = np.ascontiguousarray(value).reshape(part.shape[0], prod(part.shape[1:]))
    if not part.coder:
        return pack(ids, part.k)
    if not below(ids, part.k):
        raise ValueError(f"symbols must be in [0, {part.k})")
    return coder_of(part.coder).encode(ids.astype(id_dtype(part.k), copy=False), part.k)


def unpack_part(stored: np.ndarray, part: Part) -> np.ndarray:
    """What is stored → what a quantizer decodes. Raises `CorruptError` if it cannot be this part."""
    if part.k is None:
        return stored
    m = prod(part.shape[1:])
    if not part.coder:
        return unpack(stored, m, part.k).reshape(part.shape)
    ids = coder_of(part.coder).decode(stored, (part.shape[0], m), part.k)
    if not below(ids, part.k):
        raise CorruptError(f"symbol {int(ids.max())} is not below the alphabet size {part.k}")
    return ids.reshape(part.shape)


def stored_form(part: Part) -> tuple[str, tuple[int, ...]]:
    """dtype and shape of a part as stored; (-1,) where the length depends on the data."""
    if part.k is None:
        return part.dtype or "uint8", part.shape
    if part.coder:
        return "uint8", (-1,)
    return "uint8", (part.shape[0], row_bytes(prod(part.shape[1:]), part.k))


def stored_array(data: np.ndarray, part: Part, limits: Limits = DEFAULT) -> np.ndarray:
    """Bytes from outside (uint8, 1-D) as the stored array of a part. Raises `CorruptError` if the length is not right."""
    name, shape = stored_form(part)
    dtype = dtype_of(name)
    if shape == (-1,):
        shape = (data.size // dtype.itemsize,)
    need = dtype.itemsize
    for v in shape:
        need *= v
    limits.check("allocation", need, "array")
    if need != data.size:
        raise CorruptError(f"{name}{list(shape)} needs {need:,} bytes, there are {data.size:,}")
    if name == "bool" and data.size and int(data.max()) > 1:
        raise CorruptError(f"a byte of {int(data.max())} is no bool")  # NumPy trusts bools to be 0 or 1 when it counts them
    return data.view(dtype).reshape(shape)
