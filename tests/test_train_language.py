"""The script that trains a small language model: it learns, goes on where it was stopped, and leaves a folder."""

import importlib.util
import json
import lzma
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    found = importlib.util.spec_from_file_location("train_language", ROOT / "benchmarks" / "train_language.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_it_learns_and_goes_on_where_it_was(script, tmp_path, capsys):
    words = re.findall(r"\w+", (ROOT / "docs" / "architecture.md").read_text())
    text = " ".join(np.random.default_rng(0).choice(words, 3000)) + " " + " ".join(words)
    for name in ("some", "wikitext2-valid"):
        (tmp_path / f"{name}.txt.xz").write_bytes(lzma.compress(text.encode()))
    more = ["--size", "tiny", "--texts", "some", "--length", "32", "--lines", "8"]
    told = script.main([str(tmp_path), str(tmp_path / "out"), "--tokens", str(30 * 256), *more])
    assert told["tokens"] == 30 * 256 and told["loss, WikiText-2 valid"] < np.log(512) - 0.4
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.num_parameters() == told["parameters"] and tokenizer.decode(tokenizer("a row of Values")["input_ids"]) == "a row of Values"
    assert json.loads((tmp_path / "out" / "training.json").read_text()) == told and not (tmp_path / "out.state").exists()
    assert "minutes left" in capsys.readouterr().out


def test_a_stopped_run_ends_as_one_that_was_not(script, tmp_path):
    ids = torch.randint(0, 64, (4000,), generator=torch.Generator().manual_seed(1))

    def run(stops):
        torch.manual_seed(0)
        model = script.model_of("tiny", 16)
        state = tmp_path / f"{bool(stops)}.state"

        def say(*words, **more):
            nonlocal stops
            if stops:
                stops = False
                raise KeyboardInterrupt

        settings = {"steps": 6, "lines": 2, "length": 16, "rate": 1e-3, "every": 0}
        try:
            script.train(model, ids, state, **settings, say=say, tell=0)
        except KeyboardInterrupt:
            torch.manual_seed(5)
            model = script.model_of("tiny", 16)
            script.train(model, ids, state, **settings, say=say, tell=1e9)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(run(False), run(True))
    with pytest.raises(SystemExit, match="remove it"):
        script.train(script.model_of("tiny", 16), ids, tmp_path / "True.state", steps=7, lines=2, length=16, rate=1e-3, every=0)
