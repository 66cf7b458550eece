"""Parquet, Arrow IPC and Feather: columns that hold vectors. Needs pyarrow (the `arrow` extra)."""

from __future__ import annotations

import numpy as np

from ..errors import CompandError, CorruptError, FormatError, InputError
from ..limits import DEFAULT, Limits
from .source import Item, Mapped, Source, check_array

MAGICS = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}


def _pyarrow():
    try:
        import pyarrow
    except ImportError:
        raise InputError("Parquet and Arrow files need pyarrow: pip install 'compand[arrow]'") from None
    return pyarrow


class Arrow(Source):
    """An opened Parquet or Arrow file: each column of equally long vectors is an array (n, d).

    Raises `InputError`, listing the columns, if none holds vectors.
    """

    format, modality = "arrow", "embeddings"

    def __init__(self, path, limits: Limits = DEFAULT):
        pa = _pyarrow()
        super().__init__(path)
        self._errors = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, MemoryError, OverflowError)
        file = Mapped(path)
        head = file.bytes(0, min(file.size, 8))
        self.format = next((f for magic, f in MAGICS.items() if head.startswith(magic)), "arrow")
        self.meta["format"] = self.format
        try:
            self._open(pa, head, limits)
            self._find_vectors(pa, limits)
        except CompandError:
            raise
        except self._errors as e:
            raise FormatError(f"{path}: damaged {self.format} file: {type(e).__name__}: {str(e)[:200]}") from e

    def _open(self, pa, head: bytes, limits: Limits) -> None:
        if self.format == "parquet":
            from pyarrow import parquet

            self._table = parquet.ParquetFile(self.path, memory_map=True, page_checksum_verification=True)
            meta = self._table.metadata
            for group in range(meta.num_row_groups):
                for column in range(meta.num_columns):
                    limits.check("decoded_bytes", meta.row_group(group).column(column).total_uncompressed_size, str(self.path))
            limits.check("decoded_bytes", meta.num_rows, str(self.path))
            self.schema = self._table.schema_arrow
        else:
            from pyarrow import ipc

            self._map = pa.memory_map(str(self.path))
            self._table = ipc.open_file(self._map) if head.startswith(b"ARROW1") else ipc.open_stream(self._map)
            self.schema = self._table.schema

    def _column(self, name: str):
        """A column as one pyarrow array."""
        if self.format == "parquet":
            table = self._table.read(columns=[name])
        else:
            if not hasattr(self, "_all"):
                self._all = self._table.read_all()
                self._all.validate(full=True)
            table = self._all
        return table.column(name).combine_chunks()

    def _find_vectors(self, pa, limits: Limits) -> None:
        self._items: dict[str, tuple[tuple[int, ...], str]] = {}
        others = []
        names = self.schema.names
        if len(set(names)) != len(names):
            raise FormatError(f"{self.path}: two columns have one name")
        for field in self.schema:
            kind = field.type
            lists = pa.types.is_fixed_size_list(kind), pa.types.is_list(kind), pa.types.is_large_list(kind)
            value = kind.value_type if any(lists) else None
            if value is None or not (pa.types.is_floating(value) or pa.types.is_integer(value)):
                others.append(f"{field.name}: {kind}")
                continue
            dtype = np.dtype(value.to_pandas_dtype()).name
            column = self._column(field.name)
            if column.null_count:
                raise InputError(f"{self.path}: column {field.name!r} has {column.null_count:,} rows without a vector; "
                                 "drop them first")
            if lists[0]:
                d = kind.list_size
            else:
                lengths = np.diff(column.offsets.to_numpy())
                d = int(lengths[0]) if lengths.size else 0
                if (lengths != d).any():
                    others.append(f"{field.name}: {kind} of {int(lengths.min())} to {int(lengths.max())} values")
                    continue
            check_array((len(column), d), dtype, field.name, limits)
            self._items[field.name] = ((len(column), d), dtype)
        if not self._items:
            raise InputError(f"{self.path}: no column holds vectors of one length; columns: {'; '.join(others) or 'none'}")
        if others:
            self.notes.append(f"columns left out, not vectors: {'; '.join(others)}")

    def items(self):
        for name, (shape, dtype) in self._items.items():
            yield Item(name, shape, dtype, lambda rows=None, name=name: self._load(name, rows))

    def _load(self, name: str, rows: slice | None) -> np.ndarray:
        (n, d), dtype = self._items[name]
        try:
            column = self._column(name)
            values = column.flatten()
            if values.null_count:
                raise InputError(f"{self.path}: column {name!r} has missing values inside vectors")
            x = values.to_numpy(zero_copy_only=False)
        except CompandError:
            raise
        except self._errors as e:
            raise CorruptError(f"column {name!r}: {type(e).__name__}: {str(e)[:200]}", path=self.path) from e
        if x.size != n * d or x.dtype.name != dtype:
            raise CorruptError(f"column {name!r}: {x.size:,} {x.dtype.name} values for {[n, d]} of {dtype}", path=self.path)
        x = x.reshape(n, d)
        return x if rows is None else x[rows]

    def close(self) -> None:
        self._table.close() if hasattr(self._table, "close") else None


def write(out, arrays, kind: str = "parquet") -> None:
    """Write (name, array (n, d)) pairs as columns of vectors to an open file."""
    pa = _pyarrow()
    columns = {}
    for name, x in arrays:
        if x.ndim != 2:
            raise InputError(f"{name}: {list(x.shape)} is not rows of vectors")
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x).reshape(-1)), x.shape[1])
    table = pa.table(columns)
    if kind == "parquet":
        from pyarrow import parquet

        parquet.write_table(table, out, compression="none")
    else:
        from pyarrow import ipc

        with ipc.new_file(out, table.schema) as f:
            f.write_table(table)
