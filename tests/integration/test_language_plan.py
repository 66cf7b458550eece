"""Bits shared by measured slopes, and scales and norms tuned afterwards: on the small random Llama of test_language."""

import numpy as np
import pytest

from compand import Codec, InputError
from compand import open as open_file

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_language import TEXT, make  # noqa: E402

from compand.integration import (  # noqa: E402
    language_eval,
    language_fit,
    language_gradients,
    language_plan,
    language_slopes,
    language_speed,
    language_tune,
)
from compand.integration.language import Language  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("llama"))


def test_slopes_predict_what_codes_do(model, tmp_path):
    plan = language_plan.plan(model, 4.5, TEXT, effort="low", sequences=6, length=64)
    assert len(plan.specs) == 3 * 7 + 1 and len(set(plan.specs.values())) > 1 and plan.bits <= 4.5
    language_fit.compress(model, tmp_path / "out.cpd", plan.spec, TEXT, sequences=6, length=64)
    with open_file(tmp_path / "out.cpd") as file:
        stored = sum(file[n].codes().nbytes for n in plan.specs)
        assert stored < plan.bytes < stored * 1.2 + 4096
    kld = language_eval.evaluate(tmp_path / "out.cpd", model, TEXT[9000:], length=64, sequences=4)["kld"]
    assert 0.3 * plan.kld < kld < 4 * plan.kld  # fitted to fewer tokens than the layers have columns
    slopes = [float(each.sum()) for each in plan.slopes.values()]
    assert max(slopes) > 3 * min(slopes) >= 0
    again = language_plan.plan(model, 4.5, TEXT, effort="low", slopes=plan.slopes, progress=lambda *a: pytest.fail("measured anew"))
    assert again.specs == plan.specs and again.kld == pytest.approx(plan.kld / plan.factor)


def test_bits_out_of_reach(model):
    with pytest.raises(InputError, match="0.5 bits"):
        language_plan.plan(model, 0.5, TEXT, sequences=2, length=32)


def test_noise_of_specs():
    noise = language_slopes.noise_of
    assert noise("hadamard,trellis:2") == pytest.approx(0.0733, rel=0.05)
    assert noise("int:8") < 1e-3 < noise("vq:16:dim=2") < 0.2
    assert noise("hadamard,int:6", 64) < 0.8 * noise("hadamard,int:6", 1024)  # the largest of few values is nearer to the others


@pytest.mark.parametrize("spec", ["hadamard,trellis:2:memory=12"])
def test_tuned_scales_lose_less(model, tmp_path, spec):
    fitted, tuned = tmp_path / "fitted.cpd", tmp_path / "tuned.cpd"
    language_fit.compress(model, fitted, spec, TEXT, sequences=6, length=64)
    seen = []
    result = language_tune.tune(model, fitted, tuned, TEXT, steps=40, length=64, rate=5e-3, progress=lambda *a: seen.append(a))
    assert len(seen) == 40 and result["loss_after"] < result["loss_before"]
    before, after = (language_eval.evaluate(p, model, TEXT[9000:], length=64, sequences=4) for p in (fitted, tuned))
    assert after["kld"] < before["kld"] and abs(after["bytes"] - before["bytes"]) < 2048
    with open_file(fitted) as a, open_file(tuned) as b:
        name = "model.layers.1.mlp.up_proj.weight"
        bits = [n for n in a[name].codes().blocks[0].parts if not n.endswith("scale")]
        assert a.names == b.names and bits
        assert all(np.array_equal(a[name].codes().part(n), b[name].codes().part(n)) for n in bits)


def test_scales_of_some_rows_are_tuned_too():
    w = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    codes = Codec("int:3+salient:0.3:4").encode(w)
    factors = np.linspace(0.5, 2, 40, dtype=np.float32)
    np.testing.assert_allclose(codes.codec.decode(language_tune.rescaled(codes, factors)), codes.codec.decode(codes) * factors[:, None],
                               rtol=0.02, atol=0.02)


def test_frequent_rows_get_more_bits(model, tmp_path):
    plan = language_plan.plan(model, 4.2, TEXT, effort="low", sequences=6, length=64)
    (name,) = [n for n in plan.specs if "embed" in n]
    assert plan.slopes[name].shape == (5, 2) and plan.slopes["model.layers.0.mlp.up_proj.weight"].shape == (1,)
    spec = "(hadamard,trellis:3:memory=12)+salient:0.15:4"
    language_fit.compress(model, tmp_path / "out.cpd", "hadamard,trellis:3:memory=12", TEXT, embedding=spec, sequences=6, length=64)
    language = Language(model)
    counts, w = language.counts(TEXT), language.weight(name)
    language.close()
    with open_file(tmp_path / "out.cpd") as file:
        codes = file[name].codes()
        stored = language_slopes.nbytes(spec, *w.shape)
        assert codes.codec.spec == Codec(spec).spec and abs(codes.nbytes - stored) < 0.02 * stored
        error = np.square(codes.codec.decode(codes) - w).sum(1) / np.square(w).sum(1)
    taken = error < 0.1 * np.median(error)
    assert taken.sum() == round(0.15 * len(w)) and counts[taken].mean() > counts.mean()


def test_scales_that_cannot_be_tuned():
    w = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
    codec = Codec("vq:16:dim=2").fit(w)
    with pytest.raises(InputError, match="no scales"):
        language_tune.rescaled(codec.encode(w), np.ones(32))


def test_the_whole_model_is_the_model(model):
    language = Language(model)
    ids = language.tokens(TEXT, 32, 1)
    language.whole()
    with torch.no_grad():
        h = language.states(ids[0])
        tokens, wanted = language.likely(h)
        assert float(language.divergence(h, tokens, wanted)) == pytest.approx(0, abs=1e-6)
        assert float(language.divergence(h * 1.5, tokens, wanted)) > 0.001
    language.close()


def test_a_budget_of_divergence_takes_the_fewest_bytes(model):
    plans = [language_plan.plan(model, None, TEXT, kld=kld, effort="low", sequences=3, length=48) for kld in (0.3, 0.05)]
    assert all(plan.kld <= kld for plan, kld in zip(plans, (0.3, 0.05), strict=True)) and plans[0].bytes < plans[1].bytes
    rows = plans[1].table()
    assert [r["name"] for r in rows] == list(plans[1].specs) and sum(r["kld"] for r in rows) == pytest.approx(plans[1].kld)
    assert all(r["won"] > 0 and r["cost"] > 0 for r in rows if "won" in r) and any("won" in r for r in rows)
    with pytest.raises(InputError, match="give one of"):
        language_plan.plan(model, 3.0, TEXT, kld=0.1)


def test_a_plan_for_bytes_and_one_for_speed(model):
    specs = ["hadamard,int:2", "hadamard,int:4", "hadamard,int:8"]
    plan = language_plan.plan(model, None, TEXT, size=24_000, ladder=specs, sequences=2, length=48)
    assert 20_000 < plan.bytes <= 24_000
    cost = {"hadamard,int:2": 1.0, "hadamard,int:4": 2.0, "hadamard,int:8": 4.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_plan.language_speed, "milliseconds", lambda specs: lambda spec, n, d: 1e-5 * cost[spec] * n * d)
        values = sum(n * d for n, d in plan.sizes.values())
        fast = language_plan.plan(model, None, TEXT, milliseconds=2e-5 * values, ladder=specs, sequences=2, length=48)
    assert sum(cost[s] * np.prod(fast.sizes[n]) for n, s in fast.specs.items()) <= 2 * values and len(set(fast.specs.values())) > 1
    measured = language_speed.milliseconds(specs[:1])
    assert 0 < measured(specs[0], 1000, 100) < 1000 and measured(specs[0], 100, 1000) == pytest.approx(measured(specs[0], 1000, 100))


def test_gradients_tell_what_noise_costs(model):
    language = Language(model)
    language.whole()
    ids = language.tokens(TEXT, 48, 4)
    noise = language_slopes.slopes(language, ids, {})
    fisher = language_gradients.slopes(language, ids, {})
    relevance = language_gradients.slopes(language, ids, {}, relevance=True)
    language.close()
    a, b = (np.log([float(x[n].sum()) for n in noise]) for x in (noise, fisher))
    assert np.corrcoef(a, b)[0, 1] > 0.8 and abs(np.median(a - b)) < 0.7
    assert np.mean([float(r.sum()) for r in relevance.values()]) == pytest.approx(1)
