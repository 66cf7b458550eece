"""Codes as one string of bytes a row, of fixed length: what a column of a table, a database or a scikit-learn matrix can hold."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ..codec import Codec
from ..codes import Block, Codes, stored_array, stored_form
from ..dtypes import dtype as dtype_of
from ..errors import CorruptError, FitError, FormatError, InputError
from ..file import open as open_file
from ..limits import DEFAULT, Limits


@dataclass(frozen=True)
class RowFormat:
    """How rows of one shape and dtype become strings of ``nbytes`` bytes under a fitted codec, and back.

    Parameters
    ----------
    codec : Codec
        Fitted. Raises `FitError` if not, `InputError` if its rows have no fixed size (entropy-coded, or sharing parts).
    shape : tuple of int
        Of one row; (d,) for vectors.
    dtype : str
        Of what is decoded.

    A row is its parts one after the other, in the order of the codec's layout, each as FORMAT.md stores it.

    >>> x = np.random.default_rng(0).standard_normal((1000, 16), dtype=np.float32)
    >>> rows = RowFormat(Codec("klt,grouped:8").fit(x), (16,))
    >>> data = rows.pack(rows.codec.encode(x))
    >>> data.shape, rows.unpack(data[:3]).shape
    ((1000, 8), (3, 16))
    """

    codec: Codec
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self):
        if not self.shape:
            raise InputError("a row must have at least one axis")
        one, two = (self.codec.layout(self._form(n)) for n in (1, 2))
        for path, part in one.items():
            shape, double = stored_form(part)[1], stored_form(two[path])[1]
            if -1 in shape or (2 * shape[0], *shape[1:]) != double:
                raise InputError(f"{self.codec.spec}: rows of its codes have no fixed size (part {path}); "
                                 + ("leave the entropy coder out" if part.coder else "choose a spec without such parts"))
        self.codec.stage.require(self._form(1))

    def _form(self, n: int):
        return self.codec.form((n, *self.shape), self.dtype)

    @property
    def _widths(self) -> dict[str, int]:
        """Bytes of each part in one row."""
        forms = {path: stored_form(part) for path, part in self.codec.layout(self._form(1)).items()}
        return {path: dtype_of(name).itemsize * prod(shape) for path, (name, shape) in forms.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of a row."""
        return sum(self._widths.values())

    def pack(self, codes: Codes) -> np.ndarray:
        """Codes of n rows → uint8 (n, nbytes)."""
        if codes.shape[1:] != self.shape or codes.dtype != self.dtype or codes.codec.spec != self.codec.spec:
            raise InputError(f"{codes} are not rows of {self.dtype}{list(self.shape)} under {self.codec.spec}")
        n = codes.shape[0]
        parts = [np.ascontiguousarray(codes.part(path)) for path in self._widths] if codes.blocks else []
        flat = [p.view(np.uint8).reshape(n, -1) for p in parts] if n else []
        return np.concatenate(flat, axis=1) if flat else np.zeros((n, self.nbytes), np.uint8)

    def unpack(self, rows: np.ndarray, limits: Limits = DEFAULT) -> Codes:
        """uint8 (n, nbytes) → codes. Raises `CorruptError` for another width; wrong symbols are found when they are decoded."""
        if rows.ndim != 2 or rows.dtype != np.uint8 or rows.shape[1] != self.nbytes:
            raise CorruptError(f"{self.codec.spec} has rows of {self.nbytes} bytes, these are {rows.dtype}{list(rows.shape)}")
        n, at, parts = rows.shape[0], 0, {}
        layout = self.codec.layout(self._form(n))
        for path, width in self._widths.items():
            data = np.ascontiguousarray(rows[:, at:at + width]).reshape(-1)
            parts[path] = stored_array(data, layout[path], limits)
            at += width
        step = self.codec.block_rows(self._form(n))
        return Codes(self.codec, (n, *self.shape), self.dtype, tuple(
            Block(min(step, n - i), {path: a[i * (len(a) // n):(i + step) * (len(a) // n)] for path, a in parts.items()})
            for i in range(0, n, step)))

    def encode(self, x) -> list[bytes]:
        """x (n, ...) as n strings of bytes, for a column of blobs."""
        x = np.asarray(x, dtype_of(self.dtype)) if not hasattr(x, "shape") or str(x.dtype) != self.dtype else x
        if tuple(x.shape[1:]) != self.shape:
            raise InputError(f"rows must be {list(self.shape)}, not {list(x.shape[1:])}")
        return self.pack(self.codec.encode(x)).reshape(-1).view(f"V{self.nbytes}").tolist()

    def codes(self, blobs) -> Codes:
        """Strings of bytes (bytes, memoryview...) → codes. Raises `CorruptError` naming the first of another length."""
        blobs = list(blobs)
        for i, blob in enumerate(blobs):
            if blob is None or len(blob) != self.nbytes:
                raise CorruptError(f"row {i} has {'no codes' if blob is None else f'{len(blob)} bytes'}; "
                                   f"{self.codec.spec} has rows of {self.nbytes} bytes")
        return self.unpack(np.frombuffer(b"".join(blobs), np.uint8).reshape(len(blobs), self.nbytes))

    def to_bytes(self) -> bytes:
        """The codec with all it has learnt, as a .cpd file of no rows."""
        return self.codec.encode(np.zeros((0, *self.shape), dtype_of(self.dtype))).to_bytes()

    @staticmethod
    def from_bytes(data: bytes, limits: Limits = DEFAULT) -> RowFormat:
        """What `to_bytes` gave. Any other bytes raise a `CompandError`."""
        with open_file(data, limits=limits) as file:
            if len(file.names) != 1 or len(file[file.names[0]].shape) < 2:
                raise FormatError("these bytes are a .cpd file, but not one codec of rows")
            entry = file[file.names[0]]
            try:
                return RowFormat(entry.codec, entry.shape[1:], entry.dtype)
            except (FitError, InputError) as e:
                raise FormatError(str(e)) from e


def vectors(codec: Codec | str, x, dtype: str = "float32") -> RowFormat:
    """The `RowFormat` of vectors like x (n, d), fitting the codec to x if it needs it."""
    codec = Codec(codec) if isinstance(codec, str) else codec
    x = np.asarray(x, dtype_of(dtype))
    if x.ndim != 2:
        raise InputError(f"vectors must be (n, d), not {list(x.shape)}")
    return RowFormat(codec if codec.state() else codec.fit(x), x.shape[1:], dtype)
