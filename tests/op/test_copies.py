"""What memory is available, and models that are copied to it or read in place."""

import json

import numpy as np
import pytest

import compand
from compand.lm import load, weights
from compand.op import memory


def test_what_the_system_says(tmp_path, monkeypatch):
    said = tmp_path / "meminfo"
    said.write_text("MemTotal:  8192 kB\nMemAvailable:  4096 kB\n")
    monkeypatch.setattr(memory, "_group", lambda: [])
    monkeypatch.setattr(memory, "_addresses", lambda: [])
    assert memory.available(said) == 4 << 20
    monkeypatch.setattr(memory, "_group", lambda: [3 << 20])
    assert memory.available(said) == 3 << 20
    for text in ("", "MemAvailable: much", "MemTotal: 1 kB"):
        said.write_text(text)
        assert memory.available(said) == 0
    monkeypatch.setattr(memory, "available", lambda: 4000)
    assert memory.copied(999) and not memory.copied(1000)


@pytest.mark.parametrize("spec", ["int:4:group=64", "trellis:3:memory=12", "int:3:group=64"])
def test_copied_models_answer_the_same(tmp_path, monkeypatch, spec):
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 1, "num_attention_heads": 4,
              "num_key_value_heads": 4, "vocab_size": 64, "max_position_embeddings": 64, "tie_word_embeddings": True}
    shapes = {f"self_attn.{p}_proj": (64, 64) for p in "qkvo"}
    shapes |= {"mlp.gate_proj": (160, 64), "mlp.up_proj": (160, 64), "mlp.down_proj": (64, 160)}
    rng, at = np.random.default_rng(0), tmp_path / "model.cpd"
    with compand.Writer(at) as out:
        for name, shape in shapes.items():
            out.write(f"model.layers.0.{name}.weight", rng.standard_normal(shape, dtype=np.float32), spec)
        for name in ("layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"):
            out.write(f"model.{name}.weight", np.ones(64, np.float32), "raw")
        out.write("model.embed_tokens.weight", rng.standard_normal((64, 64), dtype=np.float32), spec)
        out.write_file("config.json", json.dumps(config).encode())
    found, asked = [], []
    for copy in (False, True):
        monkeypatch.setattr(weights, "copied", lambda size, copy=copy: asked.append(size) or copy)
        model = load(at)
        found.append([model.logits([1, 2, 3, 4, 5]), model.logits([7])])
    assert asked == [at.stat().st_size] * 2
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
