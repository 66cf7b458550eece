"""Layers tuned while they are coded, on the small random Llama of test_language and its cousins, and on stories260K where the data is."""

import lzma
import sys
from pathlib import Path

import numpy as np
import pytest

from compand import open as open_file

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_language import TEXT, make  # noqa: E402

from compand.integration import language_blocks, language_eval, language_fit  # noqa: E402
from compand.integration.language import Language  # noqa: E402
from compand.integration.language_blocks import Outputs  # noqa: E402

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("llama"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def opened(folder):
    """A model whose first layer is in memory, and the states before it."""
    language = Language(folder)
    ids = language.tokens(TEXT, 32, 4)
    language.load(language.embedding)
    hidden = [language.embedding(row[None]) for row in ids]
    return language, hidden, language.arguments(ids[:1])[0]


def test_a_layer_is_coded_in_turns(model):
    language, hidden, arguments = opened(model)
    layer = language.load(language.layers[0])
    with torch.no_grad():
        assert language_blocks.turns(layer, hidden, arguments) == [
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"], ["mlp.gate_proj", "mlp.up_proj"],
            ["mlp.down_proj"]]
    language.close()


def test_the_divergence_is_relative_to_each_token(model):
    language, hidden, arguments = opened(model)
    layer = language.load(language.layers[0])
    with torch.no_grad():
        y = [language_blocks.first(layer(h, **arguments)) for h in hidden]
        assert float(Outputs(layer, hidden, y, arguments).divergence(language, torch.tensor([0, 3]))) == 0
        large = [torch.cat([v[:, :1] * 100, v[:, 1:]], dim=1) for v in y]  # one token that is a hundred times the others
        assert 0 < float(Outputs(layer, hidden, large, arguments).divergence(language, torch.tensor([1]))) < 2 / 32
    language.close()


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("biased", True), ("gemma", False)])
def test_tuned_layers_keep_their_size(tmp_path, kind, tied):  # what is random has little to win
    folder, reports = make(tmp_path / "model", kind, tied), []
    for blocks in (None, "low"):
        out = tmp_path / "out.cpd"
        result = language_fit.compress(folder, out, "hadamard,trellis:2:memory=12", TEXT, embedding="int:8", sequences=96, length=32,
                                       blocks=blocks, overwrite=True)
        reports.append(language_eval.evaluate(out, folder, TEXT[9000:], length=32, sequences=8))
        assert all(np.isfinite(x) for x in result["lost"].values())
    assert reports[1]["kld"] < 1.1 * reports[0]["kld"] and abs(reports[1]["bytes"] - reports[0]["bytes"]) < 4096
    with open_file(out) as file, Language(folder).source as source:
        norms = [n for n in file.names if "norm" in n and "layers" in n]
        kinds = {i.name: i.dtype for i in source.items()}
        assert norms and all(file[n].dtype == kinds[n] for n in norms)


def test_a_stopped_run_goes_on_to_the_same_bytes(model, tmp_path):
    words = {"sequences": 16, "length": 32, "blocks": "low"}
    language_fit.compress(model, tmp_path / "whole.cpd", "int:3", TEXT, **words)

    class Killed(Exception):
        pass

    def progress(done, total, what):
        if done == 2:
            raise Killed

    out = tmp_path / "out.cpd"
    with pytest.raises(Killed):
        language_fit.compress(model, out, "int:3", TEXT, progress=progress, **words)
    assert len(list((tmp_path / "out.cpd.parts").glob("*layers*.cpd"))) == 2
    language_fit.compress(model, out, "int:3", TEXT, **words)
    assert out.read_bytes() == (tmp_path / "whole.cpd").read_bytes()
    other = language_fit.compress(model, tmp_path / "other.cpd", "int:3", TEXT, seed=1, **words)
    assert other["bytes"] and (tmp_path / "other.cpd").read_bytes() != out.read_bytes()


@pytest.mark.skipif(not (DATA / "lm" / "stories260K.bin").exists(), reason="the shared data is not here")
def test_stories_lose_less(tmp_path):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import stories
    finally:
        sys.path.pop(0)
    stories.main(str(DATA / "lm"), str(tmp_path / "stories"))
    text = lzma.open(DATA / "text" / "calib-tiny.txt.xz", "rt").read()
    cut, found = len(text) // 2, []
    for blocks in (None, "low"):
        language_fit.compress(tmp_path / "stories", tmp_path / "out.cpd", "hadamard,trellis:2:memory=12", text[:cut], embedding="int:8",
                              sequences=32, length=128, blocks=blocks, overwrite=True)
        report = language_eval.evaluate(tmp_path / "out.cpd", tmp_path / "stories", text[cut:], length=128, sequences=16)
        found.append(report["kld"])
    assert found[1] < 0.9 * found[0]
