"""Codes moved by the gradient of the whole model, on the small random Llama of test_language."""

import itertools

import numpy as np
import pytest

from compand import InputError
from compand import open as open_file

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_language import TEXT, make  # noqa: E402

from compand.integration import language_codes, language_eval, language_fit  # noqa: E402
from compand.integration.language import Language  # noqa: E402
from compand.integration.language_codes import agreed, downhill  # noqa: E402
from compand.integration.language_target import Target  # noqa: E402
from compand.integration.language_tune import Tuner  # noqa: E402

WORDS = {"length": 32, "sequences": 48, "steps": 8}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coded")
    model = make(folder / "model")
    language_fit.compress(model, folder / "a.cpd", "hadamard,trellis:2:memory=12", TEXT, embedding="int:8", sequences=24, length=32)
    return model, folder / "a.cpd"


def test_gradients_are_those_of_the_divergence(coded):
    model, path = coded
    language = Language(model)
    language.whole()
    with torch.no_grad(), open_file(path) as file:
        tuner = Tuner(language, Target.of(language, language.tokens(TEXT, 32, 6)), rate=1e-3)
        name = "model.layers.1.mlp.up_proj"
        tuner.coded(name, file[f"{name}.weight"].codes())
        found = downhill(tuner)
        assert list(found) == [name] and tuner.count == 5
        at, w = found[name], tuner.linear[name].weight
        e = torch.from_numpy(np.random.default_rng(0).standard_normal(w.shape).astype(np.float32)) * 1e-3
        losses = []
        for sign in (1, -1):
            w.add_(sign * e)
            losses.append([float(tuner.target.divergence(language, torch.tensor([i]))) for i in range(tuner.count)])
            w.sub_(sign * e)
        for k in (0, 1):
            want = np.mean(losses[0][k::2]) - np.mean(losses[1][k::2])
            tokens = 32 * len(losses[0][k::2])
            half = 5 * 32 * len(losses[0][k::2]) // 5
            assert half == tokens and float((at.gradient[k] * e.numpy()).sum() * 2) == pytest.approx(want, rel=0.05, abs=1e-6)
        assert at.hessian.shape == (48, 48) and (at.importance > 0).all()
    language.close()


def test_only_moves_that_both_halves_want(coded):
    _, path = coded
    with open_file(path) as file:
        codes = file["model.layers.1.mlp.up_proj.weight"].codes()
    n, d = codes.form[:2]
    w, rng = codes.codec.decode(codes).astype(np.float32), np.random.default_rng(1)
    signal, h, rows = rng.standard_normal((n, d)), np.eye(d), np.ones(n)
    signal[32:] = 0
    noise = rng.standard_normal((2, n, d))
    at = language_codes.Downhill(1.5 * float(np.sqrt(np.mean(w ** 2))) * (signal + 0.5 * noise).astype(np.float32), h, rows)
    fresh, part = agreed(codes, at, caution=1.0, share=1.0)
    e = fresh.codec.decode(fresh).astype(np.float32) - w
    assert 0 < part <= 0.6 and float((signal * e)[:32].sum()) < 0 and np.abs(e[:32]).sum() > 0
    best, few = agreed(codes, at, caution=1.0, share=0.2)
    assert few == 1 / 5 and best.nbytes == codes.nbytes
    against = at._replace(gradient=np.stack([signal, -signal]).astype(np.float32))
    assert agreed(codes, against, caution=1.0, share=1.0)[1] == 0


def test_it_loses_less_at_the_same_size(coded, tmp_path):
    model, path = coded
    seen = []
    result = language_codes.tune(model, path, tmp_path / "b.cpd", TEXT, progress=lambda *a: seen.append(a), **WORDS)
    assert result["losses"][-1] < result["losses"][0] and len(result["moved"]) == 2 and max(result["moved"]) > 0
    assert all(a[0] <= b[0] <= b[1] for a, b in itertools.pairwise(seen))
    before, after = (language_eval.evaluate(p, model, TEXT[9000:], length=32, sequences=8) for p in (path, tmp_path / "b.cpd"))
    assert after["kld"] < before["kld"] and after["bytes"] <= before["bytes"] + 64
    with open_file(path) as a, open_file(tmp_path / "b.cpd") as b:
        names = [n for n in a.names if n.endswith("proj.weight")]
        assert any(not np.array_equal(x, y) for n in names for x, y in
                   zip((v.part("1.bits") for v in (a[n].codes(),)), (v.part("1.bits") for v in (b[n].codes(),)), strict=True))
    language_codes.tune(model, path, tmp_path / "c.cpd", TEXT, **WORDS)
    assert (tmp_path / "c.cpd").read_bytes() == (tmp_path / "b.cpd").read_bytes()


def test_moves_that_do_not_help_are_taken_back(coded, tmp_path, monkeypatch):
    model, path = coded
    monkeypatch.setattr(language_codes, "agreed", lambda codes, at, **_: (codes.codec.encode(-codes.codec.decode(codes)), 1.0))
    result = language_codes.tune(model, path, tmp_path / "b.cpd", TEXT, rounds=1, **{**WORDS, "steps": 0})
    assert result["moved"] == [0.0] and result["losses"][1] == result["losses"][0]


def test_codes_that_cannot_move(coded, tmp_path):
    model, _ = coded
    language_fit.compress(model, tmp_path / "a.cpd", "vq:16:dim=4", TEXT, embedding="int:8", sequences=8, length=32)
    with pytest.raises(InputError, match="moved"):
        language_codes.tune(model, tmp_path / "a.cpd", tmp_path / "b.cpd", TEXT, **WORDS)
