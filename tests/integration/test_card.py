"""Evaluation cards in files."""

import hashlib
import json

import numpy as np
import pytest

import compand
from compand.integration import card

FOUND = {"bits": 3.1, "bytes": 99, "perplexity": float("inf"), "perplexity_reference": 12.5, "kld": 0.14, "kld_99": 1.5, "top1": 0.79,
         "tokens": 511, "curve": [1, 2]}
USED = {"text": "some text", "name": "test.txt", "reference": "gemma"}


@pytest.fixture
def path(tmp_path):
    x = np.random.default_rng(0).standard_normal((50, 32)).astype(np.float32)
    with compand.Writer(tmp_path / "m.cpd", meta={"modality": "weights", "own": [1]}) as w:
        w.write("a", x, "hadamard,int:4")
        w.write("b", x, "vq:16")
    return tmp_path / "m.cpd"


def test_a_card_is_kept_and_no_code_moves(path):
    before = path.read_bytes()
    with compand.open(path) as file:
        at, digest, arrays = file._container.index_at, file.digest, {n: file[n].array() for n in file}
        assert card.cards(file) == []
    put = card.put(path, FOUND, **USED)
    assert put["text_sha256"] == hashlib.sha256(b"some text").hexdigest() and put["perplexity"] is None and "curve" not in put
    assert path.read_bytes()[:at] == before[:at]
    with compand.open(path) as file:
        assert file.verify().ok and file.digest == digest and file.meta["own"] == [1] and file.meta["modality"] == "weights"
        assert all(np.array_equal(file[n].array(), x) for n, x in arrays.items())
        (found,) = card.cards(file)
        assert found == {**put, "current": True} and found["versions"]["compand"] == compand.__version__
    again = path.read_bytes()
    card.put(path, FOUND, **USED)  # the same again is the same file
    assert path.read_bytes() == again
    card.put(path, {**FOUND, "kld": 0.2}, **{**USED, "text": "other"})
    card.put(path, {**FOUND, "kld": 0.3}, **USED)
    with compand.open(path) as file:
        assert [c["kld"] for c in card.cards(file)] == [0.2, 0.3] and all("current" not in c for c in file.meta[card.KEY])
    card.put(path, FOUND, **{**USED, "name": "odd\udcff", "reference": "x\udcff"})
    for i in range(30):
        card.put(path, FOUND, **{**USED, "text": str(i)})
    with compand.open(path) as file:
        assert len(card.cards(file)) == card.MOST
        assert card.cards(file)[-1]["text_sha256"] == hashlib.sha256(b"29").hexdigest()
    assert not list(path.parent.glob(".*"))


def test_changed_codes_are_told(path):
    card.put(path, FOUND, **USED)
    with compand.Writer(path, append=True) as w:
        w.write("c", np.eye(4, dtype=np.float32), "raw")
    with compand.open(path) as file:
        (found,) = card.cards(file)
        assert not found["current"] and "CHANGED" in card.lines(found)[0]
        assert "KL divergence 0.1400" in card.lines(found)[1] and "perplexity ?" in card.lines(found)[1]


@pytest.mark.parametrize("odd", ["x", 3, {}, [3], [[]], [{}], [{"text_sha256": 1, "reference": "a"}],
                                 [{"text_sha256": "[red]\x1b[31m", "reference": "r" * 5000, "kld": "x", "bits": [1], "versions": 3}],
                                 [{"text_sha256": "", "reference": "", "cosine": {}, "spearman": True, "versions": {"a": 1}}] * 100])
def test_whatever_meta_holds_is_shown_or_left_out(path, odd):
    from typer.testing import CliRunner

    from compand.cli.app import app

    with compand.Writer(path, append=True, meta={card.KEY: odd}):
        pass
    with compand.open(path) as file:
        for found in card.cards(file):
            json.dumps(found)
            assert sum(map(len, card.lines(found))) < 1500 and all(line.isprintable() for line in card.lines(found))
    for words in (["info", str(path)], ["info", str(path), "--json"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    card.put(path, FOUND, **USED)
