"""Models of transformers whose linear layers are codes."""

import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import compand  # noqa: E402
import compand.hf  # noqa: E402
from compand.errors import FormatError, InputError, UnsupportedError  # noqa: E402
from compand.hf import CodedLinear, CompandConfig  # noqa: E402

KINDS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)),
    "gemma": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(
        vocab_size=97, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=32, max_position_embeddings=64, sliding_window=16, bos_token_id=1, eos_token_id=2, pad_token_id=0)),
}
IDS = torch.arange(3, 15)[None]
load = transformers.AutoModelForCausalLM.from_pretrained


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    KINDS[request.param]().save_pretrained(path)
    return path


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("config", [
    {"bits": 4}, {"bits": 8}, {"bits": 3, "group_size": 32}, {"spec": "int:4:group=64+int:4:group=64"}, {"spec": "table:16:group=32"},
    {"spec": "center,int:6", "overrides": {"down_proj": "int:8", "q_proj": None}}], ids=str)
def test_load_save_load(folder, tmp_path, config):
    full = logits(load(folder))
    model = load(folder, quantization_config=CompandConfig(**config))
    coded = [m for m in model.modules() if isinstance(m, CodedLinear)]
    assert len(coded) == (12 if "overrides" in config else 14)
    y = logits(model)
    room = {4: 0.5, 8: 0.1}.get(config.get("bits"), 0.6)
    assert 0 < (y - full).std() < room * full.std()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    saved = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert saved["quant_method"] == "compand" and saved["spec"] == CompandConfig(**config).spec
    again = load(tmp_path)
    assert torch.equal(logits(again), y)
    a, b = model.state_dict(), again.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_generate_beams_and_gradients(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=CompandConfig(bits=4))
    for beams in (1, 3):
        out = model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=5, num_beams=beams, do_sample=False)
        assert out.shape[1] > IDS.shape[1]
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad.abs().sum() > 0
    plain = model.dequantize()
    assert not any(isinstance(m, CodedLinear) for m in plain.modules())
    assert logits(plain).shape == (1, 12, 97)


def test_compiled_around_the_products():
    torch.manual_seed(0)
    model = torch.nn.Sequential(CodedLinear.of(torch.nn.Linear(64, 96), "hadamard,int:4:group=64"), torch.nn.GELU(), torch.nn.Linear(96, 8))
    x = torch.randn(3, 64)
    with torch.no_grad():
        assert torch.equal(torch.compile(model, backend="aot_eager")(x), model(x))


def test_dtypes(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=CompandConfig(bits=8))
    y = logits(model)
    assert y.dtype == torch.bfloat16 and torch.isfinite(y).all()
    before = {k: v for k, v in model.state_dict().items() if v.dtype == torch.uint8}
    after = model.to(torch.float32).state_dict()
    assert before and all(after[k].dtype == torch.uint8 for k in before)


def test_layer_is_matmul_on_its_codes():
    torch.manual_seed(1)
    linear = torch.nn.Linear(130, 50)
    x = torch.randn(2, 3, 130)
    for spec in ("hadamard,trellis:4:memory=12", "int:3:group=32", "lowrank:4+int:4", "permute,int:8"):
        layer = CodedLinear.of(linear, spec)
        y = compand.matmul(x, layer.codes)
        assert torch.equal(layer(x), y + layer.bias)
        w = layer.dequantized()
        np.testing.assert_array_equal(w.numpy(), layer.codes.codec.decode(layer.codes))
        assert (y - x @ w.T).std() < 0.02 * y.std()
        x.requires_grad_()
        layer(x).sum().backward()
        torch.testing.assert_close(x.grad, w.sum(0).expand_as(x))
        x = x.detach()


def test_errors():
    with pytest.raises(InputError, match="1 to 8"):
        CompandConfig(bits=9)
    with pytest.raises(UnsupportedError):
        CompandConfig(spec="nothing:4")
    for kept in ({"spec": "ranks"}, {"overrides": {"q_proj": "planes,rans"}}):
        with pytest.raises(InputError, match="keeps every bit"):
            CompandConfig(**kept)
    with pytest.raises(InputError, match="no regular expression"):
        CompandConfig(overrides={"(": "int:4"})
    with pytest.raises(InputError, match="keeps every bit"):
        CodedLinear(64, 64, "ranks")
    with pytest.raises(InputError, match="known before"):
        CodedLinear(64, 64, "sparse:0.01+int:4")
    with pytest.raises(InputError, match="known before"):
        CodedLinear(64, 64, "int:4,rans")
    layer = CodedLinear.of(torch.nn.Linear(64, 64), "int:4")
    with pytest.raises(InputError, match="NaN"):
        layer.code(torch.full((64, 64), torch.nan))
    layer.weight = layer.weight[:, :5]
    with pytest.raises(InputError, match="buffer"):
        layer(torch.ones(1, 64))


def tied(folder, family="Llama", **more):
    config = getattr(transformers, f"{family}Config")(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, tie_word_embeddings=True, eos_token_id=None, bos_token_id=None, pad_token_id=None, **more)
    torch.manual_seed(2)
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", ["Llama", "Gemma3Text"])
def test_tied_head_is_coded_once(family, tmp_path):
    full = logits(tied(tmp_path / "m", family))
    model = load(tmp_path / "m", quantization_config=CompandConfig(spec="int:8:group=32", head=True))
    y = logits(model)
    assert isinstance(model.lm_head, CodedLinear) and 0 < (y - full).std() < 0.05 * full.std()
    model.save_pretrained(tmp_path / "c")
    again = load(tmp_path / "c")
    assert torch.equal(logits(again), y)
    stored = sum(p.stat().st_size for p in (tmp_path / "c").glob("*.safetensors"))
    assert stored < 0.4 * sum(p.stat().st_size for p in (tmp_path / "m").glob("*.safetensors"))
    a, b = (m.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=6, do_sample=False, num_beams=2) for m in (model, again))
    assert torch.equal(a, b)


@pytest.mark.parametrize("spec", ["int:8:group=32", "hadamard,trellis:4:memory=12,rans", "int:6:group=32,rans",
                                  "sparse:0.02+int:8:group=32", "pq:16x8"])
@pytest.mark.parametrize("family", ["Llama", "Gemma3Text"])
def test_model_in_a_cpd_file(spec, family, tmp_path):
    tied(tmp_path / "m", family)
    compand.modality.pack(tmp_path / "m", tmp_path / "m.cpd", spec=spec)
    compand.modality.unpack(tmp_path / "m.cpd", tmp_path / "decoded")
    full = logits(load(tmp_path / "decoded"))
    model = compand.hf.from_pretrained(tmp_path / "m.cpd")
    y = logits(model)
    assert (y - full).std() < 0.02 * full.std()
    coded = [m for m in model.modules() if isinstance(m, CodedLinear)]
    assert len(coded) == (0 if "sparse" in spec else 15)
    folder = compand.hf.unpack(tmp_path / "m.cpd", tmp_path / "again")
    assert torch.equal(logits(load(folder)), y)
    beside = tmp_path / "beside"
    beside.mkdir()
    (tmp_path / "m.cpd").rename(beside / "model.cpd")
    (beside / "config.json").write_text((tmp_path / "m" / "config.json").read_text())
    plain = load(beside)
    assert torch.equal(logits(plain), y) and plain.name_or_path == str(beside)
    assert sum(isinstance(m, CodedLinear) for m in plain.modules()) == len(coded)
    assert torch.equal(logits(type(plain).from_pretrained(beside)), y)


def test_cpd_file_without_a_model(tmp_path):
    with compand.Writer(tmp_path / "x.cpd") as out:
        out.write("w", np.eye(64, dtype=np.float32), compand.Codec("int:4"))
    with pytest.raises(FormatError, match="no model folder"):
        compand.hf.from_pretrained(tmp_path / "x.cpd")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft uses a name of transformers that will go
def test_adapters_train_and_the_codes_stay(folder, tmp_path):
    peft = pytest.importorskip("peft")
    model = load(folder, quantization_config=CompandConfig(bits=4))
    compand.hf.run_natively(model, False)  # as layers with adapters run
    before = logits(model)
    adapted = compand.hf.with_adapters(model, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    first = None
    for _ in range(5):
        loss = adapted(IDS, labels=IDS).loss
        first = first or float(loss.detach())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss.detach()) < first
    with torch.no_grad(), adapted.disable_adapter():
        assert torch.equal(adapted(IDS).logits, before)
    trained = logits(adapted)
    assert not torch.equal(trained, before)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(load(folder, quantization_config=CompandConfig(bits=4)), tmp_path)
    assert torch.equal(logits(again), trained)
    with pytest.raises(UnsupportedError, match="merge-lora"):
        again.merge_and_unload()
    plain = again.unload()
    compand.hf.run_natively(plain, False)
    assert torch.equal(logits(plain), before)
    for odd in ({"use_dora": True}, {"init_lora_weights": "pissa"}):
        with pytest.raises(UnsupportedError, match="plain LoRA"):
            peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=["q_proj"], **odd))


def test_adapters_where_peft_comes_first():
    pytest.importorskip("peft")
    code = ("import peft, compand.hf, torch\nn = torch.nn.Linear(64, 64)\n"
            "m = torch.nn.Sequential(compand.hf.CodedLinear.of(n, 'int:8'), torch.nn.Linear(64, 64))\nx = torch.ones(1, 64)\n"
            "a = peft.get_peft_model(m, peft.LoraConfig(r=2, target_modules=['0', '1']))\n"
            "assert 'CodedLora' in repr(a) and torch.equal(a(x), m(x))")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
