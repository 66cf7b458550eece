"""compand add, delete, compact, and search in what they make."""

import json
from pathlib import Path

import numpy as np
import pytest


def test_an_index_from_the_command_line(ok, run, npy, vectors):
    np.save("first.npy", vectors[:400])
    np.save("more.npy", vectors[400:])
    Path("first.txt").write_text("".join(f"doc {i}\n" for i in range(400)))
    Path("more.txt").write_text("".join(f"doc {i}\n" for i in range(400, 600)))
    assert "400 vectors" in ok("add", "v.cpd", "first.npy", "--ids", "first.txt", "--bytes", "24")
    told = json.loads(ok("add", "v.cpd", "more.npy", "--ids", "more.txt", "--json"))
    assert told["vectors"] == 600 and told["added"] == 200
    np.save("q.npy", vectors[398:402])
    ok("search", "v.cpd", "q.npy", "-k", "2", "--metric", "cosine", "-o", "ids.npy")
    found = np.load("ids.npy")
    assert found.shape == (4, 2) and found[:, 0].tolist() == ["doc 398", "doc 399", "doc 400", "doc 401"]
    assert json.loads(ok("delete", "v.cpd", "doc 399", "doc 401", "--json"))["deleted"] == 2
    Path("gone.txt").write_text("doc 0\ndoc 1\n")
    ok("delete", "v.cpd", "--ids", "gone.txt")
    told = json.loads(ok("search", "v.cpd", "q.npy", "-k", "1", "--metric", "cosine", "--json"))
    assert [i[0] for i in told["ids"]][::2] == ["doc 398", "doc 400"] and "doc 399" not in str(told["ids"])
    assert told["vectors"] == 596
    assert json.loads(ok("compact", "v.cpd", "--json"))["deleted"] == 0
    Path("only.txt").write_text("doc 5\ndoc 7\nnobody\n")
    told = json.loads(ok("search", "v.cpd", "q.npy", "-k", "3", "--only", "only.txt", "--json"))
    assert all(set(i) == {"doc 5", "doc 7", None} for i in told["ids"])
    for words, code in ((("add", "v.cpd", "more.npy", "--ids", "more.txt"), 1), (("delete", "v.cpd", "nobody"), 1),
                        (("delete", "v.cpd"), 2), (("add", "w.cpd", "more.npy"), 2), (("add", "v.cpd", "more.npy", "--bytes", "4"), 2),
                        (("compact", "none.cpd"), 1), (("search", "v.cpd", "q.npy", "--probes", "3"), 1)):
        wrong = run(*words)
        assert wrong.exit_code == code and "fault of compand" not in wrong.stderr
    assert json.loads(ok("add", "v.cpd", "first.npy", "--ids", "first.txt", "--update", "--json"))["vectors"] == 599


def test_row_numbers_and_lists(ok, there):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((21_000, 16)) + 3 * rng.standard_normal((40, 16))[rng.integers(0, 40, 21_000)]).astype(np.float32)
    np.save("x.npy", x)
    np.save("q.npy", x[:500])
    said = ok("compress", "x.npy", "--bytes", "10", "-o", "x.cpd")
    assert "(vq:512:" in said
    ok("search", "x.cpd", "q.npy", "-k", "5", "--metric", "cosine", "--recall", "0.99", "-o", "ids.npy", "--scores", "s.npy")
    ids = np.load("ids.npy")
    assert ids.dtype == np.int64 and ids.shape == (500, 5) and (ids == np.arange(500)[:, None]).any(1).mean() > 0.9
    assert np.load("s.npy").dtype == np.float32
    assert json.loads(ok("delete", "x.cpd", "3", "--json"))["vectors"] == 20_999
    assert json.loads(ok("add", "x.cpd", "q.npy", "--json"))["vectors"] == 21_499
    ok("decompress", "x.cpd", "-o", "back.npz")


def test_codes_fitted_to_queries(ok, run, there, vectors):
    np.save("x.npy", vectors)
    np.save("q.npy", vectors[:50] * np.linspace(2, 0, vectors.shape[1], dtype=np.float32))
    ok("compress", "x.npy", "--bytes", "16", "-o", "own.cpd")
    ok("compress", "x.npy", "--bytes", "16", "--queries", "q.npy", "-o", "asked.cpd")
    assert Path("own.cpd").read_bytes() != Path("asked.cpd").read_bytes()
    ok("search", "asked.cpd", "q.npy", "-k", "1", "-o", "ids.npy")
    np.save("wide.npy", np.ones((3, vectors.shape[1] + 1), np.float32))
    for words, code in (((), 2), (("int:8",), 1), (("klt,int:8", "--queries", "wide.npy"), 1)):
        wrong = run("compress", "x.npy", *words, *([] if "--queries" in words else ["--queries", "q.npy"]), "-o", "w.cpd")
        assert wrong.exit_code == code and "fault of compand" not in wrong.stderr and not Path("w.cpd").exists()


def test_what_search_and_add_say(ok, run, there, vectors):
    np.save("x.npy", vectors[:50])
    ids = [f"doc {i}" for i in range(50)]
    Path("ids.txt").write_text("\n".join(ids))
    assert "added 50;" in ok("add", "v.cpd", "x.npy", "--ids", "ids.txt", "--spec", "int:8")
    again = run("add", "v.cpd", "x.npy", "--ids", "ids.txt")
    assert again.exit_code == 1 and "--update" in again.stderr
    np.save("one.npy", vectors[7])  # one vector
    Path("lines.txt").write_text("".join(f"text {i}\n" for i in range(50)))
    said = ok("search", "v.cpd", "one.npy", "-k", "1", "--metric", "cosine", "--texts", "lines.txt")
    assert "doc 7  text 7" in said
    Path("only.txt").write_text("doc 3\nnobody\nno one\n")
    assert "2 of the 3 ids of --only" in run("search", "v.cpd", "one.npy", "--only", "only.txt").stderr
    assert "--model" in run("search", "v.cpd", "how do planes fly").stderr
    assert "no kernel" not in run("search", "v.cpd", "one.npy").stderr
    np.save("y.npy", vectors)
    ok("compress", "y.npy", "hadamard,trellis:2", "-o", "y.cpd")
    assert "there is no kernel for hadamard,trellis:2" in run("search", "y.cpd", "one.npy").stderr


def test_ids_in_a_column(ok, run, there, vectors):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"key": [f"k{i}" for i in range(40)], "v": list(vectors[:40])}), "x.parquet")
    ok("add", "v.cpd", "x.parquet", "--ids", "key", "--spec", "int:8")
    assert ok("delete", "v.cpd", "k3") and run("add", "v.cpd", "x.parquet", "--ids", "none").exit_code == 1
