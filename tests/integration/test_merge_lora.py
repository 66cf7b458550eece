"""LoRA adapters merged: against PEFT's own merge, and hostile ones."""

import json

import numpy as np
import pytest

from compand.errors import CompandError, FormatError, InputError, OverwriteError, UnsupportedError
from compand.integration.merge_lora import merge

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")
safe = pytest.importorskip("safetensors.torch")


def llama(folder, dtype):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=96, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                                      num_key_value_heads=2, head_dim=12, tie_word_embeddings=False, attention_bias=True)
    transformers.AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder, max_shard_size="60KB")
    return folder


def gpt2(folder, dtype):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32)
    transformers.AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)
    return folder


def adapt(base, folder, **config):
    """A PEFT adapter of random factors, saved; and the model that PEFT merges, in float32."""
    peft = pytest.importorskip("peft")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name or p.requires_grad:
                p.copy_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    return {n: p.detach() for n, p in model.merge_and_unload().state_dict().items()}


CASES = {
    "plain": (llama, {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}),
    "rslora": (llama, {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": "all-linear"}),
    "patterns": (llama, {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"],
                         "rank_pattern": {"down_proj": 8, "model.layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"v_proj": 3}}),
    "biases": (llama, {"r": 4, "target_modules": ["q_proj", "o_proj"], "lora_bias": True}),
    "saved": (llama, {"r": 4, "target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"], "bias": "lora_only"}),
    "turned": (gpt2, {"r": 4, "lora_alpha": 6, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of PEFT and transformers about each other
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_merge_is_that_of_peft(tmp_path, case, dtype):
    make, config = CASES[case]
    base, adapter, out = make(tmp_path / "base", dtype), tmp_path / "adapter", tmp_path / "out"
    before = {p.name: p.read_bytes() for p in base.iterdir()}
    want = adapt(base, adapter, **config)
    seen = []
    result = merge(base, adapter, out, progress=lambda *a: seen.append(a[0]))
    assert {p.name: p.read_bytes() for p in base.iterdir()} == before  # the base is kept
    assert {p.name for p in out.iterdir()} == set(before) and seen == list(range(1, result["tensors"] + 1))
    old, new = ({n: t for p in f.glob("*.safetensors") for n, t in safe.load_file(p).items()} for f in (base, out))
    assert old.keys() == new.keys() and all(old[n].dtype == new[n].dtype == dtype for n in new)
    changed = sum(not torch.equal(old[n], new[n]) for n in new)
    assert changed == result["merged"] + result["replaced"] and 2 <= changed < len(new)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    for name, p in loaded.state_dict().items():
        torch.testing.assert_close(p, want[name], rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return llama(tmp_path_factory.mktemp("base"), torch.float16)


def write(folder, tensors=None, config=None, **more):
    folder.mkdir(exist_ok=True)
    at = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = tensors or {f"{at}.lora_A.weight": torch.ones(2, 48), f"{at}.lora_B.weight": torch.ones(48, 2)}
    safe.save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **more} if config is None else config
    (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def test_a_cpd_is_a_base_too(base, tmp_path):
    from compand.modality import pack

    pack(base, tmp_path / "base.cpd", lossless=True)
    adapter = write(tmp_path / "a")
    for name, source in (("x", base), ("y", tmp_path / "base.cpd")):
        merge(source, adapter, tmp_path / name)
    files = {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir()}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "y").iterdir()}
    with pytest.raises(OverwriteError):
        merge(base, adapter, tmp_path / "x")
    for own in (base, adapter):
        with pytest.raises(InputError, match="kept"):
            merge(base, adapter, own, overwrite=True)


Q = "base_model.model.model.layers.0.self_attn.q_proj"
HOSTILE = {
    "dora": ({"use_dora": True}, None, UnsupportedError, "DoRA"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, None, UnsupportedError, "changes the base"),
    "kind": ({"peft_type": "IA3"}, None, UnsupportedError, "IA3"),
    "rank is a lie": ({"r": 3}, None, FormatError, "rank"),
    "rank 0": ({"r": 0}, None, FormatError, "not what PEFT writes"),
    "rank true": ({"r": True}, None, FormatError, "not what PEFT writes"),
    "alpha": ({"lora_alpha": "4"}, None, FormatError, "not what PEFT writes"),
    "huge alpha": ({"lora_alpha": 10**400}, None, FormatError, "not what PEFT writes"),
    "beyond the dtype": ({"lora_alpha": 1e29}, None, InputError, "beyond float16"),
    "pattern": ({"rank_pattern": {"(a+)+$": 2}}, None, UnsupportedError, "regular expression"),
    "patterns": ({"rank_pattern": [2]}, None, FormatError, "not what PEFT writes"),
    "no pair": ({}, {f"{Q}.lora_A.weight": (2, 48)}, FormatError, "pair"),
    "other sizes": ({}, {f"{Q}.lora_A.weight": (2, 47), f"{Q}.lora_B.weight": (48, 2)}, FormatError, "the base has"),
    "ranks differ": ({}, {f"{Q}.lora_A.weight": (2, 48), f"{Q}.lora_B.weight": (48, 3)}, FormatError, "rank"),
    "flat": ({}, {f"{Q}.lora_A.weight": (96,), f"{Q}.lora_B.weight": (48, 2)}, FormatError, "rank"),
    "nowhere": ({}, {"a.b.lora_A.weight": (2, 48), "a.b.lora_B.weight": (48, 2)}, FormatError, "no tensor"),
    "magnitude": ({}, {f"{Q}.lora_magnitude_vector": (48,)}, UnsupportedError, "plain LoRA"),
    "twice": ({}, {f"{p}model.norm.weight": (48,) for p in ("", "base_model.model.")}, FormatError, "two tensors"),
    "prefixes": ({}, {f"{p}model.norm.weight": (48,) for p in ("", "x.")}, FormatError, "twice"),
    "whole": ({}, {"model.norm.weight": (4, 12)}, FormatError, "the base has"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_adapters_end_in_words(base, tmp_path, case):
    more, shapes, kind, words = HOSTILE[case]
    adapter = write(tmp_path / "a", shapes and {n: torch.ones(s) for n, s in shapes.items()}, **more)
    with pytest.raises(kind, match=words):
        merge(base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_broken_files_end_in_words(base, tmp_path):
    for config in ("", "[" * 100_000, "[]", "\xff", '{"peft_type": "LORA"}', '{"peft_type": {}}'):
        with pytest.raises(CompandError):
            merge(base, write(tmp_path / "a", config=config), tmp_path / "out")
    adapter = write(tmp_path / "a")
    data, rng = (adapter / "adapter_model.safetensors").read_bytes(), np.random.default_rng(0)
    good = 0
    for i in range(150):
        broken = bytearray(data[:rng.integers(len(data))] if i % 3 == 0 else data)
        if i % 3 and len(broken):
            broken[rng.integers(min(len(broken), 300))] ^= 1 << rng.integers(8)
        (adapter / "adapter_model.safetensors").write_bytes(bytes(broken))
        try:
            merge(base, adapter, tmp_path / "out", overwrite=True)
            good += 1
        except CompandError:
            pass
    assert good < 100
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (adapter / name).unlink()
        with pytest.raises(FormatError, match=name):
            merge(base, adapter, tmp_path / "out2")


def test_command_line(base, tmp_path):
    from typer.testing import CliRunner

    from compand.cli.app import app

    adapter, out = write(tmp_path / "a"), tmp_path / "tuned"
    result = CliRunner().invoke(app, ["merge-lora", str(base), str(adapter), "-o", str(out), "--json"])
    assert result.exit_code == 0 and json.loads(result.output)["merged"] == 1
    assert CliRunner().invoke(app, ["merge-lora", str(base), str(adapter), "-o", str(out)]).exit_code == 1
    result = CliRunner().invoke(app, ["merge-lora", str(base), str(adapter), "-f", "-o", str(out)])
    assert result.exit_code == 0 and "1 of" in result.output
