"""Folders of codes and .cpd files: one into the other, with the same codes; damage is told."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import compand
from compand.cli.app import app
from compand.errors import CompandError, FormatError, InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")

import compand.hf  # noqa: E402
from compand.hf import CompandConfig  # noqa: E402

IDS = torch.arange(2, 34)[None]


def load(folder, **more):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture(params=["Llama", "Gemma3Text", "Qwen2"])
def plain(request, tmp_path):
    torch.manual_seed(2)
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, tie_word_embeddings=request.param != "Qwen2", eos_token_id=None, bos_token_id=None, pad_token_id=None)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def run(*words):
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_line_there_and_back(plain, tmp_path):
    compand.modality.pack(plain, tmp_path / "a.cpd", spec="hadamard,trellis:4:memory=12,rans")
    run("transcode", tmp_path / "a.cpd", tmp_path / "coded")
    told = json.loads(run("transcode", tmp_path / "coded", tmp_path / "b.cpd", "--json"))
    with compand.open(tmp_path / "a.cpd") as a, compand.open(tmp_path / "b.cpd") as b:
        names = {n for n in a.names if a[n].kind == "array"}
        assert names == {n for n in b.names if b[n].kind == "array"}
        for name in names:
            assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape)
            np.testing.assert_array_equal(a[name].array(), b[name].array())
        assert told["coded"] == sum("trellis" in b[n].codec.spec for n in names) > 13
    run("decompress", tmp_path / "a.cpd", "-o", tmp_path / "x")
    run("decompress", tmp_path / "b.cpd", "-o", tmp_path / "y")
    assert torch.equal(logits(load(tmp_path / "x")), logits(load(tmp_path / "y")))
    assert torch.equal(logits(load(tmp_path / "coded")), logits(compand.hf.from_pretrained(tmp_path / "b.cpd", dtype=torch.float32)))


def test_what_save_pretrained_wrote(plain, tmp_path):
    model = load(plain, quantization_config=CompandConfig(spec="int:4:group=32", head=True, overrides={"down_proj": None}))
    model.save_pretrained(tmp_path / "coded")
    found = compand.hf.repack(tmp_path / "coded", tmp_path / "m.cpd")
    with compand.open(tmp_path / "m.cpd") as file:
        assert "int" not in file["model.layers.0.mlp.down_proj.weight"].codec.spec
        assert found["coded"] == sum("int:4" in file[n].codec.spec for n in file.names)
    assert torch.equal(logits(compand.hf.from_pretrained(tmp_path / "m.cpd", dtype=torch.float32)), logits(model))
    with pytest.raises(InputError, match="transcode"):
        compand.modality.detect(tmp_path / "coded")


def test_damage_is_told(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "plain")
    load(tmp_path / "plain", quantization_config=CompandConfig(spec="int:4:group=32")).save_pretrained(tmp_path / "coded")
    with pytest.raises(InputError, match="no quantization_config"):
        compand.hf.repack(tmp_path / "plain", tmp_path / "m.cpd")
    path, kept = tmp_path / "coded" / "config.json", (tmp_path / "coded" / "config.json").read_bytes()
    good = json.loads(kept)
    for change in ({"spec": "int:5:group=32"}, {"spec": "planes"}, {"spec": 7}, {"overrides": ["("]}, {"overrides": {"(": None}},
                   {"spec": "int:4:group=16"}):
        path.write_text(json.dumps({**good, "quantization_config": {**good["quantization_config"], **change}}))
        with pytest.raises(CompandError):
            compand.hf.repack(tmp_path / "coded", tmp_path / "m.cpd")
    for change in ({"hidden_size": "x"}, {"hidden_size": 32}, {"model_type": 3}, {"num_attention_heads": 0}):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(FormatError):
            compand.hf.repack(tmp_path / "coded", tmp_path / "m.cpd")
    rng = np.random.default_rng(0)
    for _ in range(60):
        bad = bytearray(kept)
        for at in rng.integers(0, len(bad), 3):
            bad[at] = rng.integers(256)
        path.write_bytes(bytes(bad))
        try:
            compand.hf.repack(tmp_path / "coded", tmp_path / "m.cpd", overwrite=True)
        except CompandError:
            pass
