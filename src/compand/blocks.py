"""How the codes of an array lie in blocks and chunks: worked out from codec, shape and dtype, checked before any allocation."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .codec import Codec
from .codes import stored_array, stored_form
from .dtypes import dtype as dtype_of
from .errors import CompandError, CorruptError, LimitError
from .expression import Chain, Sum
from .limits import Limits
from .stage import Form, Part, Stage
from .symbols import id_dtype

MIN_VALUES = 4096      # values of every block but the last: bounds the number of blocks
MIN_CHUNK = 64 << 10   # bytes a chunk of several small blocks aims at
WORK_FLOOR = 4096      # bytes added to a coded part when its expansion is judged


class guarded:
    """Turn whatever a stage raises over hostile input into a `CompandError`; ``values``: arithmetic on them warns of nothing."""

    __slots__ = ("quiet", "what", "where")

    def __init__(self, what: str, values: bool = True, **where):
        self.what, self.where = what, where
        self.quiet = np.errstate(all="ignore") if values else None

    def __enter__(self) -> None:
        if self.quiet:
            self.quiet.__enter__()

    def __exit__(self, kind, e, trace) -> None:
        if self.quiet:
            self.quiet.__exit__(kind, e, trace)
        if isinstance(e, MemoryError):
            raise LimitError(f"{self.what}: this machine has not the memory for it") from None
        if isinstance(e, Exception) and not isinstance(e, (CompandError, OSError)):  # met what no encoder makes
            raise CorruptError(f"{self.what}: {type(e).__name__}: {str(e)[:200]}", **self.where) from e


def check_form(stage: Stage, form: Form, limits: Limits, work: dict[tuple[str, int], int]) -> None:
    """Raise `LimitError` if decoding one block needs an array over the limit, at any stage of the expression.

    What it takes to set stages up is noted in ``work``.
    """
    if type(form.n) is not int or type(form.d) is not int or form.n < 0 or form.d < 0:
        raise CorruptError(f"{stage} cannot work on an array of {form.n} x {form.d}")
    size = form.n * form.d * max(4, dtype_of(form.dtype).itemsize)
    if size > limits.allocation:
        limits.check("allocation", size, f"{stage}: a block of {form.n} x {form.d}")
    if isinstance(stage, Chain):
        for t in stage.transforms:
            form = t.out(form)
            check_form(t, form, limits, work)
        if stage.quantizer is not None:
            check_form(stage.quantizer, form, limits, work)
    elif isinstance(stage, Sum):
        for term in stage.items:
            check_form(term, form, limits, work)
    else:
        if effort := stage.setup(form):
            work[str(stage), form.d] = effort
        for path, part in stage.state(form).items():
            check_part(stage, path, part, limits)


def leaves(stage: Stage) -> Iterator[Stage]:
    """The stages of an expression, in order."""
    items = getattr(stage, "items", None)
    if items is None:
        yield stage
    for s in items or ():
        yield from leaves(s)


def check_part(stage: Stage, path: str, part: Part, limits: Limits) -> None:
    """Raise `LimitError` if an array of this part, packed or unpacked, is over the limit."""
    if not all(type(v) is int and (v >= 0 or part.shape == (-1,)) for v in part.shape):
        raise CorruptError(f"{stage} {path} cannot have the shape {part.shape}")
    if part.k is not None and not 1 <= part.k <= 1 << 32:
        raise CorruptError(f"{stage} {path} cannot have {part.k} symbols")
    if part.shape != (-1,):
        item = dtype_of(part.dtype or "uint8").itemsize if part.k is None else id_dtype(part.k).itemsize
        if (size := math.prod(part.shape) * item) > limits.allocation:
            limits.check("allocation", size, f"{stage} {path}")


class Plan:
    """The blocks of an array and the parts of each: what a file must hold for this codec, shape and dtype.

    Raises a `CompandError` if the shapes and the codec do not fit each other, or ask for more than the limits allow.
    """

    def __init__(self, codec: Codec, shape: tuple[int, ...], dtype: str, rows: int, limits: Limits):
        self.codec, self.shape, self.rows, self.limits = codec, shape, rows, limits
        size = math.prod(shape) * dtype_of(dtype).itemsize
        limits.check("decoded_bytes", size, "decoded array")
        self.form = form = codec.form(shape, dtype)
        if rows > max(form.n, 1):
            raise CorruptError(f"blocks of {rows} rows, where there are {form.n}")
        empty = form.n == 0 or form.d == 0
        self.count = 0 if empty else -(-form.n // rows)
        self.layouts: dict[int, dict[str, Part]] = {}
        self.work: dict[tuple[str, int], int] = {}
        self.effort = self.count * sum(s.effort for s in leaves(codec.stage))  # of decoding all of it
        if not empty:
            if self.count > 1 and rows * form.d < MIN_VALUES:
                raise CorruptError(f"blocks of {rows} x {form.d} values are too small; {MIN_VALUES} values is the least")
            with guarded("this shape cannot be coded so"):
                for n in {min(rows, form.n), form.n - (self.count - 1) * rows}:
                    check_form(codec.stage, form._replace(n=n), limits, self.work)
                    self.layouts[n] = codec.layout(form._replace(n=n))
                    for path, part in self.layouts[n].items():
                        check_part(codec.stage, path, part, limits)
        self.parts = next(iter(self.layouts.values()), {})
        if any(layout.keys() != self.parts.keys() for layout in self.layouts.values()):
            raise CorruptError(f"{codec.spec}: the parts of {dtype}{list(shape)} differ from block to block")
        self.state_matches = False  # set by the first array that was held against the codec's state
        self._stored = {(n, path): (*stored_form(part), _stored_bytes(part))
                        for n, layout in self.layouts.items() for path, part in layout.items()}
        self.alone = [(path, self.stored(path, 0)) for path in self.parts] if self.count == 1 else []  # of the only block

    def block_rows(self, block: int) -> int:
        """Rows of a block."""
        return min(self.rows, self.form.n - block * self.rows)

    def part(self, path: str, block: int) -> Part:
        """The part of a block."""
        return self.layouts[self.block_rows(block)][path]

    def stored(self, path: str, block: int) -> int | None:
        """Bytes of a part of a block as stored; None where they depend on the data."""
        return self._stored[self.block_rows(block), path][2]

    def view(self, path: str, block: int, data: np.ndarray) -> np.ndarray:
        """A part of a block as its codec takes it: a view of the bytes of its chunk, which has the right size."""
        name, shape, _ = self._stored[self.block_rows(block), path]
        if name == "uint8":
            return data if shape == (-1,) else data.reshape(shape)
        return stored_array(data, self.part(path, block), self.limits)

    def span(self, path: str) -> int:
        """How many blocks a new file puts into one chunk of this part."""
        size = self.stored(path, 0) if self.count else None
        if size is None or self.count <= 1:
            return 1
        if size == 0:
            return self.count
        step = 64 // math.gcd(size, 64)  # whole multiples of 64 bytes lie without a gap, so that a map shows them as one array
        return min(-(-MIN_CHUNK // size // step) * step if size < MIN_CHUNK else step, self.count)

    def chunk_bytes(self, path: str, span: int, i: int) -> int | None:
        """Bytes of the i-th chunk of a part, None where they depend on the data."""
        first, last = i * span, min((i + 1) * span, self.count) - 1
        size, tail = self.stored(path, first), self.stored(path, last)
        return None if size is None or tail is None else (last - first) * size + tail

    def check_work(self, path: str, block: int, size: int) -> None:
        """Raise `LimitError` if so few coded bytes ask for so many symbols that it must be a bomb."""
        part = self.part(path, block)
        if part.k is not None and part.coder:
            self.limits.check("expansion", math.prod(part.shape) // (size + WORK_FLOOR), f"{path}: symbols for each coded byte")


def _stored_bytes(part: Part) -> int | None:
    name, shape = stored_form(part)
    return None if shape == (-1,) else math.prod(shape) * dtype_of(name).itemsize


