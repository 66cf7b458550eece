""".npz: a zip of .npy members. Stored members are mapped, deflated ones streamed; no pickle."""

from __future__ import annotations

import zipfile
import zlib

import numpy as np

from ..dtypes import dtype as dtype_of
from ..errors import CorruptError, FormatError, UnsupportedError
from ..limits import DEFAULT, Limits
from .npy import MAX_HEADER, dtype_of_descr, parse_header, write_array
from .source import Item, Mapped, Source, check_array

MAGIC = b"PK"
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, LookupError, OverflowError,
           OSError)


class Npz(Source):
    """An opened .npz file: one array a member."""

    format, modality = "npz", "embeddings"

    def __init__(self, path, limits: Limits = DEFAULT):
        super().__init__(path)
        self.file = Mapped(path)
        try:
            self.zip = zipfile.ZipFile(path)
            self._read_members(limits)
        except (FormatError, UnsupportedError, CorruptError):
            raise
        except _BROKEN as e:
            raise FormatError(f"{path}: damaged zip: {type(e).__name__}: {e}") from e

    def _read_members(self, limits: Limits) -> None:
        members = self.zip.infolist()
        limits.check("entries", len(members), "members of the .npz")
        if len({m.filename for m in members}) != len(members):
            raise FormatError(f"{self.path}: two members have one name")
        if sum(m.compress_size for m in members) > self.file.size:
            raise FormatError(f"{self.path}: members overlap")
        limits.check("decoded_bytes", sum(m.file_size for m in members), str(self.path))
        self.members, self.meta["members"] = [], []
        for m in members:
            if not m.filename.endswith(".npy"):
                raise FormatError(f"{self.path}: member {m.filename!r} is not an array (.npy)")
            if m.flag_bits & 1 or m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UnsupportedError(f"{self.path}: member {m.filename!r} is encrypted or not stored/deflated")
            if m.file_size > limits.expansion * max(m.compress_size, 1):
                raise FormatError(f"{self.path}: member {m.filename!r} claims to expand {m.compress_size:,} to "
                                  f"{m.file_size:,} bytes")
            with self.zip.open(m) as f:
                head = f.read(12)
                more = int.from_bytes(head[8:10 if head[6:7] == b"\x01" else 12], "little")
                head += f.read(min(more, MAX_HEADER))
            start, descr, fortran, shape = parse_header(head)
            name, swap = dtype_of_descr(descr)
            if start + check_array(shape, name, m.filename, limits) != m.file_size:
                raise FormatError(f"{self.path}: member {m.filename!r} has {m.file_size - start:,} bytes for "
                                  f"{descr}{list(shape)}")
            self.members.append((m, start, name, swap, fortran, shape))
            self.meta["members"].append({"name": m.filename.removesuffix(".npy"), "descr": descr, "fortran": fortran,
                                         "version": head[6]})
        self.meta["deflated"] = any(m.compress_type == zipfile.ZIP_DEFLATED for m in members)

    def items(self):
        for member in self.members:
            yield Item(member[0].filename.removesuffix(".npy"), member[5], member[2],
                       lambda rows=None, member=member: self._load(*member, rows))

    def _load(self, m, start, name, swap, fortran, shape, rows) -> np.ndarray:
        try:
            data = self._data(m)
        except _BROKEN as e:
            raise CorruptError(f"member {m.filename!r}: {type(e).__name__}: {e}", path=self.path) from e
        x = data[start:] if start % dtype_of(name).itemsize == 0 else data[start:].copy()
        x = x.view(dtype_of(name))
        x = x.reshape(shape[::-1]).T if fortran else x.reshape(shape)
        x = x if rows is None else x[rows]
        return x.byteswap() if swap else x

    def _data(self, m) -> np.ndarray:
        """The member's bytes, its CRC-32 checked."""
        if m.compress_type == zipfile.ZIP_STORED:
            local = self.file.bytes(m.header_offset, 30)
            at = m.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
            data = self.file.array(at, "uint8", (m.file_size,))
            if zlib.crc32(data) != m.CRC:
                raise zipfile.BadZipFile("bad CRC-32")
            return data
        data, at = np.empty(m.file_size, np.uint8), 0
        with self.zip.open(m) as f:
            while piece := f.read(1 << 20):
                data[at:at + len(piece)] = np.frombuffer(piece, np.uint8)
                at += len(piece)
        if at != m.file_size:
            raise EOFError(f"{at:,} of {m.file_size:,} bytes")
        return data

    def close(self) -> None:
        self.zip.close()


def write(out, arrays, meta: dict) -> None:
    """Write (name, array) pairs as .npz to an open file; the same arrays give the same bytes."""
    known = {m.get("name"): m for m in meta.get("members", ()) if isinstance(m, dict)}
    how = zipfile.ZIP_DEFLATED if meta.get("deflated") else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", how) as z:
        for name, x in arrays:
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = how
            with z.open(info, "w", force_zip64=True) as f:
                write_array(f, x, known.get(name, {}))
