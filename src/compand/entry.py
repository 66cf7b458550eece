"""One named array of a `.cpd` file: what the index says about it, held against what its codec needs; codes and values, lazily."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .array import like as like_array
from .blocks import Plan, check_part, guarded
from .codec import Codec, bits
from .codes import Block, Codes, unpack_part
from .dtypes import dtype as dtype_of
from .errors import CorruptError, InputError
from .expression import used
from .terms import codes_of as first_terms

if TYPE_CHECKING:
    from .file import File


class Entry:
    """One named array of a file. Nothing of it is read before it is asked for.

    ``name``, ``shape`` and ``dtype`` (a name) are those of the decoded array.
    """

    def __init__(self, file: File, name: str, record: dict[str, Any]):
        self._file, self._record, self.name = file, record, name
        self.shape: tuple[int, ...] = tuple(record["shape"])
        self.dtype: str = record["dtype"]
        self._planned: Plan | None = None

    def __repr__(self) -> str:
        return f"<{self.name}: {self.spec} of {self.dtype}{list(self.shape)}, {self.nbytes:,} bytes>"

    @property
    def kind(self) -> str:
        """"array", or "file" for opaque bytes."""
        return self._record.get("kind", "array")

    @property
    def spec(self) -> str:
        """The spec of its codec, as the file has it."""
        return self._file._spec(self._record["codec"])["spec"]

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

    @property
    def _plan(self) -> Plan:
        if self._planned is None:
            self._planned = self._make_plan()
        return self._planned

    def _make_plan(self) -> Plan:
        file, record = self._file, self._record
        codec = file._codec(record["codec"])
        with guarded("the entry cannot be read", False, entry=self.name):
            plan = file._planned(record["codec"], codec, self.shape, self.dtype, record["rows"])
            file._spend(plan.work, self.name)
            file._run(plan.effort, self.name)
            self._match(plan)
            if not plan.state_matches:
                self._match_state(plan)
                plan.state_matches = True
        return plan

    def _match(self, plan: Plan) -> None:
        """Raise `CorruptError` unless the parts and chunks of the index are those the codec's layout needs."""
        have, sizes, spans = self._record["parts"], self._file._container.sizes, self._record.get("spans", {})
        if have.keys() != plan.parts.keys():
            raise self._fault(f"it has the parts {sorted(have)[:8]}, {self.spec} needs {sorted(plan.parts)}")
        if plan.count == 1 and not spans and all([len(have[path]) == 1 and need == sizes[have[path][0]] for path, need in plan.alone]):
            return
        for path in plan.parts:
            chunks, span = have[path], spans.get(path, 1)
            if span > max(plan.count, 1) or len(chunks) != -(-plan.count // span):
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

    def _span(self, path: str) -> int:
        """Blocks that one chunk of a part holds."""
        return self._record.get("spans", {}).get(path, 1)

    def _match_state(self, plan: Plan) -> None:
        state = plan.codec.state()
        need = plan.codec.stage.state(plan.form) if plan.count else {}
        for path, part in need.items():
            check_part(plan.codec.stage, path, part, self._file.limits)
            a = state.get(path)
            if a is None or str(a.dtype) != part.dtype or (a.shape != part.shape and (part.shape != (-1,) or a.ndim != 1)):
                raise self._fault(f"state {path} is {'missing' if a is None else f'{a.dtype}{list(a.shape)}'}, "
                                  f"{self.spec} needs {part.dtype}{list(part.shape)}")
        if plan.count and (extra := sorted(state.keys() - need.keys())):
            raise self._fault(f"{self.spec} has no state {extra[:8]}")

    def _fault(self, message: str, chunk: int | None = None) -> CorruptError:
        return CorruptError(message, path=self._file.path, entry=self.name, chunk=chunk)

    @property
    def block_rows(self) -> int:
        """Rows that are coded together and decode alone; the last block may have fewer."""
        return int(self._record["rows"])

    # -- sizes -------------------------------------------------------------------------------------------------------------
    def parts(self) -> dict[str, int]:
        """Stored bytes of each part of the codes."""
        sizes = self._file._container.sizes
        return {path: sum(sizes[c] for c in chunks) for path, chunks in self._record["parts"].items()}

    @property
    def nbytes(self) -> int:
        """Stored bytes of the codes and fitted arrays; what several entries share counts in equal parts."""
        return self._file._share[self.name]

    # -- codes and values --------------------------------------------------------------------------------------------------
    def _block(self, i: int, terms: int | None = None) -> Block:
        """One block as views of the file, its checksums checked; only the parts that the first ``terms`` need."""
        plan, arrays, spans = self._plan, {}, self._record.get("spans", {})
        needed = None if terms is None else used(plan.codec.stage, plan.parts, terms)
        for path, chunks in self._record["parts"].items():
            if needed is not None and path not in needed:
                continue
            span = spans.get(path, 1)
            data = self._file._container.chunk(chunks[i // span], self.name)
            if span > 1:
                first = i // span * span
                at = (i - first) * (plan.stored(path, first) or 0)
                data = data[at:at + (plan.stored(path, i) or 0)]
            arrays[path] = plan.view(path, i, data)
        return Block(plan.block_rows(i), arrays)

    def unchecked(self, path: str) -> np.ndarray:
        """The bytes of a part of which there is one chunk, damaged or not: for stages that check and conceal themselves."""
        chunks = self._record["parts"].get(path, [])
        if len(chunks) != 1:
            raise InputError(f"{self.name}: part {path!r} has {len(chunks)} chunks, not one")
        return self._file._container.unchecked(chunks[0])

    def intact(self) -> dict[str, np.ndarray]:
        """The parts of the only block that are not damaged, symbols unpacked: for stages that foretell the others.

        Raises `InputError` where there are several blocks."""
        if self._plan.count != 1:
            raise InputError(f"{self.name}: {self._plan.count} blocks, not one")
        layout, found = self._plan.layouts[self._plan.block_rows(0)], {}
        for path, chunks in self._record["parts"].items():
            try:
                with guarded("the codes cannot be read", entry=self.name):
                    data = self._file._container.chunk(chunks[0], self.name)
                    found[path] = unpack_part(self._plan.view(path, 0, data), layout[path])
            except CorruptError:
                continue
        return found

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

    def codes(self, rows: slice | None = None, *, terms: int | None = None) -> Codes:
        """The codes as views of the file, checked against their checksums; only the blocks that hold ``rows``.

        With ``terms`` those of a shorter sum, of the first terms (`compand.terms`); the others are not read.
        """
        with guarded("the codes cannot be read", entry=self.name):
            plan = self._plan
            _, first, last = self._range(rows)
            blocks = tuple(self._block(i, terms) for i in range(first, last))
            shape = self.shape
            if rows is not None and shape and (len(shape) > 1 or plan.codec.stage.raw):
                shape = (sum(b.rows for b in blocks), *shape[1:])
            found = Codes(plan.codec, shape, self.dtype, blocks)
            return found if terms is None else first_terms(found, terms)

    def array(self, rows: slice | None = None, *, like=None, terms: int | None = None, out: np.ndarray | None = None):
        """The decoded array, or some rows of it (first axis).

        ``like`` is an array whose library and device the result shall have; ``terms`` stops a sum after so many terms.
        ``out``, a contiguous NumPy array of the result's shape and dtype, is filled and returned.
        Stored without coding (``raw``), it is a read-only view of the file, without a copy.
        """
        if out is not None:
            return self._fill(out, rows, like, terms)
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
            y = self._view(first, last) if codec.spec == "raw" else None
            if y is None:
                y = self._decode(first, last, terms)
            return self._shaped(y, asked, low, rows is not None)

    def _decode(self, first: int, last: int, terms: int | None, out: np.ndarray | None = None) -> np.ndarray:
        """Blocks first to last: (rows, d), in ``out`` if given."""
        plan = self._plan
        n = min(last * plan.rows, plan.form.n) - first * plan.rows
        blocks = (self._block(i, terms) for i in range(first, last))
        return self._valid(plan.codec.decode_rows(blocks, plan.form, self.dtype, 0, n, None, terms, out))

    def _fill(self, out: np.ndarray, rows: slice | None, like, terms: int | None) -> np.ndarray:
        with guarded("the array cannot be decoded", entry=self.name):
            plan = self._plan
            asked, first, last = self._range(rows)
            shape = (len(asked), *self.shape[1:]) if self.shape else ()
            if like is not None or out.shape != shape or out.dtype != dtype_of(self.dtype) or not out.flags.c_contiguous:
                raise InputError(f"{self.name}: out must be a contiguous NumPy array of {self.dtype}{list(shape)}, without like=")
            low, high = first * plan.rows, min(last * plan.rows, plan.form.n)
            if asked and plan.count and asked == range(low, high) and plan.codec.spec != "raw":
                self._decode(first, last, terms, out.reshape(high - low, plan.form.d))
            else:
                bits(out)[...] = bits(self.array(rows, terms=terms))
            return out

    def pieces(self, room: np.ndarray) -> Iterator[np.ndarray]:
        """The decoded array in pieces of whole blocks, each valid until the next is asked for.

        Those that fit in ``room``, uint8 (bytes,), are views of it, so that little memory is touched however large the array.
        """
        with guarded("the array cannot be decoded", entry=self.name):
            plan = self._plan
        coded, dtype = plan.codec.spec != "raw", dtype_of(self.dtype)
        cut = coded and plan.count > 1 and (len(self.shape) > 1 or plan.codec.stage.raw)
        for at in range(0, plan.form.n, plan.rows) if cut else (0,):
            rows = slice(at, min(at + plan.rows, plan.form.n)) if cut else None
            shape = (rows.stop - at, *self.shape[1:]) if rows else self.shape
            size = math.prod(shape) * dtype.itemsize
            yield self.array(rows, out=room[:size].view(dtype).reshape(shape) if coded and size <= room.size else None)

    def _valid(self, y: np.ndarray) -> np.ndarray:
        if y.dtype == np.bool_ and y.size and y.view(np.uint8).max() > 1:
            raise self._fault("a bool is neither 0 nor 1")
        return y

    def _view(self, first: int, last: int) -> np.ndarray | None:
        """Blocks of uncoded values as one view of the file."""
        path, chunks = next(iter(self._record["parts"].items()), (None, None))
        if chunks is None or first == last:
            return None
        span, plan = self._span(path), self._plan
        data = self._file._container.run(chunks[first // span:-(-last // span)], self.name)
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

    def _check_decode(self, tell: Callable[[int], None]) -> None:
        """Decode block by block, telling their bytes; compare the digest."""
        digest = hashlib.sha256() if self.sha256 else None
        with guarded("the array cannot be decoded", entry=self.name):
            for i in range(self._plan.count):
                block = self._block(i)
                y = self._valid(self.codec.decode_rows((block,), self._plan.form, self.dtype, 0, block.rows))
                if digest:
                    digest.update(np.ascontiguousarray(y).reshape(-1).view(np.uint8).data)
                tell(y.nbytes)
        if digest and digest.hexdigest() != self.sha256:
            raise self._fault(f"it decodes to bytes of SHA-256 {digest.hexdigest()}, the file says {self.sha256}")
