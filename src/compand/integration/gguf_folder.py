"""A GGUF language model as a Hugging Face folder: configuration, tokenizer and dequantized weights. Needs ``pip install compand[hf]``.

Source: the conventions of llama.cpp's converter, undone: names of tensors, the order of rotary halves in llama, and gemma's norms,
whose weights are stored with the 1 that the model adds.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from ..dtypes import dtype as dtype_of
from ..errors import FormatError, UnsupportedError
from ..modality.gguf import Gguf
from ..modality.output import whole_folder
from ..modality.safetensors import write_new
from .gguf_tokenizer import write_tokenizer

NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_norm": "post_attention_layernorm"}
GEMMA = {"ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm",
         "post_ffw_norm": "post_feedforward_layernorm"}
MODELS = {"llama": ("LlamaForCausalLM", "llama"), "qwen2": ("Qwen2ForCausalLM", "qwen2"), "qwen3": ("Qwen3ForCausalLM", "qwen3"),
          "gemma3": ("Gemma3ForCausalLM", "gemma3_text")}


def to_folder(path, out, *, dtype: str = "bfloat16", overwrite: bool = False) -> dict[str, Any]:
    """Write the model of a GGUF file to the folder ``out``; its weights rounded to ``dtype``. Returns the configuration.

    Llama, Qwen 2 and 3 and Gemma 3 (text). Raises `UnsupportedError` for other architectures and tensors that have no place in them,
    `FormatError` if the metadata does not say what the model needs.
    """
    with Gguf(path) as source:
        config = configuration(source, dtype)
        arrays = [(name, item.shape, dtype, load) for item in source.items() for name, load in [_tensor(source, item, dtype)]]
        if not any(name == "lm_head.weight" for name, *_ in arrays):
            config["tie_word_embeddings"] = True
        with whole_folder(out, overwrite=overwrite) as folder:
            with open(folder / "model.safetensors", "wb") as f:
                write_new(f, arrays, {"format": "pt"})
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            write_tokenizer(source.metadata, folder)
    return config


def architecture(source: Gguf) -> str:
    """The architecture's name in the metadata; `UnsupportedError` if it is not one of `MODELS`."""
    found = source.metadata.get("general.architecture")
    if not isinstance(found, str) or found not in MODELS:
        raise UnsupportedError(f"{source.path}: models of architecture {str(found)[:40]!r} cannot become a folder; "
                               f"{', '.join(MODELS)} can")
    return str(found)


def configuration(source: Gguf, dtype: str) -> dict[str, Any]:
    """What config.json says, from the metadata."""
    kind = architecture(source)

    def value(key: str, what, default=None):
        v = source.metadata.get(f"{kind}.{key}", default)
        if v is None or not isinstance(v, what) or isinstance(v, bool) or not 0 < v < 1 << 40:
            raise FormatError(f"{source.path}: metadata {kind}.{key} is {str(v)[:40]}, a positive number is needed")
        return v

    table = next((t for t in source.tensors if t.name == "token_embd.weight"), None)
    if table is None or len(table.shape) != 2:
        raise FormatError(f"{source.path}: no matrix token_embd.weight")
    hidden, heads = value("embedding_length", int), value("attention.head_count", int)
    ids = {f"{name}_token_id": source.metadata.get(f"tokenizer.ggml.{key}_token_id")
           for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}
    name, model = MODELS[kind]
    config: dict[str, Any] = {
        "architectures": [name], "model_type": model, "dtype": dtype, "vocab_size": table.shape[0], "hidden_size": hidden,
        "intermediate_size": value("feed_forward_length", int), "num_hidden_layers": value("block_count", int),
        "num_attention_heads": heads, "num_key_value_heads": value("attention.head_count_kv", int, heads),
        "head_dim": value("attention.key_length", int, hidden // heads), "max_position_embeddings": value("context_length", int),
        "rms_norm_eps": float(f"{value('attention.layer_norm_rms_epsilon', float):.6g}"),
        "rope_theta": value("rope.freq_base", float, 10000.0), "tie_word_embeddings": False,
        **{k: v for k, v in ids.items() if type(v) is int}}
    if (scaling := str(source.metadata.get(f"{kind}.rope.scaling.type", "none"))) != "none":
        if scaling != "linear" or kind == "gemma3":
            raise UnsupportedError(f"{source.path}: rotary scaling {scaling[:40]!r} is not carried over for {kind}")
        config["rope_scaling"] = {"rope_type": "linear", "factor": value("rope.scaling.factor", float)}
    if kind == "gemma3":  # every sixth layer sees everything, the others a window; local layers rotate with a base of 10,000
        query = hidden // heads if config["num_hidden_layers"] == 62 else config["head_dim"]  # 62: the 27B model
        config |= {"sliding_window": value("attention.sliding_window", int), "rope_local_base_freq": 10000.0,
                   "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": query}
    elif kind == "llama":
        config |= {"attention_bias": any(t.name.endswith("attn_q.bias") for t in source.tensors), "hidden_act": "silu"}
    else:
        config |= {"hidden_act": "silu"}
    return config


def _tensor(source: Gguf, item, dtype: str):
    """A tensor's name in the folder, and what loads it."""
    kind = architecture(source)
    found = re.fullmatch(r"(?:blk\.(\d{1,4})\.)?(\w+)\.(weight|bias)", item.name)
    own = (LAYER | (GEMMA if kind == "gemma3" else {}) if found and found[1] else NAMES).get(found[2] if found else "")
    if own is None:
        raise UnsupportedError(f"{source.path}: tensor {item.name[:80]!r} has no place in a {kind} folder")
    name = f"model.layers.{found[1]}.{own}.{found[3]}" if found[1] else f"{own}.{found[3]}"
    heads = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(found[2]) if kind == "llama" else None
    count = source.metadata.get(f"{kind}.attention.{heads}", source.metadata.get(f"{kind}.attention.head_count")) if heads else None
    if count is not None and (type(count) is not int or count < 1 or item.shape[0] % (2 * count)):
        raise FormatError(f"{source.path}: {item.name[:80]!r} of {item.shape[0]:,} rows does not split into the heads of its metadata")

    def load() -> np.ndarray:
        x = np.asarray(item.load()).astype(np.float32)
        if kind == "gemma3" and own.endswith("norm"):
            x = x - 1
        if count is not None:  # pairs side by side → halves one after the other
            x = x.reshape(count, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
        return x.astype(dtype_of(dtype))

    return name, load
