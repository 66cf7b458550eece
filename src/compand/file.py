"""Reading `.cpd` files: named arrays as codes, lazily, from a memory map. FORMAT.md is the norm of the bytes."""

from __future__ import annotations

import builtins
import hashlib
import io
import mmap
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from . import index as js
from .blocks import Plan, guarded
from .codec import Codec
from .codes import Codes, stored_array
from .container import Container
from .dtypes import NAMES
from .dtypes import dtype as dtype_of
from .entry import Entry
from .errors import CompandError, FormatError, InputError, UnsupportedError
from .limits import DEFAULT, Limits
from .spec import parse
from .stage import Part
from .verification import Report, verified

FREE_EXPANSION = 64 << 20  # decoded bytes that any file may have, however small
PLANS = 256                # plans kept for further arrays of the same form
FREE_WORK = 1 << 33        # multiplications that any file may take to set stages up: eight rotations of 1024 columns
FREE_CALLS = 1 << 13       # stages that decoding every array of any file once may run

_INDEX = frozenset(("chunks", "codecs", "entries")), frozenset(("meta",))  # fields an object must have, and may have
_CODEC = frozenset(("spec",)), frozenset(("state", "packages"))
_STATE = frozenset(("dtype", "shape", "chunk")), frozenset[str]()
_ENTRY = frozenset(("shape", "dtype", "codec", "rows", "parts")), frozenset(("kind", "spans", "sha256", "attrs"))


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
        container = Container(flat, limits, path)
        container.map = data if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED") else None
        return File(container, limits)


def _map(f) -> Any:
    try:
        status = os.fstat(f.fileno())
    except (OSError, AttributeError, io.UnsupportedOperation):
        return f.read()
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return f.read()
    return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)


class File(Mapping):
    """A `.cpd` file: names to entries, in the order of the file. See `compand.open`."""

    def __init__(self, container: Container, limits: Limits):
        self._container, self.limits = container, limits
        index = container.index
        meta = index.get("meta", {})
        writer = meta.get("writer", "") if type(meta) is dict else ""
        js.fields(index, "the index", *_INDEX, writer)
        self.meta: dict[str, Any] = js.mapping(meta, "meta")
        js.text(writer, "meta: writer")
        self._specs = index["codecs"]
        self._records: Mapping[str, Any] = index["entries"]
        if type(self._specs) is not list:
            raise container.fault("the codecs must be a list")
        if not isinstance(self._records, js.Records):
            js.mapping(self._records, "the entries")
        limits.check("entries", len(self._records), "entries")
        for name in self._records if not getattr(self._records, "plain", False) else ():
            if fault := js.name_fault(name):
                raise container.fault(f"{fault}: {js.short(name)}")
        self._entries: dict[str, Entry] = {}
        self._codecs: dict[int, Codec | CompandError] = {}
        self._known_specs: dict[int, dict[str, Any]] = {}
        self._plans: dict[tuple, Plan] = {}
        self._work: dict[tuple[str, int], int] = {}
        self._spent = 0
        self._calls = 0

    # -- the index, checked: each entry when it is first asked for, what concerns all of them by `verify` -----------------------
    def _spec(self, i: int) -> dict[str, Any]:
        """The record of a codec, its fields checked."""
        if i in self._known_specs:
            return self._known_specs[i]
        codec = js.fields(self._specs[i], "a codec", *_CODEC, self.writer)
        self.limits.check("spec_length", len(js.text(codec["spec"], "a spec", js.BELOW)), "spec")
        for name, package in js.mapping(codec.get("packages", {}), "packages").items():
            js.text(package, f"the package of {js.short(name)}")
        for path, array in js.mapping(codec.get("state", {}), "a state").items():
            what = f"state {js.short(path)}"
            js.fields(array, what, *_STATE, self.writer)
            js.integer(array["chunk"], f"{what}: chunk", below=len(self._container.sizes))
            self.limits.check("allocation", size := self._size(array["shape"], array["dtype"], what), what)
            if size != (have := self._container.sizes[array["chunk"]]):
                raise self._container.fault(f"{what} needs {size:,} bytes, its chunk has {have:,}", chunk=array["chunk"])
        self._known_specs[i] = codec
        return codec

    def _entry(self, name: str, entry: Any) -> Entry:
        """An entry, its fields checked."""
        if type(entry) is not dict or entry.keys() != _ENTRY[0]:
            js.fields(entry, name, *_ENTRY, self.writer)
            self._check_optional(name, entry)
        size = self._size(entry["shape"], entry["dtype"], name)
        self._check_expansion(size, name)
        self._spec(js.integer(entry["codec"], f"{name}: codec", below=len(self._specs)))
        js.integer(entry["rows"], f"{name}: rows of a block", low=1)
        below = len(self._container.sizes)
        for path, chunks in js.mapping(entry["parts"], f"{name}: parts").items():
            if not (type(chunks) is list and len(chunks) == 1 and type(chunks[0]) is int and 0 <= chunks[0] < below):
                js.integers(chunks, f"{name}: chunks of {js.short(path)}", below=below)
        return Entry(self, name, entry)

    def _check_optional(self, name: str, entry: dict[str, Any]) -> None:
        """The fields that an entry may have."""
        if (kind := entry.get("kind", "array")) not in ("array", "file"):
            raise UnsupportedError(f"{name} is of the kind {js.short(kind)}, unknown here; written by {self.writer}")
        js.mapping(entry.get("attrs", {}), f"{name}: attrs")
        digest = entry.get("sha256", "0" * 64)
        if type(digest) is not str or len(digest) != 64 or digest.strip("0123456789abcdef"):
            raise self._container.fault("sha256 must be 64 hexadecimal digits", entry=name)
        parts = js.mapping(entry["parts"], f"{name}: parts")
        for path, span in js.mapping(entry.get("spans", {}), f"{name}: spans").items():
            if path not in parts:
                raise self._container.fault(f"{name} has a span of {js.short(path)}, which is no part")
            js.integer(span, f"{name}: span of {js.short(path)}", low=1)

    def _check_expansion(self, size: int, what: str) -> None:
        if size > self.limits.decoded_bytes:
            self.limits.check("decoded_bytes", size, f"{what} decoded")
        if size > FREE_EXPANSION:
            self.limits.check("expansion", (size - FREE_EXPANSION) // self.nbytes, f"{what}: decoded bytes for each byte of the file")

    def _spend(self, work: dict[tuple[str, int], int], what: str) -> None:
        """Note what an entry takes before its first value is decoded, once for all entries; `LimitError` if it is too much."""
        if not work:
            return
        new = {key: effort for key, effort in work.items() if key not in self._work}
        if new and (spent := sum(new.values()) + self._spent) > FREE_WORK:
            self.limits.check("work", (spent - FREE_WORK) // self.nbytes, f"{what}: multiplications to set stages up, per byte of the file")
        self._work |= new
        self._spent += sum(new.values())

    def _run(self, effort: int, what: str) -> None:
        """Note what decoding an array takes at least; `LimitError` if a crowd of tiny arrays under long or slow specs asks for too much."""
        if self._calls + effort > FREE_CALLS:
            dense = ((self._calls + effort - FREE_CALLS) << 20) // self.nbytes
            if dense > self.limits.calls:
                self.limits.check("calls", dense, f"{what}: stages run for each MiB of the file")
        self._calls += effort

    def _check_all(self) -> None:
        """What no entry alone can show: totals, and that every chunk and codec belongs to something."""
        chunks, codecs = bytearray(len(self._container.sizes)), bytearray(len(self._specs))
        for entry in self.values():
            codecs[entry._record["codec"]] = 1
            for part in entry._record["parts"].values():
                for chunk in part:
                    chunks[chunk] = 1
        if 0 in codecs:
            raise self._container.fault("a codec belongs to no entry")
        for i in range(len(codecs)):
            for array in self._spec(i).get("state", {}).values():
                chunks[array["chunk"]] = 1
        if 0 in chunks:
            raise self._container.fault("a chunk belongs to nothing", chunk=chunks.index(0))
        self._check_expansion(sum(prod(e.shape) * dtype_of(e.dtype).itemsize for e in self.values()), "all entries")

    def _size(self, shape: Any, dtype: Any, what: str) -> int:
        """Decoded bytes, exactly."""
        if len(js.integers(shape, f"{what}: shape")) > self.limits.ndim:
            self.limits.check("ndim", len(shape), f"{what}: axes")
        if type(dtype) is not str or dtype not in NAMES:
            raise UnsupportedError(f"{what}: dtype {js.short(dtype)} is not one of {', '.join(NAMES)}")
        return prod(shape) * dtype_of(dtype).itemsize

    @cached_property
    def _share(self) -> dict[str, int]:
        """Stored bytes of each entry; what several entries use counts in equal parts."""
        chunks = {name: [*(a["chunk"] for a in self._spec(e._record["codec"]).get("state", {}).values()),
                         *(c for p in e._record["parts"].values() for c in p)] for name, e in self.items()}
        users = Counter(c for used in chunks.values() for c in used)
        return {name: sum(-(-self._container.sizes[c] // users[c]) for c in used) for name, used in chunks.items()}

    def _codec(self, i: int) -> Codec:
        """A codec with its state, made once; so is the error of one that cannot be made."""
        if i not in self._codecs:
            try:
                self._codecs[i] = self._build(self._spec(i))
            except CompandError as e:
                self._codecs[i] = e
        codec = self._codecs[i]
        if isinstance(codec, CompandError):
            raise codec.with_traceback(None)
        return codec

    def _planned(self, i: int, codec: Codec, shape: tuple[int, ...], dtype: str, rows: int) -> Plan:
        """The plan of an array; those of many small arrays of one form are one."""
        key = (i, shape, dtype, rows)
        plan = self._plans.get(key)
        if plan is None:
            plan = Plan(codec, shape, dtype, rows, self.limits)
            if len(self._plans) < PLANS:
                self._plans[key] = plan
        return plan

    def _build(self, record: dict[str, Any]) -> Codec:
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
        return codec

    # -- a mapping ---------------------------------------------------------------------------------------------------------
    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            record = self._records[name]
            with guarded("the entry cannot be read", False, entry=name):
                self._entries[name] = self._entry(name, record)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file's entries; arrays and codes taken from it stay valid, and keep its map alive."""
        self._records, self._entries, self._codecs, self._plans = {}, {}, {}, {}

    def __repr__(self) -> str:
        return f"<compand.File {self.path or 'in memory'}: {len(self)} entries, {self.nbytes:,} bytes>"

    @property
    def path(self) -> str | None:
        """Where the file is; None if it is in memory."""
        return self._container.path

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all entries."""
        return tuple(self._records)

    @property
    def writer(self) -> str:
        """Which program wrote the file, such as 'compand 0.1.0'."""
        return str(self.meta.get("writer", "unknown"))

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return int(self._container.data.size)

    @property
    def digest(self) -> str:
        """SHA-256 of the sizes and checksums of all chunks: the same while the stored bytes are, whatever is noted beside them."""
        sizes = np.asarray(self._container.sizes, "<i8").tobytes()
        return hashlib.sha256(sizes + self._container.sums).hexdigest()

    @property
    def version(self) -> tuple[int, int]:
        """The version (major, minor) of the file's format."""
        return self._container.version

    def verify(self, level: str = "full", *, keep_going: bool = False, progress: Callable[[int, int], None] | None = None) -> Report:
        """Check the file: "structure" (all but the data), "checksums" (and every byte), "full" (and decode all).

        "full" also compares the SHA-256 of decoded bytes where an entry has it. Raises the first fault, or with
        ``keep_going`` lists the first fault of each entry in the report. ``progress`` is called with the bytes done and in all: of chunks,
        of decoded blocks.
        """
        return verified(self, level, keep_going, progress)


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
