"""Codes as a column of a database: DuckDB, PostgreSQL (with or without pgvector), SQLite, any DB-API connection.

Rows are scanned here, by the kernels; which rows, and the reranking of the few that are found, is SQL. The tables are yours;
one more, ``compand_codecs``, keeps what codecs have learnt.
"""

from __future__ import annotations

from itertools import chain

import numpy as np

from ..codes import Codes
from ..errors import InputError
from .rows import RowFormat

TABLE = "compand_codecs"


def save_codec(connection, name: str, rows: RowFormat) -> None:
    """Keep a fitted codec in the database under a name; one of the same name is replaced. The caller commits."""
    mark, blob = _dialect(connection)
    cursor = connection.cursor()
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (name VARCHAR PRIMARY KEY, codec {blob} NOT NULL)")
    cursor.execute(f"DELETE FROM {TABLE} WHERE name = {mark}", (name,))
    cursor.execute(f"INSERT INTO {TABLE} VALUES ({mark}, {mark})", (name, rows.to_bytes()))


def load_codec(connection, name: str) -> RowFormat:
    """The codec kept under a name. Raises `InputError`, listing names, if there is none; a `CompandError` if it is damaged."""
    mark, _ = _dialect(connection)
    cursor = connection.cursor()
    cursor.execute(f"SELECT codec FROM {TABLE} WHERE name = {mark}", (name,))
    found = cursor.fetchone()
    if found is None:
        cursor.execute(f"SELECT name FROM {TABLE} ORDER BY name LIMIT 8")
        raise InputError(f"no codec {name!r} in {TABLE}; it has: {', '.join(n for (n,) in cursor.fetchall()) or 'none'}")
    return RowFormat.from_bytes(bytes(found[0]))


def read_codes(connection, rows: RowFormat, query: str, parameters=()) -> tuple[np.ndarray, Codes]:
    """The ids and codes that a query of two columns selects: ids (n,) as the database has them, `Codes` of n rows.

    Any WHERE makes a filtered search: what is not selected is not scanned. Keep the result while the table does not change; reading
    is a copy of n · (bytes a row). DuckDB hands its columns over as Arrow; other databases row by row.

    >>> import sqlite3
    >>> from compand.integration.rows import vectors
    >>> x = np.random.default_rng(0).standard_normal((500, 16), dtype=np.float32)
    >>> rows, db = vectors("klt,grouped:12", x), sqlite3.connect(":memory:")
    >>> _ = db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT, codes BLOB)")
    >>> _ = db.executemany("INSERT INTO notes VALUES (?, 'some text', ?)", zip(range(500), rows.encode(x)))
    >>> ids, codes = read_codes(db, rows, "SELECT id, codes FROM notes WHERE id >= 100")
    >>> nearest(x[100:102], ids, codes, k=1, metric="cosine")[1].ravel().tolist()
    [100, 101]
    """
    if hasattr(connection, "sql") and type(connection).__module__.partition(".")[0] in ("duckdb", "_duckdb"):
        ids, column = _duckdb_columns(connection, query, parameters)
        from .arrow import from_arrow

        return ids, from_arrow(column, rows)
    cursor = connection.cursor()
    cursor.execute(query, parameters)
    found = cursor.fetchall()
    if found and len(found[0]) != 2:
        raise InputError(f"the query must select two columns, id and codes, not {len(found[0])}")
    ids = np.array([i for i, _ in found]) if found else np.zeros(0, np.int64)
    return ids, rows.codes(blob for _, blob in found)


def nearest(queries, ids: np.ndarray, codes: Codes, k: int = 10, **options) -> tuple[np.ndarray, np.ndarray]:
    """Scores and database ids (q, k) of the nearest rows, best first; ``options`` as of `compand.search` (metric, rerank...).

    Where there are fewer than k rows, as many columns come back.
    """
    from ..op.search import search

    n = codes.shape[0]
    scores, rows = search(queries, codes, max(min(k, n), 1), **options)
    return (scores, ids[rows]) if n else (scores[:, :0], rows[:, :0])


def register(connection, name: str, rows: RowFormat) -> None:
    """Make ``name(codes)`` decode to FLOAT[d] in the SQL of a DuckDB connection, so that SQL can rerank without stored floats."""
    import duckdb
    import pyarrow as pa

    if len(rows.shape) != 1 or rows.dtype != "float32":
        raise InputError(f"SQL sees vectors of float32; these rows are {rows.dtype}{list(rows.shape)}")

    def decode(column):
        from .arrow import from_arrow

        x = rows.codec.decode(from_arrow(column, rows))
        return pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), rows.shape[0])

    connection.create_function(name, decode, [duckdb.sqltype("BLOB")], duckdb.sqltype(f"FLOAT[{rows.shape[0]}]"), type="arrow")


def _duckdb_columns(connection, query: str, parameters):
    table = connection.sql(query, params=list(parameters) or None).to_arrow_table()
    if table.num_columns != 2:
        raise InputError(f"the query must select two columns, id and codes, not {table.num_columns}")
    return table.column(0).to_numpy(), table.column(1)


def _dialect(connection) -> tuple[str, str]:
    """The mark of a parameter and the type of blobs."""
    kinds = set(chain.from_iterable(c.__module__.split(".") for c in type(connection).__mro__))
    return ("%s", "BYTEA") if kinds & {"psycopg", "psycopg2"} else ("?", "BLOB")
