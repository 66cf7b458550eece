"""Adapters: the change B A stays near, B makes up for A, sparse ternary codes are as small as they say, PEFT loads what comes back."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from compand import open as open_file
from compand.errors import FormatError, InputError, OverwriteError
from compand.integration import adapter_fit
from compand.modality import unpack

safe = pytest.importorskip("safetensors.numpy")
RNG = np.random.default_rng(0)
CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "base_model_name_or_path": "x"}


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    tensors = {}
    for i in range(2):
        stem = f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_"
        tensors |= {f"{stem}A.weight": RNG.standard_normal((8, 320)).astype(np.float32), f"{stem}B.weight":
                    (RNG.standard_normal((256, 8)) * np.geomspace(1, 0.1, 8)).astype(np.float32)}
    safe.save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    return folder


def change(folder):
    t = safe.load_file(folder / "adapter_model.safetensors")
    return [t[f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_B.weight"] @
            t[f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_A.weight"] for i in range(2)]


@pytest.mark.parametrize(("spec", "most", "bits"), [("int:8", 0.03, 9), ("int:4", 0.2, 5), ("ternary:keep=0.2,rans", 0.85, 1.8),
                                                     ("sign", 0.85, 2)])
def test_there_and_back(adapter, tmp_path, spec, most, bits):
    out = tmp_path / "a.cpd"
    result = adapter_fit.compress(adapter, out, spec)
    unpack(out, tmp_path / "back")
    off, whole = (sum(float(np.square(x, dtype=np.float64).sum()) for x in xs)
                  for xs in ([a - b for a, b in zip(change(adapter), change(tmp_path / "back"), strict=True)], change(adapter)))
    assert result["error"] == pytest.approx((off / whole) ** 0.5, rel=1e-3) and result["error"] < most
    assert json.loads((tmp_path / "back" / "adapter_config.json").read_text()) == CONFIG
    with open_file(out) as file:
        codes = sum(file[n].nbytes for n in file if n.endswith("weight"))
        assert 8 * codes / result["values"] < bits and len(result["lost"]) == 2
        if spec.startswith("ternary"):
            a = file["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"].array()
            assert (a != 0).mean() == pytest.approx(0.2, abs=0.01) and len(np.unique(np.abs(a[0]))) == 2


def test_b_makes_up_for_a(adapter):
    a, b = RNG.standard_normal((8, 300)), RNG.standard_normal((200, 8))
    a_hat = np.sign(a) * 0.8
    own = adapter_fit.refitted(b, a, a_hat)
    errors = [np.square(x @ a_hat - b @ a).sum() for x in (b, own)]
    assert errors[1] < 0.97 * errors[0]
    rest = (own @ a_hat - b @ a) @ a_hat.T  # what is left is orthogonal to all that could be said
    assert np.abs(rest).max() < 1e-2
    assert adapter_fit.error(a, b, a_hat, own)[0] == pytest.approx(errors[1], rel=1e-4)


def test_refused(adapter, tmp_path):
    adapter_fit.compress(adapter, tmp_path / "a.cpd", "int:4")
    with pytest.raises(OverwriteError):
        adapter_fit.compress(adapter, tmp_path / "a.cpd", "int:4")
    with pytest.raises(InputError, match="lossless"):
        adapter_fit.compress(adapter, tmp_path / "b.cpd", "planes,rans")
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(Exception, match="type"):
        adapter_fit.compress(adapter, tmp_path / "b.cpd", "int:4")
    with pytest.raises(FormatError):
        adapter_fit.compress(tmp_path, tmp_path / "b.cpd", "int:4")
    assert not adapter_fit.is_adapter(tmp_path)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_peft_loads_it(tmp_path):
    torch = pytest.importorskip("torch")
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = transformers.LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4)
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(config)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn_like(p))
    model.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = model(ids).logits
    result = adapter_fit.compress(tmp_path / "adapter", tmp_path / "a.cpd", "int:8")
    unpack(tmp_path / "a.cpd", tmp_path / "back")
    again = peft.PeftModel.from_pretrained(model.unload(), tmp_path / "back")
    with torch.no_grad():
        after = again(ids).logits
    assert 0 < result["error"] < 0.03 and float((after - before).norm() / before.norm()) < 0.2


def test_command_line(adapter, tmp_path):
    from compand.cli.app import app

    out = tmp_path / "o.cpd"
    result = CliRunner().invoke(app, ["compress", str(adapter), "--bits", "2", "-o", str(out), "-v"])
    assert result.exit_code == 0 and "[int:2]" in result.stdout and "q_proj" in result.stdout, result.output
    result = CliRunner().invoke(app, ["compress", str(adapter), "ternary:keep=0.1,rans", "-f", "-o", str(out), "--json"])
    assert result.exit_code == 0 and 0 < json.loads(result.stdout)["error"] < 1
    result = CliRunner().invoke(app, ["compress", str(adapter), "--bits", "2.5", "-f", "-o", str(out)])
    assert result.exit_code == 2 and "whole number" in result.output
    result = CliRunner().invoke(app, ["decompress", str(out), "-o", str(tmp_path / "folder")])
    assert result.exit_code == 0 and adapter_fit.is_adapter(tmp_path / "folder")
    result = CliRunner().invoke(app, ["compress", str(adapter), "-o", str(tmp_path / "whole.cpd")])  # nothing is lost unless asked
    assert result.exit_code == 0 and "exact" in result.stdout
