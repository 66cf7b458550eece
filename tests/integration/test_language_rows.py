"""More bits for the outputs of layers that matter most: on the small random Llama of test_language."""

import numpy as np
import pytest

from compand import InputError
from compand import open as open_file
from compand.fit.hessian import damped
from compand.quantizer.salient import largest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_language import TEXT, make  # noqa: E402

from compand.integration import (  # noqa: E402
    language_blocks,
    language_distil,
    language_fisher,
    language_fit,
    language_plan,
    language_rows,
    language_slopes,
)
from compand.integration.language import Language  # noqa: E402

MIXED = "(hadamard,trellis:2:memory=12)+salient:0.15:4"
HOW = {"fit": (language_fit, {}), "kronecker": (language_fit, {"fit": "kronecker"}), "blocks": (language_fit, {"blocks": "low"}),
       "distil": (language_distil, {"effort": "low"})}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("llama"))


def spec(name):
    return MIXED if "up_proj" in name else "hadamard,int:4"


def test_the_diagonal_alone_is_that_of_the_whole(model, tmp_path):
    language = Language(model)
    ids = language.tokens(TEXT, 24, 4)
    fishers = language_fisher.Fishers(tmp_path)
    fishers.measure(language, ids)
    found = language_rows.curvature(language, ids, [n for n in language.items if "layers.1" in n])
    assert len(found) == 7 and all("layers.1" in n for n in found)
    for name, fisher in fishers["model.layers.1"].items():
        np.testing.assert_allclose(found[f"{name}.weight"], np.diag(fisher.outputs), rtol=1e-4)
    language.close()


@pytest.mark.parametrize("how", HOW)
def test_rows_that_matter_get_more_bits_and_a_stopped_run_goes_on(model, tmp_path, monkeypatch, how):
    where, more = HOW[how]
    more = more | {"length": 32, "sequences": 6}
    seen, encode = [], where.feedback.encode

    def see(codec, w, h, **kwargs):
        seen.append((codec, w, h, kwargs.get("importance")))
        if stop_at == len(seen):
            raise KeyboardInterrupt
        return encode(codec, w, h, **kwargs)

    places = {where.feedback, language_blocks.feedback}
    for place in places:
        monkeypatch.setattr(place, "encode", see)
    stop_at = 0
    where.compress(model, tmp_path / "a.cpd", spec, TEXT, **more)
    mixed = [s for s in seen if s[0] == MIXED]
    assert len(mixed) == 3 and all(s[3] is None for s in seen if s[0] != MIXED)
    assert all(g.shape == (80,) and (g >= 0).all() and g.max() > 2 * g.min() for *_, g in mixed)
    _, w, h, g = mixed[1]
    if how in ("fit", "kronecker"):
        with open_file(tmp_path / "a.cpd") as file:
            codes = file["model.layers.1.mlp.up_proj.weight"].codes()
        plain = encode("hadamard,trellis:2:memory=12", w, h, damping=0.02)
        e = plain.codec.decode(plain) - w
        rows = largest(g * np.einsum("ij,jk,ik->i", e, damped(h, 0.02), e), 0.15)
        taken = np.flatnonzero(np.unpackbits(codes.part("1.rows"), bitorder="little"))
        assert len(taken) == 12 and (how == "kronecker" or len(np.intersect1d(rows, taken)) >= 11)
    seen.clear()
    stop_at = 11
    with pytest.raises(KeyboardInterrupt):
        where.compress(model, tmp_path / "b.cpd", spec, TEXT, **more)
    stop_at = 0
    monkeypatch.setattr(language_fisher, "_backward", lambda *a: pytest.fail("measured anew"))
    where.compress(model, tmp_path / "b.cpd", spec, TEXT, **more)
    assert (tmp_path / "a.cpd").read_bytes() == (tmp_path / "b.cpd").read_bytes()


def test_what_cannot_be_known_is_said(model, tmp_path, monkeypatch):
    for rows in ({}, {"m": np.zeros(8)}, {"m": np.full(8, np.nan)}):
        with pytest.raises(InputError, match="m: .* needs to know which outputs matter"):
            language_rows.importance(MIXED, "m", rows)
    assert language_rows.importance("int:4", "m", {}) is None
    backward = language_fisher._backward

    def deaf(*args):
        return {n: f._replace(outputs=np.zeros_like(f.outputs)) for n, f in backward(*args).items()}
    monkeypatch.setattr(language_fisher, "_backward", deaf)
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.up_proj: .* no finite gradient"):
        language_fit.compress(model, tmp_path / "out.cpd", spec, TEXT, length=32, sequences=4)


def test_a_plan_shares_bits_among_rows_too(model, tmp_path):
    name = "model.layers.0.self_attn.k_proj.weight"
    plain, rows = (language_plan.plan(model, 3.2, TEXT, effort="low", sequences=3, length=48, rows=r) for r in (False, True))
    assert rows.slopes[name].shape == (5,) and plain.slopes[name].shape == (1,)
    assert all(s.sum() == pytest.approx(plain.slopes[n].sum()) for n, s in rows.slopes.items())
    assert rows.bits <= 3.2 and rows.kld / rows.factor <= plain.kld / plain.factor * 1.001
    assert any("salient" in s for s in rows.ladders[name]) and not any("salient" in s for s in plain.ladders[name])
    slopes = rows.slopes | {name: np.array([5, 3, 1, 0.1, 0.1])}  # a matrix of which few rows matter, and much
    mixed = language_plan.plan(model, 3.2, TEXT, effort="low", rows=True, slopes=slopes)
    assert "salient" in mixed.specs[name] and mixed.bits <= 3.2
    without = language_plan.plan(model, 3.2, TEXT, effort="low", slopes=slopes)
    assert "salient" not in without.specs[name] and mixed.kld < without.kld
    result = language_fit.compress(model, tmp_path / "out.cpd", mixed.spec, TEXT, sequences=4, length=48)
    assert all(np.isfinite(v) for v in result["lost"].values())
    with open_file(tmp_path / "out.cpd") as file:
        codes, want = file[name].codes(), language_slopes.nbytes(mixed.specs[name], *mixed.sizes[name])
        assert abs(codes.nbytes - want) < 0.05 * want


def test_rows_of_which_nothing_is_known_matter_alike():
    one, five = (language_slopes.levels("(hadamard,int:3)+salient:0.3:4", 64, n) for n in (1, 5))
    share = np.diff([0, *language_slopes.CLASSES])
    assert one.shape == (1,) and one[0] == pytest.approx(share @ five)


def test_generations_know_rows(model):
    plan = language_plan.plan(model, 3.2, TEXT, effort="low", sequences=2, length=48, generations=1, rows=True)
    assert plan.bits <= 3.2 and plan.kld > 0
