"""Retrieval collections: read as BEIR has them, judged as trec_eval judges, and an encoder measured by them."""

import gzip
import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from compand.errors import CompandError, InputError

pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_encoder import TEXT, model  # noqa: F401

from compand.integration import retrieval


@pytest.fixture
def folder(tmp_path):
    lines, folder = TEXT.splitlines(), tmp_path / "words"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{i}", "title": " ".join(w[:3]), "text": " ".join(w[3:])} for i, w in enumerate(line.split() for line in lines[:60])]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    asked = [{"_id": f"q{i}", "text": " ".join(lines[i].split()[2:9])} for i in range(20)] + [{"_id": "d7", "text": lines[7]}]
    (folder / "queries.jsonl").write_text("".join(json.dumps(r) + "\n" for r in asked))
    judged = "".join(f"q{i}\td{i}\t2\nq{i}\td{i + 30}\t1\n" for i in range(15)) + "q16\td1\t0\nq99\td1\t1\nd7\td8\t1\n"
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def test_read(folder):
    found = retrieval.read(folder)
    assert len(found.documents) == 60 and found.documents["d3"] == TEXT.splitlines()[3]
    assert list(found.grades) == list(found.queries) == [f"q{i}" for i in range(15)] + ["d7"]  # q16 has nothing relevant, q99 is no query
    assert found.grades["q2"] == {"d2": 2.0, "d32": 1.0}
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{i} 0 d{i} 2\nq{i} 0 d{i + 30} 1\n" for i in range(15)) + "d7 0 d8 1\n")  # TREC
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress((folder / "corpus.jsonl").read_bytes()))
    (folder / "corpus.jsonl").unlink()
    assert retrieval.is_collection(folder) and retrieval.read(folder) == found


@pytest.mark.parametrize(("name", "content"), [
    ("corpus.jsonl", b"[1]"), ("corpus.jsonl", b'{"text": "a"}'), ("corpus.jsonl", b"\xff{"), ("corpus.jsonl", b"[" * 100_000),
    ("queries.jsonl", b"3"), ("queries.jsonl", b""), ("qrels/test.tsv", b"q1 d1 much"), ("qrels/test.tsv", b"q1 d1 nan\n"),
    ("qrels/test.tsv", b"\n"), ("qrels/test.tsv", b"q1 1"), ("qrels/test.tsv", b"a b c d e 1")])
def test_odd_files_are_refused(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(CompandError):
        retrieval.read(folder)


def test_missing_files_are_named(folder):
    (folder / "queries.jsonl").unlink()
    with pytest.raises(InputError, match="queries.jsonl"):
        retrieval.read(folder)
    (folder / "corpus.jsonl").write_bytes(b"not zipped")
    (folder / "corpus.jsonl").rename(folder / "corpus.jsonl.gz")
    (folder / "queries.jsonl").write_text("")
    with pytest.raises(CompandError, match="read"):
        retrieval.read(folder)


def test_ndcg():
    grades = {"a": {"x": 2.0, "y": 1.0, "z": 0.0}, "b": {"z": 1.0}}
    assert retrieval.ndcg({"a": ["x", "y"], "b": ["z"]}, grades) == 1.0
    worse = (1 / math.log2(2) + 2 / math.log2(4)) / (2 + 1 / math.log2(3))
    assert retrieval.ndcg({"a": ["y", "z", "x"], "b": ["x"]}, grades) == pytest.approx(worse / 2)
    assert retrieval.ndcg({"a": ["q"] * 10 + ["x"], "b": []}, grades) == 0.0


def test_nearest_is_sorting_and_leaves_the_query_out():
    rng = np.random.default_rng(0)
    x, names = rng.standard_normal((300, 8)).astype(np.float32), [f"n{i}" for i in range(300)]
    found = retrieval.nearest({n: x[i] for i, n in enumerate(names)}, x, names)
    for i in (0, 299):
        order = [names[j] for j in np.argsort(-(x @ x[i]), kind="stable") if j != i]
        assert found[names[i]] == order[:10]
    assert len(retrieval.nearest({"q": x[0]}, x[:4], names[:4])["q"]) == 4


def test_an_encoder_is_measured(model, folder, tmp_path):  # noqa: F811
    from compand.cli.app import app
    from compand.integration import encoder

    out, seen = tmp_path / "out.cpd", []
    encoder.compress(model, out, "int:2", TEXT, sequences=64, tune=False)
    found = retrieval.evaluate(out, model, retrieval.read(folder), progress=lambda now, total: seen.append((now, total)))
    same = retrieval.evaluate(model, model, retrieval.read(folder))
    assert same["ndcg"] == same["ndcg_reference"] == found["ndcg_reference"] > found["ndcg"] > 0
    assert same["found"] == 1 > found["found"] > 0.1 and found["queries"] == 16 and found["documents"] == 60
    assert found["bits"] < 8 and seen[0] == (0, 152) and seen == sorted(seen)
    words = ["eval", str(out), "--against", str(model), "--text", str(folder)]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["ndcg"] == pytest.approx(found["ndcg"])
    result = CliRunner().invoke(app, [*words, "--card"])
    assert result.exit_code == 0 and f"nDCG@10 {found['ndcg']:.2f} (original {found['ndcg_reference']:.2f})" in result.stdout
    result = CliRunner().invoke(app, ["info", str(out)])
    assert "nDCG@10" in result.stdout and "words (SHA-256" in result.stdout
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(app, ["eval", str(out), "--against", str(model), "--text", str(tmp_path / "empty")])
    assert result.exit_code == 1 and "corpus.jsonl" in result.output


def test_prompts(tmp_path):
    assert retrieval.prompts(tmp_path) == ("", "")
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: ", "passage": "passage: "}}')
    assert retrieval.prompts(tmp_path) == ("query: ", "passage: ")
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": [1]}')
    assert retrieval.prompts(tmp_path) == ("", "")
