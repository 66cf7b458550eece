"""Tokens that count by the attention they are paid."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_language import TEXT, make  # noqa: E402

from compand import open as open_file  # noqa: E402
from compand.errors import InputError  # noqa: E402
from compand.integration import language_fit  # noqa: E402
from compand.integration.language import Language  # noqa: E402
from compand.integration.language_tokens import FLOOR, Received, received  # noqa: E402


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_attention_is_that_of_the_model(tmp_path, kind):
    make(tmp_path, kind)
    language = Language(tmp_path)
    ids = language.tokens(TEXT, 40, 2)
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        language.whole()
        wanted = whole(ids[:1], output_attentions=True).attentions
        h, arguments = language.embedding(ids[:1]), language.arguments(ids[:1])
        for layer, more, w in zip(language.layers, arguments, wanted, strict=True):
            found = received(layer, h, more)
            np.testing.assert_allclose(found, w.double().sum((0, 1, 2)).numpy(), rtol=2e-3)
            assert abs(found.sum() - 40 * 4) < 1e-3  # each of four heads of each token pays one
            weights = Received().importance(layer, [h, h], more)
            assert len(weights) == 2 and weights[0].min() == np.float32(FLOOR ** 2) and weights[0].max() == 1
            before = layer(h, **more)
            h = before[0] if isinstance(before, tuple) else before
        assert layer.self_attn.config._attn_implementation == "sdpa"
    with pytest.raises(InputError, match="no attention"):
        received(layer.mlp, h, {})
    language.close()


def test_compress_by_attention(tmp_path):
    make(tmp_path / "model")
    found = []
    for fit in ("layer", "attention"):
        language_fit.compress(tmp_path / "model", tmp_path / f"{fit}.cpd", "int:3", TEXT, sequences=6, length=64, fit=fit)
        with open_file(tmp_path / f"{fit}.cpd") as file:
            found.append({n: file[n].codes().nbytes for n in file.names if n.endswith("proj.weight")})
            found.append([file[n].array().astype(np.float32) for n in found[-1]])
    assert found[0] == found[2]
    assert not all(np.array_equal(a, b) for a, b in zip(found[1], found[3], strict=True))
    with pytest.raises(InputError, match="layer, attention or kronecker"):
        language_fit.compress(tmp_path / "model", tmp_path / "x.cpd", "int:3", TEXT, sequences=6, length=64, fit="other")
