"""Tuning while coding: on the small random Llama of test_language, and on stories260K where the data is."""

import itertools
import lzma
import sys
from pathlib import Path

import numpy as np
import pytest

from compand import Codec, InputError
from compand import open as open_file
from compand.dtypes import dtype
from compand.errors import OverwriteError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_language import TEXT, make  # noqa: E402

from compand.integration import language_distil, language_eval, language_fit  # noqa: E402
from compand.integration.language import Language  # noqa: E402
from compand.integration.language_target import Target  # noqa: E402
from compand.integration.language_tune import Tuner  # noqa: E402

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


def test_a_target_knows_its_original(model):
    language = Language(model)
    language.whole()
    ids = language.tokens(TEXT, 32, 4)
    with torch.no_grad():
        all_, some = Target.of(language, ids), Target.of(language, ids, most=60)
        assert len(all_.tokens) == 96 and len(some.tokens) == 60 and len(some.tokens.unique()) == 60
        i = torch.tensor([2, 0])
        assert abs(float(all_.divergence(language, i))) < 1e-6 and abs(float(some.divergence(language, i))) < 1e-6
        p = torch.stack([language.logits(language.states(ids[k])) for k in i]).flatten(0, 1).log_softmax(-1)
        language.model.get_parameter("model.norm.weight").mul_(1.3)
        q = torch.stack([language.logits(language.states(ids[k])) for k in i]).flatten(0, 1).log_softmax(-1)
        assert float(all_.divergence(language, i)) == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    language.close()


def test_steps_that_make_it_worse_are_taken_back(model):
    language = Language(model)
    language.whole()
    with torch.no_grad():
        target = Target.of(language, language.tokens(TEXT, 32, 16))
        language.model.get_parameter("model.layers.1.mlp.up_proj.weight").mul_(1.05)
        tuner = Tuner(language, target, batch=4, rate=0.5)
        before, start = {n: x.copy() for n, x in tuner.state().items()}, tuner.loss()
        assert start > 0 and len(tuner.steps(4)) == 4 and tuner.rate == 0.25
        assert tuner.loss() == start and all(np.array_equal(x, before[n]) for n, x in tuner.state().items())
        tuner.rate = 1e-3
        tuner.steps(6)
        assert tuner.loss() < start and tuner.rate == 1e-3 and not set(tuner.held) & {int(i) for _ in range(20) for i in tuner._rows()}
    language.close()


def test_tuning_loses_less_at_the_same_size(model, tmp_path):
    plain, tuned = tmp_path / "plain.cpd", tmp_path / "tuned.cpd"
    spec, seen = "hadamard,trellis:2:memory=12", []
    language_fit.compress(model, plain, spec, TEXT, sequences=24, length=32)
    result = language_distil.compress(model, tuned, spec, TEXT, effort="medium", sequences=48, length=32,
                                      progress=lambda *a: seen.append(a))
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] and all(a[0] <= b[0] for a, b in itertools.pairwise(seen))
    assert len(result["losses"]) == 2 * 24 + 48 and len(result["lost"]) == 3 * 7 + 1
    before, after = (language_eval.evaluate(p, model, TEXT[9000:], length=32, sequences=8) for p in (plain, tuned))
    assert after["kld"] < 0.8 * before["kld"] and abs(after["bytes"] - before["bytes"]) < 2048
    with open_file(tuned) as file:
        assert {str(file[n].spec) for n in file.names if n.endswith("proj.weight")} == {spec}
        assert file["model.norm.weight"].dtype == "bfloat16"


@pytest.mark.parametrize("blocks", [False, True])
def test_a_stopped_run_goes_on_to_the_same_bytes(model, tmp_path, blocks):
    words = {"effort": "low", "sequences": 16, "length": 32, "blocks": blocks}
    language_distil.compress(model, tmp_path / "whole.cpd", "int:3", TEXT, **words)

    class Killed(Exception):
        pass

    def stop(at):
        def progress(done, total, what):
            if done >= at:
                raise Killed
        return progress

    out = tmp_path / "out.cpd"
    for at in (1, 5, 21, 38, 50):
        with pytest.raises(Killed):
            language_distil.compress(model, out, "int:3", TEXT, progress=stop(at), **words)
    assert (tmp_path / "out.cpd.parts" / "tuned.state").exists()
    language_distil.compress(model, out, "int:3", TEXT, **words)
    assert out.read_bytes() == (tmp_path / "whole.cpd").read_bytes() and not (tmp_path / "out.cpd.parts").exists()
    with pytest.raises(OverwriteError):
        language_distil.compress(model, out, "int:3", TEXT, **words)
    with pytest.raises(InputError, match="effort"):
        language_distil.compress(model, tmp_path / "x.cpd", "int:3", TEXT, effort="much")


@pytest.mark.parametrize(("kind", "tied"), [("biased", True), ("mistral", False)])
def test_codes_without_scales_and_other_models(tmp_path, kind, tied):
    folder, out = make(tmp_path / "model", kind, tied), tmp_path / "out.cpd"
    language_distil.compress(folder, out, lambda name: None if "down" in name else "vq:4:dim=2", TEXT, embedding="int:8", effort="low",
                             sequences=16, length=32)
    report = language_eval.evaluate(out, folder, TEXT[9000:], length=32, sequences=4)
    assert 0 < report["kld"] < 3
    with open_file(out) as file:
        name = "model.layers.0.mlp.down_proj.weight"  # not coded, but tuned
        assert file[name].codes().codec.stage.raw and not np.array_equal(file[name].array(), Language(folder).weight(name))
        assert str(file["model.embed_tokens.weight"].spec) == "int:8"


def test_an_embedding_made_before(model, tmp_path):
    codes = Codec("int:8").encode(Language(model).weight("model.embed_tokens.weight"))
    language_distil.compress(model, tmp_path / "out.cpd", "int:4", TEXT, embedding=codes, effort="low", sequences=8, length=32)
    with open_file(tmp_path / "out.cpd") as file:
        np.testing.assert_array_equal(file["model.embed_tokens.weight"].array(), codes.codec.decode(codes).astype(dtype("bfloat16")))


@pytest.mark.skipif(not (DATA / "lm" / "stories260K.bin").exists(), reason="the shared data is not here")
def test_stories(tmp_path):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import stories
    finally:
        sys.path.pop(0)
    stories.main(str(DATA / "lm"), str(tmp_path / "stories"))
    text = lzma.open(DATA / "text" / "calib-tiny.txt.xz", "rt").read()
    cut, found = len(text) // 2, {}
    spec = "hadamard,trellis:3:memory=12"
    language_fit.compress(tmp_path / "stories", tmp_path / "plain.cpd", spec, text[:cut], embedding="int:8", sequences=16, length=128)
    language_distil.compress(tmp_path / "stories", tmp_path / "tuned.cpd", spec, text[:cut], embedding="int:8", effort="low", sequences=48,
                             length=128)
    for name in ("plain", "tuned"):
        report = language_eval.evaluate(tmp_path / f"{name}.cpd", tmp_path / "stories", text[cut:], length=128, sequences=16)
        found[name] = report["kld"]
    assert found["tuned"] < 0.85 * found["plain"]
