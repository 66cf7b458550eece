"""Vectors of a shard (.npy, Parquet, Arrow) as batches of rows: no more of it is in memory than a batch, or a row group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import FormatError, InputError
from .arrow import MAGICS, _pyarrow


class Shape(NamedTuple):
    """What a shard holds."""

    n: int
    d: int
    dtype: str


class Shard:
    """One file of vectors. ``column``: which, if it has several; ``ids``: a column of integers or strings that goes with them.

    Raises `InputError` if there are no vectors (n, d) of numbers, or several and none is named; `FormatError` for other files.
    """

    def __init__(self, path, column: str | None = None, ids: str | None = None):
        self.path, self._ids = Path(path), ids
        with open(self.path, "rb") as f:
            head = f.read(8)
        if head.startswith(b"\x93NUMPY"):
            if ids is not None:
                raise InputError(f"{path}: a .npy file has no column of ids {ids!r}")
            try:
                self._npy = np.load(self.path, mmap_mode="r", allow_pickle=False)
            except (ValueError, OSError) as e:
                raise FormatError(f"{path}: {e}") from None
            if self._npy.ndim != 2 or self._npy.dtype.kind not in "fiu":
                raise InputError(f"{path}: {self._npy.dtype}{list(self._npy.shape)} is not rows of vectors")
            self.shape = Shape(*self._npy.shape, self._npy.dtype.name)
        elif any(head.startswith(magic) for magic in MAGICS):
            self._open_arrow(head, column)
        else:
            raise FormatError(f"{path}: neither .npy nor Parquet nor Arrow")

    def _open_arrow(self, head: bytes, column: str | None) -> None:
        pa = _pyarrow()
        try:
            self._parquet = None
            if head.startswith(b"PAR1"):
                from pyarrow import parquet

                self._parquet = parquet.ParquetFile(self.path, memory_map=True)
                schema, n = self._parquet.schema_arrow, self._parquet.metadata.num_rows
            else:
                batches = list(self._arrow(pa))
                schema, n = batches[0].schema, sum(b.num_rows for b in batches)
        except (pa.ArrowException, OSError, IndexError) as e:
            raise FormatError(f"{self.path}: damaged: {str(e)[:200]}") from None
        lists = [f.name for f in schema if hasattr(f.type, "value_type") and (pa.types.is_floating(f.type.value_type)
                                                                              or pa.types.is_integer(f.type.value_type))]
        if (column is not None and column not in lists) or (column is None and len(lists) != 1):
            raise InputError(f"{self.path}: {len(lists)} columns of vectors ({', '.join(lists[:8])}); name one")
        if self._ids is not None and self._ids not in schema.names:
            raise InputError(f"{self.path}: there is no column {self._ids!r}; there are {', '.join(schema.names[:8])}")
        self._column = column or lists[0]
        self._npy = None
        first = next(self._values(1), None)
        kind = schema.field(self._column).type
        d = kind.list_size if pa.types.is_fixed_size_list(kind) else 0 if first is None else first.shape[1]
        self.shape = Shape(n, d, np.dtype(kind.value_type.to_pandas_dtype()).name)

    def _arrow(self, pa):
        from pyarrow import ipc

        with pa.memory_map(str(self.path)) as source:
            head = source.read(6)
            source.seek(0)
            if head == b"ARROW1":
                reader = ipc.open_file(source)
                for i in range(reader.num_record_batches):
                    yield reader.get_batch(i)
            else:
                yield from ipc.open_stream(source)

    def _batches(self, columns: list[str], rows: int):
        pa = _pyarrow()
        if self._parquet is not None:
            yield from self._parquet.iter_batches(batch_size=rows, columns=columns)
            return
        for batch in self._arrow(pa):
            for at in range(0, batch.num_rows, rows):
                yield batch.slice(at, rows).select(columns)

    def _values(self, rows: int) -> Iterator[np.ndarray]:
        for batch in self._batches([self._column], rows):
            column = batch.column(0)
            values = column.flatten()
            if column.null_count or values.null_count or (batch.num_rows and len(values) % batch.num_rows):
                raise InputError(f"{self.path}: column {self._column!r} has missing vectors or values")
            if batch.num_rows:
                yield values.to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)

    def batches(self, rows: int) -> Iterator[np.ndarray]:
        """The vectors in order, exactly ``rows`` at a time but for the last."""
        if self._npy is not None:
            for at in range(0, self.shape.n, rows):
                yield np.array(self._npy[at:at + rows])
            return
        held: list[np.ndarray] = []
        for batch in self._values(rows):
            if batch.shape[1] != self.shape.d:
                raise InputError(f"{self.path}: vectors of {batch.shape[1]} values among those of {self.shape.d}")
            held.append(batch)
            while sum(map(len, held)) >= rows:
                whole = np.concatenate(held)
                held = [whole[rows:]] if len(whole) > rows else []
                yield whole[:rows]
        if held:
            yield np.concatenate(held)

    def sample(self, rows: np.ndarray) -> np.ndarray:
        """The vectors with these rising row numbers."""
        if self._npy is not None:
            return np.array(self._npy[rows])
        found, at = [np.zeros((0, self.shape.d), self.shape.dtype)], 0
        for batch in self.batches(1 << 16):
            low, high = np.searchsorted(rows, [at, at + len(batch)])
            found.append(batch[rows[low:high] - at])
            at += len(batch)
        return np.concatenate(found)

    def ids(self) -> np.ndarray | None:
        """The ids of all rows: integers or objects; None if no column was named."""
        if self._ids is None:
            return None
        pieces = [np.asarray(b.column(0).to_pylist()) for b in self._batches([self._ids], 1 << 16)]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
