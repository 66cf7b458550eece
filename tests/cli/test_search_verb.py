import json
from pathlib import Path

import numpy as np


def test_finds_rows_of_its_own(ok, npy, vectors):
    ok("compress", npy, "klt,grouped:24", "-o", "v.cpd")
    np.save("q.npy", vectors[:9])
    said = ok("search", "v.cpd", "q.npy", "-k", "3", "--metric", "cosine", "-o", "ids.npy", "--scores", "s.npy")
    rows, scores = np.load("ids.npy"), np.load("s.npy")
    assert rows.dtype == np.int64 and rows.shape == (9, 3) and scores.dtype == np.float32 and "9 queries" in said
    assert (rows[:, 0] == np.arange(9)).all() and (np.diff(scores, axis=1) <= 0).all()
    told = json.loads(ok("search", "v.cpd", "q.npy", "-k", "3", "--metric", "cosine", "--json"))
    assert told["ids"] == rows.tolist() and told["vectors"] == 600 and told["spec"] == "klt,grouped:24"
    assert "query 0: 0 (" in ok("search", "v.cpd", "q.npy", "-k", "3", "--metric", "cosine", "-q")


def test_refuses_what_it_cannot_do(ok, run, npy, vectors):
    ok("compress", npy, "int:8", "-o", "v.cpd")
    np.save("narrow.npy", vectors[:, 1:])
    np.save("q.npy", vectors[:2])
    Path("ids.npy").write_text("mine")
    for words in (("v.cpd", "narrow.npy"), ("v.cpd", "q.npy", "-o", "ids.npy"), ("v.cpd", "q.npy", "--entry", "x"), ("q.npy", "q.npy")):
        wrong = run("search", *words)
        assert wrong.exit_code == 1 and "compand: " in wrong.stderr and "fault of compand" not in wrong.stderr
    assert Path("ids.npy").read_text() == "mine"
