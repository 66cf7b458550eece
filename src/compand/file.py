"""Reading `.cpd` files: named arrays as codes, lazily, from a memory map. FORMAT.md is the norm of the bytes."""

from __future__ import annotations

import builtins
import hashlib
import io
import mmap
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from . import index as js
from .array import like as like_array
from .blocks import Plan, check_part, guarded
from .codec import Codec, _as_dtype
from .codes import Block, Codes, stored_array
from .container import Container
from .dtypes import NAMES
from .dtypes import dtype as dtype_of
from .errors import CompandError, CorruptError, FormatError, InputError, UnsupportedError
from .limits import DEFAULT, Limits
from .spec import parse
from .stage import Part

LEVELS = ("structure", "checksums", "full")
FREE_EXPANSION = 64 << 20  # decoded bytes that any file may have, however small


def open(source, *, limits: Limits = DEFAULT) -> File:
    """The `.cpd` file at a path (memory-mapped), in a bytes-like object, or of a binary file object.

    Only index and trailer are read now. Raises `FormatError` if it is another kind of file, `CorruptError` if it is damaged,
    `LimitError` if it asks for more than ``limits``, `UnsupportedError` if it is too new.

    >>> import numpy as np, compand
    >>> with compand.open(compand.Codec("raw").compress(np.eye(2))) as file:
    ...     file.names, file["x"].array(rows=slice(1, 2))
    (('x',), array([[0., 1.]]))
    """
    path, data = None, source
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        with builtins.open(path, "rb") as f:
            data = _map(f)
    elif hasattr(source, "read"):
        data = _map(source)
    view = memoryview(data)
    if not view.c_contiguous:
        raise InputError("the bytes of a .cpd file must be contiguous")
    flat = np.frombuffer(view, np.uint8) if view.nbytes else np.zeros(0, np.uint8)
    if flat.ctypes.data % 8:  # kernels read whole words
        flat = flat.copy()
    flat.flags.writeable = False
    with guarded("the file cannot be read", path=path):
        return File(Container(flat, limits, path), limits)


def _map(f) -> Any:
    try:
        status = os.fstat(f.fileno())
    except (OSError, AttributeError, io.UnsupportedOperation):
        return f.read()
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return f.read()
    return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)


@dataclass(frozen=True)
class Report:
    """What `File.verify` looked at, and the faults it found (only with ``keep_going``; else the first is raised)."""

    level: str
    entries: int
    chunks: int
    nbytes: int
    faults: tuple[CompandError, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.faults


class File(Mapping):
    """A `.cpd` file: names to entries, in the order of the file. See `compand.open`."""

    def __init__(self, container: Container, limits: Limits):
        self._container, self.limits = container, limits
        index = container.index
        meta = index.get("meta", {})
        writer = meta.get("writer", "") if type(meta) is dict else ""
        js.fields(index, "the index", ("chunks", "codecs", "entries"), ("meta",), writer)
        self.meta: dict[str, Any] = js.mapping(meta, "meta")
        js.text(writer, "meta: writer")
        self._codecs: dict[int, Codec] = {}
        used = bytearray(len(container.sizes))
        self._specs = self._read_codecs(index["codecs"], used)
        self._entries = self._read_entries(index["entries"], used)
        if 0 in used:
            raise container.fault("a chunk belongs to nothing", chunk=used.index(0))

    # -- the index, checked ------------------------------------------------------------------------------------------------
    def _read_codecs(self, table: Any, used: bytearray) -> list[dict[str, Any]]:
        if type(table) is not list:
            raise self._container.fault("the codecs must be a list")
        for codec in table:
            js.fields(codec, "a codec", ("spec",), ("state", "packages"), self.writer)
            js.text(codec["spec"], "a spec", self.limits.spec_length)
            for name, package in js.mapping(codec.get("packages", {}), "packages").items():
                js.text(package, f"the package of {js.short(name)}")
            for path, array in js.mapping(codec.get("state", {}), "a state").items():
                what = f"state {js.short(path)}"
                js.fields(array, what, ("dtype", "shape", "chunk"), (), self.writer)
                used[js.integer(array["chunk"], f"{what}: chunk", below=len(used))] = 1
                size = self._size(array["shape"], array["dtype"], what)
                self.limits.check("allocation", size, what)
                if size != (have := self._container.sizes[array["chunk"]]):
                    raise self._container.fault(f"{what} needs {size:,} bytes, its chunk has {have:,}", chunk=array["chunk"])
        return table

    def _read_entries(self, table: Any, used: bytearray) -> dict[str, Entry]:
        if type(table) is not dict:
            raise self._container.fault("the entries must be an object")
        self.limits.check("entries", len(table), "entries")
        entries, decoded, codecs = {}, 0, bytearray(len(self._specs))
        for name, entry in table.items():
            if fault := js.name_fault(name):
                raise self._container.fault(f"{fault}: {js.short(name)}")
            js.fields(entry, name, ("shape", "dtype", "codec", "rows", "parts"), ("kind", "sha256", "attrs"), self.writer)
            if (kind := entry.get("kind", "array")) not in ("array", "file"):
                raise UnsupportedError(f"{name} is of the kind {js.short(kind)}, unknown here; written by {self.writer}")
            decoded += self._size(entry["shape"], entry["dtype"], name)
            codecs[js.integer(entry["codec"], f"{name}: codec", below=len(codecs))] = 1
            js.integer(entry["rows"], f"{name}: rows of a block", low=1)
            js.mapping(entry.get("attrs", {}), f"{name}: attrs")
            digest = entry.get("sha256", "0" * 64)
            if type(digest) is not str or len(digest) != 64 or digest.strip("0123456789abcdef"):
                raise self._container.fault("sha256 must be 64 hexadecimal digits", entry=name)
            for path, part in js.mapping(entry["parts"], f"{name}: parts").items():
                what = f"{name}: part {js.short(path)}"
                js.fields(part, what, ("chunks",), ("k", "dtype", "coder", "span"), self.writer)
                for chunk in js.integers(part["chunks"], f"{what}: chunks", below=len(used)):
                    used[chunk] = 1
                js.integer(part.get("span", 1), f"{what}: span", low=1)
            entries[name] = Entry(self, name, entry)
        self.limits.check("decoded_bytes", decoded, "all entries decoded")
        size = self._container.data.size
        self.limits.check("expansion", max(0, decoded - FREE_EXPANSION) // size, "decoded bytes for each byte of the file")
        if 0 in codecs:
            raise self._container.fault("a codec belongs to no entry")
        return entries

    def _size(self, shape: Any, dtype: Any, what: str) -> int:
        """Decoded bytes, exactly."""
        self.limits.check("ndim", len(js.integers(shape, f"{what}: shape")), f"{what}: axes")
        if type(dtype) is not str or dtype not in NAMES:
            raise UnsupportedError(f"{what}: dtype {js.short(dtype)} is not one of {', '.join(NAMES)}")
        return prod(shape) * dtype_of(dtype).itemsize

    @cached_property
    def _share(self) -> dict[str, int]:
        """Stored bytes of each entry; what several entries use counts in equal parts."""
        state = [[a["chunk"] for a in codec.get("state", {}).values()] for codec in self._specs]
        chunks = {name: state[e._record["codec"]] + [c for p in e._record["parts"].values() for c in p["chunks"]]
                  for name, e in self._entries.items()}
        users = Counter(c for used in chunks.values() for c in used)
        return {name: sum(-(-self._container.sizes[c] // users[c]) for c in used) for name, used in chunks.items()}

    def _codec(self, i: int) -> Codec:
        if i not in self._codecs:
            record = self._specs[i]
            try:
                stage = parse(record["spec"], self.limits)
                codec = Codec(stage)
            except UnsupportedError as e:
                packages = record.get("packages") or {}
                hint = f"; the file was written with {', '.join(packages.values())}" if packages else ""
                raise UnsupportedError(f"{e}{hint}; written by {self.writer}") from None
            state = {path: stored_array(self._container.chunk(a["chunk"]), Part(tuple(a["shape"]), a["dtype"]), self.limits)
                     for path, a in record.get("state", {}).items()}
            if state:
                with guarded(f"{record['spec']}: the state {sorted(state)} does not fit"):
                    codec = Codec(stage.with_arrays(state))
                if codec.state().keys() != state.keys():
                    raise self._container.fault(f"{record['spec']} has no state {sorted(state.keys() - codec.state().keys())}")
            self._codecs[i] = codec
        return self._codecs[i]

    # -- a mapping ---------------------------------------------------------------------------------------------------------
    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; arrays and codes taken from it stay valid, and keep its map alive."""
        _ = self._share
        self._entries, self._codecs = {}, {}

    def __repr__(self) -> str:
        return f"<compand.File {self.path or 'in memory'}: {len(self)} entries, {self.nbytes:,} bytes>"

    @property
    def path(self) -> str | None:
        """Where the file is; None if it is in memory."""
        return self._container.path

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all entries."""
        return tuple(self._entries)

    @property
    def writer(self) -> str:
        """Which program wrote the file, such as 'compand 0.1.0'."""
        return str(self.meta.get("writer", "unknown"))

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return int(self._container.data.size)

    @property
    def version(self) -> tuple[int, int]:
        """The version (major, minor) of the file's format."""
        return self._container.version

    def verify(self, level: str = "full", *, keep_going: bool = False) -> Report:
        """Check the file: "structure" (all but the data), "checksums" (and every byte), "full" (and decode all).

        "full" also compares the SHA-256 of decoded bytes where an entry has it. Raises the first fault, or with
        ``keep_going`` lists the first fault of each entry in the report.
        """
        if level not in LEVELS:
            raise InputError(f"level must be one of {', '.join(LEVELS)}, not {level!r}")
        faults: list[CompandError] = []
        steps = [*(e._check for e in self.values())]
        chunks = range(len(self._container.sizes))
        if level == "structure":
            steps += [lambda c=c: self._container.check_padding(c) for c in chunks]
        else:
            steps += [lambda c=c: self._container.chunk(c) for c in chunks]
        if level == "full":
            steps += [e._check_decode for e in self.values()]
        for step in steps:
            try:
                step()
            except CompandError as e:
                if not keep_going:
                    raise
                if str(e) not in map(str, faults):
                    faults.append(e)
        return Report(level, len(self), len(chunks), self.nbytes, tuple(faults))


class Entry:
    """One named array of a file. Nothing of it is read before it is asked for."""

    def __init__(self, file: File, name: str, record: dict[str, Any]):
        self._file, self._record, self.name = file, record, name

    def __repr__(self) -> str:
        return f"<{self.name}: {self.spec} of {self.dtype}{list(self.shape)}, {self.nbytes:,} bytes>"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded array."""
        return tuple(self._record["shape"])

    @property
    def dtype(self) -> str:
        """Name of the decoded array's dtype."""
        return self._record["dtype"]

    @property
    def kind(self) -> str:
        """"array", or "file" for opaque bytes."""
        return self._record.get("kind", "array")

    @property
    def spec(self) -> str:
        """The spec of its codec, as the file has it."""
        return self._file._specs[self._record["codec"]]["spec"]

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the decoded bytes (hexadecimal), if the file has it."""
        return self._record.get("sha256")

    @property
    def attrs(self) -> dict[str, Any]:
        """What the writer noted about this entry."""
        return self._record.get("attrs", {})

    @property
    def codec(self) -> Codec:
        """The fitted codec. Raises `UnsupportedError` if one of its stages is not installed."""
        return self._plan.codec

    @cached_property
    def _plan(self) -> Plan:
        file, record = self._file, self._record
        codec = file._codec(record["codec"])
        with guarded("the entry cannot be read", entry=self.name):
            plan = Plan(codec, self.shape, self.dtype, record["rows"], file.limits)
            self._match(plan)
            self._match_state(plan)
        return plan

    def _match(self, plan: Plan) -> None:
        """Raise `CorruptError` unless the parts and chunks of the index are those the codec's layout needs."""
        have, sizes = self._record["parts"], self._file._container.sizes
        if have.keys() != plan.parts.keys():
            raise self._fault(f"it has the parts {sorted(have)[:8]}, {self.spec} needs {sorted(plan.parts)}")
        for path, part in plan.parts.items():
            stored = have[path]
            if (stored.get("k"), stored.get("dtype"), stored.get("coder", "")) != (part.k, part.dtype, part.coder):
                raise self._fault(f"part {path} is declared as {js.short(str(stored.get('k') or stored.get('dtype')))}, "
                                  f"{self.spec} makes {part.k or part.dtype} {part.coder}")
            span, chunks = stored.get("span", 1), stored["chunks"]
            if len(chunks) != -(-plan.count // span):
                raise self._fault(f"part {path} has {len(chunks)} chunks for {plan.count} blocks")
            for i, chunk in enumerate(chunks):
                need = plan.chunk_bytes(path, span, i)
                if need is None:
                    if span != 1:
                        raise self._fault(f"part {path} varies in size, so that each block must have its chunk")
                    plan.check_work(path, i, sizes[chunk])
                    file_limits = self._file.limits
                    file_limits.check("allocation", sizes[chunk], f"{self.name}: part {path}")
                elif need != sizes[chunk]:
                    raise self._fault(f"part {path} needs {need:,} bytes, its chunk has {sizes[chunk]:,}", chunk)

    def _match_state(self, plan: Plan) -> None:
        state = plan.codec.state()
        need = plan.codec.stage.state(plan.form) if plan.count else {}
        for path, part in need.items():
            check_part(f"{self.spec} {path}", part, self._file.limits)
            a = state.get(path)
            if a is None or str(a.dtype) != part.dtype or (a.shape != part.shape and (part.shape != (-1,) or a.ndim != 1)):
                raise self._fault(f"state {path} is {'missing' if a is None else f'{a.dtype}{list(a.shape)}'}, "
                                  f"{self.spec} needs {part.dtype}{list(part.shape)}")
        if plan.count and (extra := sorted(state.keys() - need.keys())):
            raise self._fault(f"{self.spec} has no state {extra[:8]}")

    def _fault(self, message: str, chunk: int | None = None) -> CorruptError:
        return CorruptError(message, path=self._file.path, entry=self.name, chunk=chunk)

    # -- sizes -------------------------------------------------------------------------------------------------------------
    def parts(self) -> dict[str, int]:
        """Stored bytes of each part of the codes."""
        sizes = self._file._container.sizes
        return {path: sum(sizes[c] for c in part["chunks"]) for path, part in self._record["parts"].items()}

    @property
    def nbytes(self) -> int:
        """Stored bytes of the codes and fitted arrays; what several entries share counts in equal parts."""
        return self._file._share[self.name]

    # -- codes and values --------------------------------------------------------------------------------------------------
    def _block(self, i: int) -> Block:
        """One block as views of the file, its checksums checked."""
        plan, arrays = self._plan, {}
        for path, record in self._record["parts"].items():
            span = record.get("span", 1)
            data = self._file._container.chunk(record["chunks"][i // span], self.name)
            if span > 1:
                first = i // span * span
                at = (i - first) * (plan.stored(path, first) or 0)
                data = data[at:at + (plan.stored(path, i) or 0)]
            arrays[path] = stored_array(data, plan.part(path, i), self._file.limits)
        return Block(plan.block_rows(i), arrays)

    def _range(self, rows: slice | None) -> tuple[range, int, int]:
        """Rows asked for (of the first axis), and the first and last + 1 block that hold them."""
        if rows is not None and not isinstance(rows, slice):
            raise InputError(f"rows must be a slice, not {rows!r}")
        plan = self._plan
        asked = range(self.shape[0] if self.shape else 1)[rows or slice(None)]
        if not asked or not plan.count:
            return asked, 0, 0
        if len(self.shape) < 2 and not plan.codec.stage.raw:
            return asked, 0, plan.count
        low, high = min(asked[0], asked[-1]), max(asked[0], asked[-1])
        return asked, low // plan.rows, high // plan.rows + 1

    def codes(self, rows: slice | None = None) -> Codes:
        """The codes as views of the file, checked against their checksums; only the blocks that hold ``rows``."""
        with guarded("the codes cannot be read", entry=self.name):
            plan = self._plan
            _, first, last = self._range(rows)
            blocks = tuple(self._block(i) for i in range(first, last))
            shape = self.shape
            if rows is not None and shape and (len(shape) > 1 or plan.codec.stage.raw):
                shape = (sum(b.rows for b in blocks), *shape[1:])
            return Codes(plan.codec, shape, self.dtype, blocks)

    def array(self, rows: slice | None = None, *, like=None, terms: int | None = None):
        """The decoded array, or some rows of it (first axis).

        ``like`` is an array whose library and device the result shall have; ``terms`` stops a sum after so many terms.
        Stored without coding (``raw``), it is a read-only view of the file, without a copy.
        """
        with guarded("the array cannot be decoded", entry=self.name):
            plan, codec = self._plan, self._plan.codec
            asked, first, last = self._range(rows)
            if not plan.count or not asked:
                x = np.zeros(self.shape if not plan.count else (0, *self.shape[1:]), dtype_of(self.dtype))
                x = x[rows] if rows is not None and not plan.count else x
                return x if like is None else like_array(x, like)
            if like is not None and not isinstance(like, np.ndarray):
                if asked.step < 0:
                    raise InputError("rows must go forward where the result is not a NumPy array")
                low = first * plan.rows
                exact = slice(asked[0] - low, asked[-1] + 1 - low, asked.step)
                return codec.decode(self.codes(rows), rows=None if rows is None else exact, terms=terms, like=like)
            low = first * plan.rows
            high = min(last * plan.rows, plan.form.n)
            y = self._view(first, last) if str(codec.stage) == "raw" else None
            if y is None:
                y = np.empty((high - low, plan.form.d), dtype_of(self.dtype))
                for i in range(first, last):
                    block = self._block(i)
                    at = i * plan.rows - low
                    y[at:at + block.rows] = self._decode(block, terms)
            return self._shaped(y, asked, low, rows is not None)

    def _decode(self, block: Block, terms: int | None = None) -> np.ndarray:
        codec = self._plan.codec
        y = _as_dtype(codec.decode_block(block, self._plan.form, None, terms), self.dtype)
        return self._valid(y)

    def _valid(self, y: np.ndarray) -> np.ndarray:
        if y.dtype == np.bool_ and y.size and y.view(np.uint8).max() > 1:
            raise self._fault("a bool is neither 0 nor 1")
        return y

    def _view(self, first: int, last: int) -> np.ndarray | None:
        """Blocks of uncoded values as one view of the file."""
        record = next(iter(self._record["parts"].values()), None)
        if record is None or first == last:
            return None
        span, plan = record.get("span", 1), self._plan
        data = self._file._container.run(record["chunks"][first // span:-(-last // span)], self.name)
        if data is None:
            return None
        row = plan.form.d * dtype_of(self.dtype).itemsize
        skip = (first - first // span * span) * plan.rows * row
        n = min(last * plan.rows, plan.form.n) - first * plan.rows
        return self._valid(data[skip:skip + n * row].view(dtype_of(self.dtype)).reshape(n, plan.form.d))

    def _shaped(self, y: np.ndarray, asked: range, low: int, cut: bool) -> np.ndarray:
        """Decoded rows (n, d) in the shape of the source, cut to the rows asked for."""
        x = y.reshape((-1, *self.shape[1:]) if self.shape else ())
        if not cut or not self.shape:
            return x
        return x[asked[0] - low::asked.step][:len(asked)]

    # -- verify ------------------------------------------------------------------------------------------------------------
    def _check(self) -> None:
        _ = self._plan

    def _check_decode(self) -> None:
        """Decode block by block; compare the digest."""
        digest = hashlib.sha256() if self.sha256 else None
        with guarded("the array cannot be decoded", entry=self.name):
            for i in range(self._plan.count):
                y = self._decode(self._block(i))
                if digest:
                    digest.update(np.ascontiguousarray(y).reshape(-1).view(np.uint8).data)
        if digest and digest.hexdigest() != self.sha256:
            raise self._fault(f"it decodes to bytes of SHA-256 {digest.hexdigest()}, the file says {self.sha256}")


def dumps(codes: Codes) -> bytes:
    """The bytes of a file that holds just these codes, under the name ``x``."""
    from .writer import Writer

    out = io.BytesIO()
    with Writer(out) as writer:
        writer.write_codes("x", codes)
    return out.getvalue()


def loads(data, *, limits: Limits = DEFAULT) -> np.ndarray:
    """The array in the bytes of a file of one entry. Raises a `CompandError` for any other bytes."""
    with open(data, limits=limits) as file:
        if len(file) != 1:
            raise FormatError(f"the file holds {len(file)} entries, not one; use compand.open")
        return next(iter(file.values())).array()
