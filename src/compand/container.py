"""The bytes of a .cpd file: magic, chunks, index, trailer (FORMAT.md §2-4). What chunks mean is `compand.file`'s matter."""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from typing import Any, BinaryIO

import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

from . import _native
from . import index as js
from .errors import CorruptError, FormatError, UnsupportedError
from .limits import Limits

MAGIC = b"\x89CPD\r\n\x1a\n"
ALIGN = 64            # header, index, and chunks of LARGE bytes or more start at multiples of this
LARGE = 4096
SMALL_ALIGN = 8       # smaller chunks start at multiples of this
PREFETCH = 256 << 10  # bytes of a chunk worth asking the system for
TRAILER = struct.Struct("<QQHH4sQ")  # index offset, index bytes, major, minor, END, XXH3-64 of the index and the 24 bytes before
END = b"\x1aCPD"
VERSION = (0, 1)
_HEADER = MAGIC + bytes(ALIGN - len(MAGIC))


def aligned(offset: int, size: int = LARGE) -> int:
    """Where a chunk of this size (or the index) starts, if the one before ends at ``offset``."""
    to = ALIGN if size >= LARGE else SMALL_ALIGN
    return -(-offset // to) * to


class Container:
    """A file's chunks and index, read lazily: a chunk is checked when it is first asked for.

    ``data`` is the whole file as uint8, usually a view of a memory map.
    Raises `FormatError` if it is another kind of file, `CorruptError` if it is damaged, `UnsupportedError` if it is too new.
    """

    def __init__(self, data: np.ndarray, limits: Limits, path: str | None = None):
        self.data, self.path = data, path
        self.map: mmap.mmap | None = None  # what ``data`` is a view of, if it can be told what is read next
        head = data[:ALIGN].tobytes()
        if head[:8] != MAGIC:
            damage = "; text-mode transfer has changed its line ends" if head[:4] == MAGIC[:4] else ""
            raise FormatError(f"not a .cpd file{f': {path}' if path else ''}{damage}")
        if data.size < ALIGN + TRAILER.size or head != _HEADER:
            raise self.fault("the header is damaged or cut off", offset=0)
        at = data.size - TRAILER.size
        trailer = data[at:].tobytes()
        self.index_at, size, major, minor, end, checksum = TRAILER.unpack(trailer)
        if end != END:
            raise self.fault("no trailer at the end: the file was cut off, or something was added to it", offset=at)
        if self.index_at % ALIGN or self.index_at < ALIGN or self.index_at + size != at:
            raise self.fault("the trailer does not point to an index that ends where it starts", offset=at)
        limits.check("index_bytes", size, "index")
        index = data[self.index_at:at]
        digest = xxh3_64(index.data)
        digest.update(trailer[:-8])
        if digest.intdigest() != checksum:
            raise self.fault("the index is damaged: its checksum differs", offset=self.index_at)
        self.version = (major, minor)
        if major > VERSION[0] or (major == 0 and minor != VERSION[1]):
            raise UnsupportedError(f"the file has format version {major}.{minor}, this compand reads {VERSION[0]}.{VERSION[1]}; "
                                   "use the compand that wrote it, or update")
        self.index: dict[str, Any] = js.split(index, limits)
        table = js.fields(self.index.get("chunks"), "the chunk table", frozenset(("bytes", "xxh3")))
        self.sizes = js.integers(table["bytes"], "chunk sizes", below=self.index_at)
        sums = table["xxh3"]
        if type(sums) is not str or len(sums) != 16 * len(self.sizes) or not sums.isascii():
            raise self.fault("the chunk table does not have one checksum a chunk")
        try:
            self.sums = bytes.fromhex(sums)
        except ValueError:
            raise self.fault("the chunk checksums are not hexadecimal") from None
        if len(self.sums) != 8 * len(self.sizes):
            raise self.fault("the chunk checksums are not hexadecimal")
        self.ends = _native.chunk_ends(self.sizes, ALIGN, SMALL_ALIGN, ALIGN, LARGE)
        if aligned(self.ends[-1]) != self.index_at:
            raise self.fault(f"the chunks end at byte {self.ends[-1]:,}, but the index starts elsewhere", offset=self.index_at)
        self._checked = bytearray(len(self.sizes))

    def fault(self, message: str, **where) -> CorruptError:
        """A `CorruptError` that names this file."""
        return CorruptError(message, path=self.path, **where)

    def offset(self, chunk: int) -> int:
        """Where a chunk starts."""
        return self.ends[chunk + 1] - self.sizes[chunk]

    def check_padding(self, chunk: int) -> None:
        """Raise `CorruptError` unless only zero bytes follow the chunk, up to the next."""
        end = self.ends[chunk + 1]
        following = self.offset(chunk + 1) if chunk + 1 < len(self.sizes) else self.index_at
        if following > end and self.data[end:following].tobytes().count(0) != following - end:
            raise self.fault("bytes that belong to no chunk are not zero", chunk=chunk, offset=end)

    def chunk(self, chunk: int, entry: str | None = None) -> np.ndarray:
        """The bytes of a chunk (uint8, no copy). Raises `CorruptError` if its checksum differs."""
        end = self.ends[chunk + 1]
        at = end - self.sizes[chunk]
        data = self.data[at:end]
        if not self._checked[chunk]:
            if self.map is not None and data.size >= PREFETCH:  # let the system read ahead instead of page by page
                start = at // mmap.PAGESIZE * mmap.PAGESIZE
                self.map.madvise(mmap.MADV_WILLNEED, start, at + data.size - start)
            if xxh3_64_intdigest(data.data) != int.from_bytes(self.sums[8 * chunk:8 * chunk + 8], "big"):
                raise self.fault("the data is damaged: its checksum differs", entry=entry, chunk=chunk, offset=at)
            self.check_padding(chunk)
            self._checked[chunk] = 1
        return data

    def unchecked(self, chunk: int) -> np.ndarray:
        """The bytes of a chunk as they are, damaged or not."""
        return self.data[self.offset(chunk):self.offset(chunk) + self.sizes[chunk]]

    def run(self, chunks: list[int], entry: str | None = None) -> np.ndarray | None:
        """Consecutive chunks as one array, if no padding lies between them; else None."""
        first, last = chunks[0], chunks[-1]
        if chunks != list(range(first, last + 1)) or any(self.sizes[c] % ALIGN for c in chunks[:-1]):
            return None
        for c in chunks:
            self.chunk(c, entry)
        return self.data[self.offset(first):self.offset(last) + self.sizes[last]]


class ChunkWriter:
    """Writes chunks, then index and trailer, to a seekable binary file opened for reading and writing."""

    def __init__(self, file: BinaryIO, old: Container | None = None):
        self.file = file
        self.sizes: list[int] = list(old.sizes) if old else []
        self.sums: list[int] = [int.from_bytes(old.sums[i:i + 8], "big") for i in range(0, len(old.sums), 8)] if old else []
        self.end = old.ends[-1] if old else ALIGN
        self._pending: dict[int, tuple[Any, int]] = {}  # chunk → running checksum, where it goes on
        self._at = -1  # where the file stands, if that is known: seeking would empty its buffer
        if not old:
            self._put(0, _HEADER)

    def _put(self, at: int, data: Any) -> None:
        if at != self._at:
            self.file.seek(at)
        self._at = -1
        self.file.write(data)
        self._at = at + len(data)

    def _pad(self, to: int) -> int:
        """Zero bytes up to an offset, which is returned."""
        if to > self.end:
            self._put(self.end, bytes(to - self.end))
        return to

    def reserve(self, size: int) -> int:
        """Room for a chunk of this size, to be filled by `extend`; returns its number."""
        self.sizes.append(size)
        self.sums.append(0)
        chunk, at = len(self.sizes) - 1, self._pad(aligned(self.end, size))
        self.end = at + size
        self._pending[chunk] = (xxh3_64(), at)
        return chunk

    def extend(self, chunk: int, data: np.ndarray) -> None:
        """The next bytes of a reserved chunk."""
        digest, at = self._pending[chunk]
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        if data.size:
            self._put(at, data.data)
            digest.update(data.data)
        self.sums[chunk] = digest.intdigest()
        self._pending[chunk] = (digest, at + data.size)

    def add(self, data: np.ndarray) -> int:
        """A whole chunk; returns its number."""
        chunk = self.reserve(data.nbytes)
        self.extend(chunk, data)
        return chunk

    def mark(self) -> tuple[int, int]:
        """Where we are, for `back`. All chunks up to here are complete."""
        self._pending.clear()
        return len(self.sizes), self.end

    def back(self, mark: tuple[int, int]) -> None:
        """Forget the chunks written after a mark."""
        del self.sizes[mark[0]:], self.sums[mark[0]:]
        self.end = mark[1]
        self._pending.clear()
        self._at = -1
        self.file.flush()
        self.file.truncate(self.end)

    def same(self, a: int, b: int) -> bool:
        """Whether two chunks hold equal bytes."""
        if self.sizes[a] != self.sizes[b] or self.sums[a] != self.sums[b]:
            return False
        ends = _native.chunk_ends(self.sizes, ALIGN, SMALL_ALIGN, ALIGN, LARGE)
        self._at = -1
        for done in range(0, self.sizes[a], 1 << 20):
            pieces = []
            for c in (a, b):
                self.file.seek(aligned(ends[c], self.sizes[c]) + done)
                pieces.append(self.file.read(min(1 << 20, self.sizes[a] - done)))
            if pieces[0] != pieces[1]:
                return False
        return True

    def finish(self, index: dict[str, Any]) -> None:
        """Write index and trailer."""
        index["chunks"] = {"bytes": self.sizes, "xxh3": "".join(f"{s:016x}" for s in self.sums)}
        raw = js.dumps(index)
        at = self._pad(aligned(self.end))
        self._put(at, seal(raw, at))
        self.file.truncate(at + len(raw) + TRAILER.size)
        self.file.flush()


def seal(index: bytes, at: int, version: tuple[int, int] = VERSION) -> bytes:
    """Index and the trailer that belongs to it when the index starts at byte ``at``."""
    front = TRAILER.pack(at, len(index), *version, END, 0)[:-8]
    return index + front + struct.pack("<Q", xxh3_64_intdigest(index + front))


def chunk_at(container: Container, offset: int) -> int | None:
    """The chunk that holds a byte, None where there is none."""
    i = bisect_right(container.ends, offset) - 1
    return i if 0 <= i < len(container.sizes) and container.offset(i) <= offset < container.ends[i + 1] else None
