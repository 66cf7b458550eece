"""GGUF language models become folders that transformers loads: the same weights, configuration and tokens; damage is named."""

import json
import struct

import numpy as np
import pytest

from compand import CompandError, FormatError, UnsupportedError
from compand.integration.gguf_folder import to_folder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")

PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", "\n", *(f"<0x{i:02X}>" for i in range(256)),
          "▁", "a", "b", "c", "ab", "▁a", "▁ab", "bc", "▁abc"]
KINDS = [3, 3, 3, 2, 4] + [6] * 256 + [1] * 9


def text(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def value(v):
    if isinstance(v, bool):
        return struct.pack("<IB", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + text(v)
    kind, each = (8, text) if isinstance(v[0], str) else (6, lambda x: struct.pack("<f", x)) if isinstance(v[0], float) else \
        (5, lambda x: struct.pack("<i", x))
    return struct.pack("<IIQ", 9, kind, len(v)) + b"".join(map(each, v))


def write(path, metadata, tensors):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(text(k) + value(v) for k, v in metadata.items())
    data = b""
    for name, x in tensors.items():
        head += text(name) + struct.pack(f"<I{x.ndim}QIQ", x.ndim, *x.shape[::-1], 0, len(data))
        data += x.tobytes() + bytes(-x.nbytes % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def halves_to_pairs(w, heads):
    return w.reshape(heads, 2, -1, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def gguf(path, kind, **changed):
    """A GGUF of a small random model, and the model."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(PIECES), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 7, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "rms_norm_eps": 1e-5}
    extra = {"sliding_window": 16, "query_pre_attn_scalar": 8, "tie_word_embeddings": True} if kind == "gemma3" else {}
    config = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config,
              "gemma3": transformers.Gemma3TextConfig}[kind](**sizes, **extra)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * 0.1 + (name.endswith("norm.weight") and kind != "gemma3"))
    names = {"embed_tokens": "token_embd", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "post_attention_norm" if kind == "gemma3" else "ffn_norm",
             "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm", "norm": "output_norm"}
    tensors = {}
    for name, p in model.named_parameters():
        x = p.detach().numpy().astype(np.float32)
        if kind == "gemma3" and "norm" in name:
            x = x + 1
        own, _, last = name.removeprefix("model.").rpartition(".")
        if own.startswith("layers."):
            _, i, own = own.split(".", 2)
            if kind == "llama" and own[-6:] in ("q_proj", "k_proj"):
                x = halves_to_pairs(x, 4 if own[-6] == "q" else 2)
            tensors[f"blk.{i}.{names[own]}.{last}"] = np.ascontiguousarray(x)
        else:
            tensors["output.weight" if name == "lm_head.weight" else f"{names[own]}.{last}"] = x
    metadata = {"general.architecture": kind, f"{kind}.context_length": 128, f"{kind}.embedding_length": 32, f"{kind}.block_count": 7,
                f"{kind}.feed_forward_length": 48, f"{kind}.attention.head_count": 4, f"{kind}.attention.head_count_kv": 2,
                f"{kind}.attention.key_length": 8, f"{kind}.attention.layer_norm_rms_epsilon": 1e-5,
                f"{kind}.rope.freq_base": float((config.rope_parameters.get("full_attention") or config.rope_parameters)["rope_theta"]),
                "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": PIECES, "tokenizer.ggml.token_type": KINDS,
                "tokenizer.ggml.scores": [0.0] * 261 + [-float(i) for i in range(9)], "tokenizer.ggml.bos_token_id": 2,
                "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.unknown_token_id": 3, "tokenizer.ggml.add_space_prefix": False}
    if kind == "gemma3":
        metadata["gemma3.attention.sliding_window"] = 16
    metadata |= changed.pop("metadata", {})
    for key in changed.pop("without", ()):
        metadata.pop(key, None), tensors.pop(key, None)
    return write(path, metadata, tensors | changed.pop("tensors", {})), model


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma3"])
def test_the_folder_is_the_model(tmp_path, kind):
    path, model = gguf(tmp_path / "m.gguf", kind)
    to_folder(path, tmp_path / "out", dtype="float32")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ids = torch.arange(0, 40)[None] * 3 % len(PIECES)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_tokens(tmp_path):
    path, _ = gguf(tmp_path / "m.gguf", "gemma3")
    to_folder(path, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    said = "abc abc\nü <eos>"
    ids = tokenizer(said)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "ab", "c", "▁abc", "\n", "<0xC3>", "<0xBC>", "▁", "<eos>"]
    assert tokenizer.decode(ids) == "<bos>" + said and tokenizer.bos_token_id == 2 and tokenizer.eos_token_id == 1


def test_byte_level_tokens(tmp_path):
    path, _ = gguf(tmp_path / "m.gguf", "qwen2", without=["tokenizer.ggml.token_type"], metadata={
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens":
        ["a", "b", "ab", "Ġ", "Ġa", "1", "Ã", "¼", "<s>"],
        "tokenizer.ggml.merges": ["a b", "Ġ a"], "tokenizer.ggml.bos_token_id": 8, "tokenizer.ggml.eos_token_id": 8})
    to_folder(path, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab a11ü")["input_ids"]) == ["ab", "Ġa", "1", "1", "Ã", "¼"]
    assert tokenizer.decode(tokenizer("ab a11ü")["input_ids"]) == "ab a11ü"


@pytest.mark.parametrize(("changed", "error", "said"), [
    ({"metadata": {"general.architecture": "mamba"}}, UnsupportedError, "mamba"),
    ({"metadata": {"llama.attention.head_count": 3}}, FormatError, "heads"),
    ({"metadata": {"llama.embedding_length": 0}}, FormatError, "embedding_length"),
    ({"metadata": {"llama.rope.scaling.type": "yarn"}}, UnsupportedError, "yarn"),
    ({"metadata": {"tokenizer.ggml.model": "bert"}}, UnsupportedError, "bert"),
    ({"metadata": {"tokenizer.ggml.scores": [1.0]}}, FormatError, "scores"),
    ({"without": ["token_embd.weight"]}, FormatError, "token_embd"),
    ({"metadata": {"general.architecture": ["llama"]}}, UnsupportedError, "llama"),
    ({"metadata": {"llama.rope.scaling.type": [1, 2]}}, UnsupportedError, "scaling"),
    ({"metadata": {"tokenizer.ggml.model": [1, 2]}}, UnsupportedError, "tokenizer model"),
    ({"metadata": {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": [1, 2], "tokenizer.ggml.merges": ["a b"]}}, UnsupportedError,
     "pre"),
    ({"metadata": {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["no such"]}}, FormatError, "cannot be built"),
    ({"metadata": {"tokenizer.ggml.add_bos_token": [1, 2]}}, FormatError, "cannot be built"),
    ({"metadata": {"tokenizer.ggml.tokens": [*PIECES[:-1], "a" * 5000]}}, FormatError, "5,000 characters"),
    ({"without": ["tokenizer.ggml.tokens"]}, FormatError, "tokens"),
    ({"tensors": {"blk.0.ssm.weight": np.ones((1, 32), np.float32)}}, UnsupportedError, "no place"),
])
def test_faults_are_named_and_leave_nothing(tmp_path, changed, error, said):
    path, _ = gguf(tmp_path / "m.gguf", "llama", **changed)
    with pytest.raises(error, match=said) as caught:
        to_folder(path, tmp_path / "out")
    assert isinstance(caught.value, CompandError) and [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_command_line(tmp_path):
    from typer.testing import CliRunner

    from compand.cli.app import app

    path, _ = gguf(tmp_path / "m.gguf", "llama")
    result = CliRunner().invoke(app, ["transcode", str(path), str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0 and json.loads(result.output)["architecture"] == "LlamaForCausalLM", result.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_key_value_heads"] == 2
    assert CliRunner().invoke(app, ["transcode", str(path), str(tmp_path / "out")]).exit_code == 1
