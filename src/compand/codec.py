"""The codec: an expression of stages with what it was fitted to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from . import _native
from .array import Rows, array_namespace, cast, dtype_name, is_numpy, to_numpy
from .array import like as as_like
from .codes import Block, Codes, pack_part, unpack_part
from .dtypes import dtype as dtype_of
from .dtypes import is_float
from .errors import CompandError, CorruptError, FitError, InputError
from .expression import encode, fused, progressive, used, whole
from .stage import Form, Part, Stage

BLOCK_VALUES = 1 << 20  # values of a block of rows; a block is coded on its own
SAMPLE_ROWS = 1 << 16   # rows a fit looks at by default


class Codec:
    """Compress arrays with an expression of stages.

    Parameters
    ----------
    spec : str or Stage
        ``"hadamard,int:4:group=64"``, or the same built in Python: ``Hadamard() | Int(4, group=64)``.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((1000, 64), dtype=np.float32)
    >>> codec = Codec("hadamard,int:4:group=64").fit(x)
    >>> codes = codec.encode(x)
    >>> x_hat = codec.decode(codes)
    >>> bool(np.abs(x - x_hat).max() < 0.6), codes.nbytes
    (True, 34000)
    """

    def __init__(self, spec: str | Stage):
        if isinstance(spec, str):
            from .spec import parse

            spec = parse(spec)
        if spec.kind != "quantizer":
            raise InputError(f"{spec} does not give codes; end it with a quantizer, as '{spec},int:8'")
        self.stage = spec
        self._fused = fused(spec)
        self._layouts: dict[Form, dict[str, Part]] = {}

    @property
    def spec(self) -> str:
        """The canonical spec string."""
        return str(self.stage)

    def layout(self, form: Form) -> dict[str, Part]:
        """The parts of the codes of such rows, as `Stage.layout` declares them; the last few are remembered."""
        if (found := self._layouts.get(form)) is None:
            if len(self._layouts) > 8:
                self._layouts.clear()
            self._layouts[form] = found = self.stage.layout(form)
        return found

    @classmethod
    def from_faiss(cls, source) -> Codec:
        """The codec of a faiss factory string (not fitted), or of a trained faiss index (with what it has learnt).

        >>> Codec.from_faiss("OPQ48_192,PQ48x4fs")
        Codec('opq:48:k=192:bits=4,pq:48x4')
        """
        if isinstance(source, str):
            from .integration.faiss import spec_of

            return cls(spec_of(source))
        from .integration.faiss_index import codec_of

        return codec_of(source)

    def to_faiss(self, d: int | None = None) -> str:
        """The faiss factory string of this spec, ``d`` being the width of vectors. Raises `UnsupportedError` where faiss has none."""
        from .integration.faiss import factory_of

        return factory_of(self, d)

    def state(self) -> dict[str, np.ndarray]:
        """The fitted arrays by path."""
        return self.stage.arrays()

    @property
    def nbytes(self) -> int:
        """Bytes of the fitted arrays."""
        return sum(a.nbytes for a in self.state().values())

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Codec) and self.stage == other.stage

    def __hash__(self) -> int:
        return hash(self.spec)

    def __repr__(self) -> str:
        return f"Codec({self.spec!r})"

    # -- arrays as rows ------------------------------------------------------------------------------------------------
    def form(self, shape: tuple[int, ...], dtype: str) -> Form:
        """How an array looks to the stages. One axis is one row for lossy stages, one column for lossless ones."""
        if len(shape) < 2:
            flat = shape[0] if shape else 1
            shape = (flat, 1) if self.stage.raw else (1, flat)
        flows = dtype if self.stage.raw else "float64" if dtype == "float64" else "float32"
        d = 1
        for v in shape[1:]:
            d *= v
        return Form(shape[0], d, flows)

    def _rows(self, x) -> tuple[Any, Form]:
        if not hasattr(x, "shape"):
            x = np.asarray(x)
        if is_numpy(x) and x.dtype.kind not in "biufcV":
            raise InputError(f"cannot compress dtype {x.dtype}; numbers only")
        form = self.form(tuple(x.shape), dtype_name(x))
        if isinstance(x, Rows):
            return x, form
        if self.stage.raw:
            x = to_numpy(x)
        y = (x if is_numpy(x) else array_namespace(x)).reshape(*(() if is_numpy(x) else (x,)), (form.n, form.d))
        return y, form

    def _flow(self, y, form: Form, first_row: int = 0):
        """Rows in the dtype that flows into the stages, checked finite."""
        if self.stage.raw:
            return np.ascontiguousarray(y)
        y = cast(y, form.dtype)
        xp = array_namespace(y)
        if not bool(xp.all(xp.isfinite(y))):
            bad = xp.logical_not(xp.all(xp.isfinite(y), axis=1))
            row = first_row + int(np.flatnonzero(to_numpy(bad))[0])
            raise InputError(f"row {row} has NaN or infinite values, which {self.spec} cannot code; "
                             "clean them, or compress without loss (planes,rans)")
        return np.ascontiguousarray(y) if is_numpy(y) else y

    def block_rows(self, form: Form) -> int:
        """Rows of a block: about a million values, a multiple of 64 rows where there are as many; other numbers if the stage says so."""
        if whole(self.stage):
            return max(1, form.n)
        rows = self.stage.most_rows if self.stage.fills else min(max(1, BLOCK_VALUES // max(form.d, 1)), self.stage.most_rows)
        return rows // 64 * 64 if rows >= 64 else rows

    # -- fit, encode, decode -------------------------------------------------------------------------------------------
    def fit(self, x, *, weight=None, queries=None, sample: int | None = SAMPLE_ROWS) -> Codec:
        """A codec fitted to x (n, ...), looking at no more than ``sample`` evenly spaced rows (None: all).

        ``weight`` is the importance of values: non-negative, (n, d), (n, 1) or (1, d).
        ``queries`` (q, d) are examples of what rows will be searched with, for stages that fit to the error of inner products with
        them (``klt`` at the start of the spec or of a term); without them the rows themselves stand in.
        Raises `FitError` if there are too few rows, `InputError` for NaN or infinite values.
        """
        y, form = self._rows(x)
        if queries is not None:
            queries = self._flow(*self._rows(queries))
            if queries.shape[1] != form.d or not len(queries):
                raise InputError(f"queries must be (q, {form.d}) like the rows, with q >= 1, not {list(queries.shape)}")
            if not self.stage.queried:
                raise InputError(f"{self.spec} has no stage that fits to queries; begin it with klt")
        if not self.stage.state(form):
            return self
        if form.n == 0 or form.d == 0:
            raise FitError(f"{self.spec}: cannot fit to an empty array {list(x.shape)}")
        step = 1 if sample is None else -(-form.n // sample)
        if weight is not None:
            weight = self._weight(weight, y, form)
            weight = weight[::step] if weight.shape[0] == form.n > 1 else weight
        asked = {} if queries is None else {"queries": queries}
        fitted = self.stage.fit(self._flow(y[::step], form), weight=weight, **asked)
        return Codec(fitted)

    def encode_blocks(self, x, weight=None, beam: int = 1) -> Iterator[Block]:
        """The blocks of x's codes one by one, for streaming to a file."""
        y, form = self._rows(x)
        if form.n == 0 or form.d == 0:
            return
        if weight is not None:
            weight = self._weight(weight, y, form)
        self.stage.require(form)
        step = self.block_rows(form)
        some = ((y[at:at + step], at, None if weight is None else weight if len(weight) == 1 else weight[at:at + step])
                for at in range(0, form.n, step))
        threads = _native.threads()
        if self._fused or threads == 1 or -(-form.n // step) < 2 * threads or not (is_numpy(y) or isinstance(y, Rows)):
            yield from (self._encode_block(*one, form, beam) for one in some)
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(threads) as pool:  # what a stage does on one thread, as coding its symbols, others do for the next rows
            waiting = deque()
            try:
                for one in some:
                    waiting.append(pool.submit(self._encode_block, *one, form, beam))
                    if len(waiting) > threads:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _encode_block(self, rows, at: int, weight, form: Form, beam: int) -> Block:
        """The codes of rows that begin at row ``at`` of an array of this form."""
        rows = self._flow(rows, form, at)
        if self._fused and beam == 1:
            return Block(rows.shape[0], {f"0.{name}": a for name, a in self._fused.encode_stored(rows).items()})
        layout = self.layout(form._replace(n=rows.shape[0]))
        parts = encode(self.stage, rows, weight, beam)
        if parts.keys() != layout.keys():
            raise TypeError(f"{self.spec}: encode gave parts {sorted(parts)}, layout declares {sorted(layout)}")
        return Block(rows.shape[0], {path: pack_part(to_numpy(parts[path]), p) for path, p in layout.items()})

    @staticmethod
    def _weight(weight, y, form: Form):
        """The importance of values in the library and dtype of the rows y, of two axes."""
        xp = array_namespace(y)
        weight = cast(weight if hasattr(weight, "shape") else xp.asarray(weight), form.dtype)
        return weight if weight.ndim == 2 else xp.reshape(weight, (-1, 1) if weight.shape[0] == form.n else (1, -1))

    def encode(self, x, *, weight=None, beam: int = 1) -> Codes:
        """The codes of x, any shape, any real dtype, of NumPy or another array-API library.

        ``weight``, as in `fit`, is for scales that are stored with rows (int, float, table, sign, ternary, lattice, pyramid); other
        stages do without. ``beam`` above 1 keeps so many beginnings of a sum of ``vq`` or of ``pq`` after each term: less error in
        the same bytes, about ``beam`` times the work.

        Raises `FitError` if the codec needs fitting first, `InputError` for NaN or infinite values, or a beam without such a sum.
        """
        shape = tuple(getattr(x, "shape", np.shape(x)))
        dtype = dtype_name(x) if hasattr(x, "dtype") else str(np.asarray(x).dtype)
        if not 1 <= beam <= 1024:
            raise InputError(f"beam must be from 1 to 1024, not {beam}")
        return Codes(self, shape, dtype, tuple(self.encode_blocks(x, weight, beam)))

    def decode_block(self, block: Block, form: Form, like_array=None, terms: int | None = None, out: np.ndarray | None = None):
        """The rows of one block, as they flow into the stages (float32 or float64, or the source dtype if lossless).

        ``out``, contiguous rows of that dtype, may be filled and returned; not every codec does.
        """
        if terms is not None and (type(terms) is not int or terms < 1):
            raise InputError(f"terms={terms!r}: how many terms of a sum to decode, 1 or more")
        form = form if form.n == block.rows else form._replace(n=block.rows)
        layout = self.layout(form)
        needed = layout.keys() if terms is None else used(self.stage, layout, terms)
        if not needed <= block.parts.keys() <= layout.keys():
            raise CorruptError(f"{self.spec}: parts {sorted(block.parts)} where {sorted(layout)} belong")
        try:
            if self._fused and like_array is None:
                out = np.empty((form.n, form.d), dtype_of(form.dtype)) if out is None else out
                self._fused.decode_stored({path[2:]: a for path, a in block.parts.items()}, form, out)
                return out
            parts = {path: unpack_part(block.parts[path], p) for path, p in layout.items() if path in needed}
            if like_array is not None and not self.stage.raw:
                parts = {path: as_like(a, like_array) for path, a in parts.items()}
            decode = self.stage.decode
            y = decode(parts, form, terms) if progressive(self.stage) else decode(parts, form)
        except CompandError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as e:  # a stage met parts no encoder makes
            raise CorruptError(f"{self.spec} cannot decode these parts: {type(e).__name__}: {e}") from e
        if tuple(y.shape) != (form.n, form.d):
            raise CorruptError(f"{self.spec} decoded to {list(y.shape)} instead of {[form.n, form.d]}")
        return y

    def decode(self, codes: Codes, *, rows: slice | None = None, terms: int | None = None, like=None):
        """The reconstruction x_hat, in the source's shape and dtype.

        ``rows`` decodes only the blocks that hold those rows of the first axis. ``terms`` stops a sum after so many terms.
        ``like`` is an array whose library and device the result shall have (default NumPy).
        """
        form, n = codes.form, codes.shape[0] if codes.shape else 1
        start, stop, step = (rows or slice(None)).indices(n)
        if step < 1:
            raise InputError(f"rows={rows}: the step must be positive")
        lossy_line = len(codes.shape) < 2 and not self.stage.raw  # one row holds all values: decode it whole, then cut
        first, last = (0, form.n) if lossy_line else (start, max(start, stop))
        x = self.decode_rows(codes.blocks, form, codes.dtype, first, last, like, terms)
        x = x.reshape((-1,) if lossy_line else (last - first, *codes.shape[1:]))
        x = x[start:stop:step] if lossy_line else x[::step] if step > 1 else x
        x = x if codes.shape else x.reshape(())
        return x if like is None else as_like(x, like)

    def decode_rows(self, blocks: Iterable[Block], form: Form, dtype: str, first: int, last: int, like=None, terms: int | None = None,
                    out: np.ndarray | None = None):
        """Rows first to last, counted from the first of these blocks, of ``dtype``: (last - first, d). Blocks are decoded one by one.

        ``out`` is what to fill and return, if it shall not be a new array.
        """
        at, done, pieces, whole = 0, 0, [], out
        for block in blocks:
            lo, hi = max(first - at, 0), min(last - at, block.rows)
            at += block.rows
            if lo >= hi:
                continue
            target = None
            if whole is not None or (like is None and hi - lo < last - first):  # one result, so that memory is touched once
                whole = np.empty((last - first, form.d), dtype_of(dtype)) if whole is None else whole
                target = whole[done:done + hi - lo]
            direct = target if self._fused and hi - lo == block.rows else None
            y = self.decode_block(block, form, like, terms, direct)[lo:hi]
            y = _as_dtype(y, dtype) if is_numpy(y) else cast(y, dtype)
            if target is not None:
                if direct is None:
                    bits(target)[...] = bits(y)
                done += hi - lo
            else:
                pieces.append(y)
        if not pieces:
            return np.zeros((0, form.d), dtype_of(dtype)) if whole is None else whole[:done]
        return pieces[0] if len(pieces) == 1 else array_namespace(pieces[0]).concat(pieces)

    def compress(self, x) -> bytes:
        """x as the bytes of a .cpd file; fits first if the codec needs it and is not fitted."""
        _, form = self._rows(x)
        codec = self.fit(x) if self.stage.state(form) and not self.state() else self
        return codec.encode(x).to_bytes()

    @staticmethod
    def decompress(data: bytes):
        """The array in the bytes that `compress` gave. Raises a `CompandError` for any other bytes."""
        from .file import loads

        return loads(data)


def _as_dtype(y: np.ndarray, name: str) -> np.ndarray:
    """Decoded rows in the source's dtype; integers are rounded and clipped."""
    target = dtype_of(name)
    if y.dtype == target or is_float(name):
        return y.astype(target, copy=False)
    if name == "bool":
        return y >= 0.5
    info = np.iinfo(target)
    return np.clip(np.rint(y.astype(np.float64)), info.min, info.max).astype(target)


def bits(x: np.ndarray) -> np.ndarray:
    """Small floats as integers: NumPy copies its own dtypes many times faster than added ones."""
    return x.view(f"u{x.dtype.itemsize}") if x.dtype.kind == "V" else x
