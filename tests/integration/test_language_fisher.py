"""The Fisher information of layers, and codes that are fitted by it: on the small random Llama of test_language and on stories260K."""

import numpy as np
import pytest

from compand import InputError
from compand.fit.hessian import Hessian

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_language import TEXT, make  # noqa: E402

from compand.integration import language_distil, language_fisher, language_fit, language_target  # noqa: E402
from compand.integration.language import Language  # noqa: E402

SPEC = "hadamard,trellis:2:memory=12"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("biased", False), ("gemma", True)])
def test_layer_by_layer_as_through_the_whole_model(tmp_path, kind, tied):
    language = Language(make(tmp_path / "model", kind, tied))
    ids = language.tokens(TEXT, 24, 5)
    fishers = language_fisher.Fishers(tmp_path)
    fishers.measure(language, ids, seed=3)
    assert all(p.device.type == "meta" for p in language.model.parameters())
    language.whole()
    linear = {n: m for n, m in language.model.named_modules() if isinstance(m, torch.nn.Linear) and m is not language.head}
    seen, generator = {}, torch.Generator().manual_seed(3)


    def hook(name):
        def see(module, args, y):
            y.register_hook(lambda g: seen.setdefault(name, []).append(g[0].double().numpy()))
        return see

    for n, m in linear.items():
        m.register_forward_hook(hook(n))
    for row in ids:
        x = language.embedding(row[None]).detach().requires_grad_(True)
        said = language.logits(language.body(inputs_embeds=x, use_cache=False).last_hidden_state[0]).log_softmax(-1)
        said.gather(1, torch.multinomial(said.detach().exp(), 1, generator=generator)).sum().backward()
    for layer in language.layers:
        found = fishers[language.names[id(layer)]]
        assert len(found) == 7
        for name, fisher in found.items():
            g = np.stack(seen[name])
            np.testing.assert_allclose(fisher.importance, np.square(g).sum(-1), rtol=1e-3, atol=1e-6 * np.square(g).sum(-1).max())
            g = g.reshape(-1, g.shape[-1])
            assert np.trace(fisher.outputs) == pytest.approx(np.square(g).sum() / len(g), rel=1e-4)
            keep = (1 - language_fisher.DIAGONAL) * len(g) / (len(g) + g.shape[1])
            beside = g.T @ g / len(g) * (1 - np.eye(g.shape[1]))
            np.testing.assert_allclose(fisher.outputs * (1 - np.eye(g.shape[1])), keep * beside, rtol=1e-3, atol=1e-5 * np.square(g).mean())
    language.close()


def test_products_in_bfloat16(model, tmp_path, monkeypatch):
    language = Language(model)
    ids = language.tokens(TEXT, 24, 5)
    name = language.names[id(language.layers[1])]
    found = []
    for large in (language_target.LARGE, 0):  # as many parameters as a model has from which bfloat16 is used
        monkeypatch.setattr(language_target, "LARGE", large)
        fishers = language_fisher.Fishers(tmp_path / str(large))
        fishers.folder.mkdir()
        fishers.measure(language, ids)
        found.append(fishers[name])
    for module, (importance, outputs) in found[0].items():
        other = found[1][module]
        assert other.importance.dtype == np.float32 and np.corrcoef(importance.ravel(), other.importance.ravel())[0, 1] > 0.7
        assert 0.5 < np.trace(other.outputs) / np.trace(outputs) < 2
    language.close()


def test_tokens_count_by_their_importance(model, tmp_path):
    language = Language(model)
    language.whole()
    ids = language.tokens(TEXT, 24, 4)
    layer, name = language.layers[0], language.names[id(language.layers[0])]
    with torch.no_grad():
        hidden = [language.embedding(row[None]) for row in ids]
        arguments = language.arguments(ids[:1])[0]
        module = f"{name}.mlp.down_proj"
        weigh = {f"{name}.{n}": language_fisher.Fisher(np.random.default_rng(0).random(ids.shape, dtype=np.float32), np.eye(1))
                 for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear)}
        found = language_fit.gather(layer, hidden, arguments, name, weigh)
        want = Hessian(80)
        hook = layer.mlp.down_proj.register_forward_pre_hook(lambda m, x: inputs.append(x[0]))
        for j, h in enumerate(hidden):
            inputs = []
            layer(h, **arguments)
            want.add(inputs[0], weigh[module].importance[j])
        hook.remove()
    np.testing.assert_allclose(found[module].matrix, want.matrix, rtol=1e-6)
    assert len({id(h) for h in found.values()}) == 7
    language.close()


@pytest.mark.parametrize("how", [language_fit, language_distil])
def test_a_stopped_run_goes_on_to_the_same_bytes(model, tmp_path, monkeypatch, how):
    more = {"fit": "kronecker", "length": 32, "sequences": 9} | ({"effort": "low"} if how is language_distil else {})
    how.compress(model, tmp_path / "a.cpd", SPEC, TEXT, **more)
    calls, encode = [], how.feedback.encode

    def stop(*args, **kwargs):
        calls.append(kwargs.get("outputs"))
        if len(calls) == 12:
            raise KeyboardInterrupt
        return encode(*args, **kwargs)

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(how.feedback, "encode", stop)
        how.compress(model, tmp_path / "b.cpd", SPEC, TEXT, **more)
    assert sum(g is not None for g in calls) >= 11
    monkeypatch.setattr(language_fisher, "_backward", lambda *a: pytest.fail("measured anew"))
    how.compress(model, tmp_path / "b.cpd", SPEC, TEXT, **more)
    assert (tmp_path / "a.cpd").read_bytes() == (tmp_path / "b.cpd").read_bytes()
    assert not (tmp_path / "b.cpd.parts").exists()


def test_other_words(model, tmp_path):
    with pytest.raises(InputError, match="layer, attention or kronecker"):
        language_fit.compress(model, tmp_path / "a.cpd", SPEC, TEXT, fit="whole", length=32, sequences=4)
