"""Codes as a column of Arrow and Parquet: the extension type ``compand.codes``. Needs pyarrow (the extra `arrow`)."""

from __future__ import annotations

import numpy as np

try:
    import pyarrow as pa
except ImportError:
    raise ImportError("columns of codes need pyarrow: pip install 'compand[arrow]'") from None

from ..codes import Codes
from ..errors import InputError
from .rows import RowFormat

NAME = "compand.codes"
INSIDE = 16 << 20  # bytes of a codec that are kept in the type itself


class CodesType(pa.ExtensionType):
    """One string of bytes a row, its codec in the type: readers without compand see fixed-size binary.

    The codec is a .cpd file of no rows (base of `RowFormat.to_bytes`); it is read, with every check of `compand.open`, when ``rows`` is
    first asked for, so a table with a damaged or hostile one still opens.
    """

    def __init__(self, storage: pa.DataType, data: bytes):
        self._data = data
        super().__init__(storage, NAME)

    def __arrow_ext_serialize__(self) -> bytes:
        return self._data

    @classmethod
    def __arrow_ext_deserialize__(cls, storage, serialized):
        return cls(storage, serialized)

    def __reduce__(self):
        return type(self), (self.storage_type, self._data)

    @property
    def rows(self) -> RowFormat:
        """The codec and shape of the rows. Raises a `CompandError` if the type's bytes are no codec, or of another width."""
        rows = RowFormat.from_bytes(self._data)
        if not pa.types.is_fixed_size_binary(self.storage_type) or self.storage_type.byte_width != rows.nbytes:
            raise InputError(f"the column holds {self.storage_type}; {rows.codec.spec} has rows of {rows.nbytes} bytes")
        return rows


try:
    pa.register_extension_type(CodesType(pa.binary(1), b""))
except pa.ArrowKeyError:  # the module was loaded twice
    pass


def to_arrow(codes: Codes, rows: RowFormat | None = None) -> pa.ExtensionArray:
    """Codes as an Arrow array of the type `CodesType`; ``rows`` if at hand saves describing them again.

    Raises `InputError` where rows have no fixed size (entropy coders), or the codec takes more than 16 MiB: keep such a codec in a
    file beside the table (`RowFormat.to_bytes`) and its rows as plain binary.
    """
    rows = rows or RowFormat(codes.codec, codes.shape[1:], codes.dtype)
    data = rows.to_bytes()
    if len(data) > INSIDE:
        raise InputError(f"the codec takes {len(data):,} bytes, more than {INSIDE:,}; keep it in a file beside the table")
    packed = rows.pack(codes)
    storage = pa.FixedSizeBinaryArray.from_buffers(pa.binary(rows.nbytes), len(packed), [None, pa.py_buffer(packed)])
    return pa.ExtensionArray.from_storage(CodesType(storage.type, data), storage)


def from_arrow(column: pa.Array | pa.ChunkedArray, rows: RowFormat | None = None) -> Codes:
    """An Arrow column as `Codes`, for `compand.search` and `Codec.decode`.

    ``rows`` is needed for plain binary columns, whose codec is kept elsewhere. Raises `InputError` for missing values and for columns of
    another type, a `CompandError` for damaged codecs and widths.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):  # no chunks at all
            column = pa.array([], column.type) if not isinstance(column.type, pa.ExtensionType) else \
                pa.ExtensionArray.from_storage(column.type, pa.array([], column.type.storage_type))
    if isinstance(column.type, CodesType):
        rows = rows or column.type.rows
        column = column.storage
    if rows is None:
        raise InputError(f"a column of {column.type} does not say its codec; give rows, or a column of type {NAME}")
    if column.null_count:
        raise InputError(f"{column.null_count:,} rows of the column have no codes; drop them first")
    kind = column.type
    if not pa.types.is_fixed_size_binary(kind):
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise InputError(f"a column of {kind} holds no codes; they are fixed-size binary, or binary")
        return rows.codes(v.as_buffer() for v in column)
    if kind.byte_width != rows.nbytes:
        raise InputError(f"the column has {kind.byte_width} bytes a row; {rows.codec.spec} has {rows.nbytes}")
    buffer, n = column.buffers()[1], len(column)
    flat = np.frombuffer(buffer, np.uint8) if n else np.zeros(0, np.uint8)
    at = column.offset * rows.nbytes
    return rows.unpack(flat[at:at + n * rows.nbytes].reshape(n, rows.nbytes))
