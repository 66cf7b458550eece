"""Writing `.cpd` files: streaming, atomic, deterministic. FORMAT.md is the norm of the bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import index as js
from .array import dtype_name, to_numpy
from .blocks import Plan, leaves
from .codec import Codec, _as_dtype
from .codes import Block, Codes, stored_form
from .container import ChunkWriter
from .dtypes import dtype as dtype_of
from .errors import CorruptError, InputError
from .file import PLANS, File
from .file import open as open_file
from .limits import Limits
from .replacing import Replacing

OPAQUE = "bytes,lzma"  # how opaque bytes are stored
TRUSTED = Limits(allocation=1 << 62, decoded_bytes=1 << 62, expansion=1 << 62, work=1 << 62)


class Writer:
    """Write a `.cpd` file: a context manager; the file appears, whole, when it ends without an error.

    Parameters
    ----------
    path : path, or a seekable binary file object opened for reading and writing
    overwrite : replace an existing file (else `OverwriteError`)
    meta : JSON dict kept in the index
    append : add to the file if it exists; the old file stays in place until the new one replaces it

    >>> import numpy as np, compand, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "a.cpd")
    >>> with compand.Writer(path, meta={"modality": "embeddings"}) as file:
    ...     file.write("rows", np.eye(3, dtype=np.float32), "raw")
    ...     file.write_file("config.json", b"{}")
    >>> compand.open(path).names
    ('rows', 'config.json')
    """

    def __init__(self, path, *, overwrite: bool = False, meta: dict[str, Any] | None = None, append: bool = False):
        from . import __version__

        self._meta = {"writer": f"compand {__version__}", **js.plain(dict(meta or {}), "meta", js.DEPTH - 1)}
        self._codecs: list[dict[str, Any]] = []
        self._known_codecs: dict[tuple, int] = {}
        self._entries: dict[str, Any] = {}
        self._plans: dict[tuple, Plan] = {}
        self._twins: dict[tuple, list[dict[str, Any]]] = {}
        self._rest: dict[str, Any] = {}  # ancillary fields of the index, kept
        self._target: Replacing | None = None
        old: File | None = None
        if hasattr(path, "write"):
            file = path
        else:
            path = Path(os.path.realpath(path))
            if append and path.exists():
                old = open_file(path, limits=TRUSTED)
                old.verify("structure")
            self._target = Replacing(path, overwrite=overwrite or old is not None)
            file = self._target.file
        try:
            if old is not None and self._target:
                self._target.copy_from(path, old._container.index_at)
                self._adopt(old, meta)
            self._chunks = ChunkWriter(file, old._container if old else None)
        except BaseException:
            self.abort()
            raise

    def _adopt(self, old: File, meta: dict[str, Any] | None) -> None:
        index = old._container.index
        self._meta = {**old.meta, **self._meta} if meta else dict(old.meta)
        self._codecs, self._entries = list(index["codecs"]), dict(index["entries"])
        self._rest = {k: v for k, v in index.items() if k not in ("meta", "codecs", "entries", "chunks")}
        for entry in old.values():
            self._known_codecs.setdefault(_codec_key(entry.codec), entry._record["codec"])

    # -- entries -----------------------------------------------------------------------------------------------------------
    def write(self, name: str, x, codec: Codec | str, *, attrs: dict[str, Any] | None = None, sha256: bool = False,
              check: bool = True, kind: str = "array", progress: Callable[[int, int], None] | None = None) -> None:
        """Encode x (any array; blocks of a memmap are read one by one) and add it under a name.

        A codec that needs fitting and is not fitted is fitted to x. ``check`` decodes each block with the scalar kernels and
        compares: with x if the codec is lossless, else with what the fast kernels decode. ``sha256`` notes the digest of
        the decoded bytes. ``progress`` is called with the rows done and the rows in all after each block.
        Raises `InputError` for a name that is taken or not allowed, and as `Codec.encode` does.
        """
        self._check_name(name)
        codec = Codec(codec) if isinstance(codec, str) else codec
        if not hasattr(x, "shape"):
            x = np.asarray(x)
        if sha256 and not codec.stage.exact and not codec.stage.raw:
            raise InputError(f"{codec.spec} may decode differently in the last bit on another machine; no SHA-256 can hold")
        shape, dtype = tuple(x.shape), dtype_name(x)
        form = codec.form(shape, dtype)
        if codec.stage.state(form) and not codec.state() and form.n and form.d:
            codec = codec.fit(x)
        blocks = self._checked(codec, x, form, check, digest := hashlib.sha256() if sha256 else None, progress)
        self._add(name, codec, shape, dtype, codec.block_rows(form), blocks, kind, attrs, digest)

    def write_codes(self, name: str, codes: Codes, *, attrs: dict[str, Any] | None = None) -> None:
        """Add codes as they are. Raises `InputError` if their blocks differ in rows (the last may be smaller)."""
        self._check_name(name)
        rows = codes.blocks[0].rows if codes.blocks else 1
        if any(b.rows != rows for b in codes.blocks[:-1]) or (codes.blocks and codes.blocks[-1].rows > rows):
            raise InputError("all blocks of codes but the last must have the same number of rows; encode the array again")
        self._add(name, codes.codec, codes.shape, codes.dtype, rows, iter(codes.blocks), "array", attrs, None)

    def write_blocks(self, name: str, codec: Codec, shape: tuple[int, ...], dtype: str, blocks, *,
                     attrs: dict[str, Any] | None = None) -> None:
        """Add blocks of codes as they come, for arrays that never are in memory as a whole.

        blocks: an iterable of `Block`, each of `Codec.block_rows` rows but the last; shape and dtype are of the whole array.
        """
        self._check_name(name)
        self._add(name, codec, shape, dtype, codec.block_rows(codec.form(shape, dtype)), iter(blocks), "array", attrs, None)

    def write_file(self, name: str, source) -> None:
        """Add opaque bytes (a bytes-like object, or the path of a file), compressed without loss."""
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as f:
                source = f.read()
        data = np.frombuffer(source, np.uint8) if len(source) else np.zeros(0, np.uint8)
        self.write(name, data, OPAQUE, kind="file", sha256=True)

    def _check_name(self, name: str) -> None:
        if fault := js.name_fault(name):
            raise InputError(f"{fault}: {js.short(name)}")
        if name in self._entries:
            raise InputError(f"the file has an entry {name!r} already")

    def _checked(self, codec: Codec, x, form, check: bool, digest, progress):
        """The blocks of x, each decoded as a reader would and compared."""
        at, source = 0, None
        for block in codec.encode_blocks(x):
            if check or (digest and not codec.stage.raw):
                y = _decoded(codec, block, form, check)
            if codec.stage.raw and (check or digest):
                if source is None:
                    source = codec._rows(x)[0]
                rows = to_numpy(source[at:at + block.rows]).reshape(-1).view(np.uint8)
                if check and not np.array_equal(rows, np.ascontiguousarray(y).reshape(-1).view(np.uint8)):
                    raise CorruptError(f"{codec.spec}: rows {at} to {at + block.rows} do not decode to what was encoded; "
                                       "this is a fault of compand or of this machine: please report it")
            elif digest:
                rows = np.ascontiguousarray(_as_dtype(y, dtype_name(x))).reshape(-1).view(np.uint8)
            if digest:
                digest.update(rows.data)
            at += block.rows
            if progress:
                progress(at, form.n)
            yield block

    def _add(self, name, codec, shape, dtype, rows, blocks, kind, attrs, digest) -> None:
        dtype_of(dtype)
        start = self._chunks.mark()
        rows = max(1, min(rows, codec.form(shape, dtype).n))
        plan = self._plan(codec, shape, dtype, rows)
        index = self._codec(codec)
        mark = self._chunks.mark()
        try:
            parts = self._write_blocks(plan, blocks)
            attrs = js.plain(dict(attrs or {}), "attrs", js.DEPTH - 3)
        except BaseException:
            self._forget(index, start)
            raise
        parts = self._shared(index, shape, dtype, rows, parts, mark)
        entry: dict[str, Any] = {"kind": kind} if kind != "array" else {}
        entry |= {"shape": list(shape), "dtype": dtype, "codec": index, "rows": rows, **parts}
        if digest:
            entry["sha256"] = digest.hexdigest()
        if attrs:
            entry["attrs"] = attrs
        self._entries[name] = entry

    def _plan(self, codec: Codec, shape: tuple[int, ...], dtype: str, rows: int) -> Plan:
        """The plan of an array; those of many small arrays of one form, of a codec without state, are one."""
        key = (codec.spec, shape, dtype, rows)
        if codec.state() or (plan := self._plans.get(key)) is None:
            plan = Plan(codec, shape, dtype, rows, TRUSTED)
            if not codec.state() and len(self._plans) < PLANS:
                self._plans[key] = plan
        return plan

    def _forget(self, codec: int, mark: tuple[int, int]) -> None:
        """Take back what a failed write has added."""
        if all(e["codec"] != codec for e in self._entries.values()):
            del self._codecs[codec]
            self._known_codecs = {k: i for k, i in self._known_codecs.items() if i != codec}
        self._chunks.back(mark)

    def _write_blocks(self, plan: Plan, blocks) -> dict[str, Any]:
        """Stream blocks to chunks: parts of known size into room reserved for all blocks, others one chunk a block."""
        parts: dict[str, list[int]] = {}
        spans = {path: plan.span(path) for path in plan.parts}
        for path, span in spans.items():
            sizes = [plan.chunk_bytes(path, span, i) for i in range(-(-plan.count // span))]
            parts[path] = [self._chunks.reserve(size) for size in sizes if size is not None]
        reserved = {path for path, chunks in parts.items() if chunks}
        count = 0
        for count, block in enumerate(blocks, 1):
            if block.rows != plan.block_rows(count - 1):
                raise InputError(f"block {count - 1} has {block.rows} rows, {plan.block_rows(count - 1)} belong there")
            for path, chunks in parts.items():
                data, part = block.parts[path], plan.part(path, count - 1)
                name, shape = stored_form(part)
                if data.dtype != dtype_of(name) or (data.shape != shape and shape != (-1,)):
                    raise InputError(f"part {path} is {data.dtype}{list(data.shape)}, {name}{list(shape)} belongs there")
                if path in reserved:
                    self._chunks.extend(chunks[(count - 1) // spans[path]], data)
                else:
                    chunks.append(self._chunks.add(data))
        if count != plan.count:
            raise InputError(f"{count} blocks where {plan.count} belong")
        spans = {path: span for path, span in spans.items() if span > 1}
        return {"parts": parts, "spans": spans} if spans else {"parts": parts}

    def _shared(self, codec, shape, dtype, rows, parts, mark) -> dict[str, Any]:
        """The parts of an earlier entry, if it holds the same bytes; the new copy is then dropped."""
        mine = [c for chunks in parts["parts"].values() for c in chunks]
        key = (codec, shape, dtype, rows, *(self._chunks.sums[c] for c in mine), *(self._chunks.sizes[c] for c in mine))
        for twin in self._twins.get(key, []):
            other = [c for chunks in twin["parts"].values() for c in chunks]
            if mine and all(self._chunks.same(a, b) for a, b in zip(mine, other, strict=True)):
                self._chunks.back(mark)
                return twin
        self._twins.setdefault(key, []).append(parts)
        return parts

    def _codec(self, codec: Codec) -> int:
        """The number of a codec in the file's table; the same codec is stored once."""
        if (key := _codec_key(codec)) in self._known_codecs:
            return self._known_codecs[key]
        record: dict[str, Any] = {"spec": codec.spec}
        if state := codec.state():
            record["state"] = {path: {"dtype": str(a.dtype), "shape": list(a.shape), "chunk": self._chunks.add(a)}
                               for path, a in state.items()}
        if packages := _packages(codec.stage):
            record["packages"] = packages
        self._codecs.append(record)
        self._known_codecs[key] = len(self._codecs) - 1
        return len(self._codecs) - 1

    # -- the end -----------------------------------------------------------------------------------------------------------
    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind, *rest) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def close(self) -> None:
        """Write the index and put the file in its place."""
        try:
            self._chunks.finish({"meta": self._meta, "codecs": self._codecs, "entries": self._entries, **self._rest})
            if self._target:
                self._target.commit()
        except BaseException:
            self.abort()
            raise
        self._target = None

    def abort(self) -> None:
        """Drop what was written; the target stays as it was."""
        if self._target:
            self._target.abort()
            self._target = None


def _decoded(codec: Codec, block: Block, form, scalar: bool) -> np.ndarray:
    """The block as decoded by the scalar kernels, found equal to what the fast kernels give."""
    from . import _native

    fast = None if codec.stage.raw and scalar else codec.decode_block(block, form)
    if not scalar:
        return np.asarray(fast)
    level = _native.isa()
    try:
        _native.set_isa("scalar")
        y = codec.decode_block(block, form)
    finally:
        _native.set_isa(level)
    if fast is not None and not (np.array_equal(y, fast) if codec.stage.exact else np.allclose(y, fast, rtol=1e-4, atol=1e-6)):
        raise CorruptError(f"{codec.spec} decodes differently with {level} and scalar kernels; please report it")
    return y


def _codec_key(codec: Codec) -> tuple:
    state = tuple((path, str(a.dtype), a.shape, hashlib.sha256(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data).digest())
                  for path, a in sorted(codec.state().items()))
    return codec.spec, state


def _packages(stage) -> dict[str, str]:
    """Stages from other packages, and which: so that a reader without them can say what is missing."""
    from importlib import metadata

    found = {}
    for s in leaves(stage):
        package = type(s).__module__.partition(".")[0]
        if package != "compand" and package != "__main__":
            try:
                found[s.name] = f"{package} {metadata.version(package)}"
            except metadata.PackageNotFoundError:
                found[s.name] = package
    return found
