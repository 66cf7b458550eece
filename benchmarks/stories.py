"""stories260K (llama2.c form) as a Hugging Face folder, the small full-precision subject of `weights.py`.

    python benchmarks/stories.py ../shared/data/lm OUT
"""

from __future__ import annotations

import json
import pathlib
import struct
import sys

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


def tensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The legacy format: seven int32, then float32 tensors grouped by kind."""
    dim, ffn, layers, heads, kv, vocab, length = struct.unpack_from("<7i", data)
    at, flat = 0, np.frombuffer(data, np.float32, offset=28)

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        at += int(np.prod(shape))
        return flat[at - int(np.prod(shape)):at].reshape(shape)

    def halves(w: np.ndarray, n: int) -> np.ndarray:  # rotary pairs (2i, 2i + 1) → (i, i + half)
        return w.reshape(n, -1, 2, dim).swapaxes(1, 2).reshape(w.shape)

    side = dim // heads * kv
    out = {"model.embed_tokens.weight": take(abs(vocab), dim)}
    kinds = [("input_layernorm", (dim,)), ("self_attn.q_proj", (dim, dim)), ("self_attn.k_proj", (side, dim)),
             ("self_attn.v_proj", (side, dim)), ("self_attn.o_proj", (dim, dim)), ("post_attention_layernorm", (dim,)),
             ("mlp.gate_proj", (ffn, dim)), ("mlp.down_proj", (dim, ffn)), ("mlp.up_proj", (ffn, dim))]
    for kind, shape in kinds:
        for i, w in enumerate(take(layers, *shape)):
            w = halves(w, heads if "q_" in kind else kv) if kind[-6:] in ("q_proj", "k_proj") else w
            out[f"model.layers.{i}.{kind}.weight"] = np.ascontiguousarray(w)
    out["model.norm.weight"] = take(dim)
    sizes = {"hidden_size": dim, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
             "num_key_value_heads": kv, "vocab_size": abs(vocab), "max_position_embeddings": length}
    return out, sizes


def tokenizer(data: bytes) -> Tokenizer:
    """Scored pieces as byte-pair merges, best score first."""
    at, pieces = 4, []
    while at < len(data):
        score, size = struct.unpack_from("<fi", data, at)
        pieces.append((data[at + 8:at + 8 + size].decode().strip("\n") if size else "", score))
        at += 8 + size
    words = [f"<0x{i - 3:02X}>" if 3 <= i < 259 else w.replace(" ", "▁") for i, (w, _) in enumerate(pieces)]
    words[:3] = ["<unk>", "<s>", "</s>"]
    vocab = {w: i for i, w in enumerate(words)}
    merges = [(w[:c], w[c:]) for w, (_, score) in sorted(zip(words[259:], pieces[259:], strict=True), key=lambda p: -p[1][1])
              for c in range(1, len(w)) if w[:c] in vocab and w[c:] in vocab]
    found = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback(), decoders.Fuse()])
    return found


def main(source: str, out: str) -> None:
    folder, data = pathlib.Path(out), pathlib.Path(source)
    folder.mkdir(parents=True, exist_ok=True)
    weights, sizes = tensors((data / "stories260K.bin").read_bytes())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "dtype": "float32", **sizes}))
    tokenizer((data / "tok512.bin").read_bytes()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
                                                               "eos_token": "</s>", "unk_token": "<unk>"}))


if __name__ == "__main__":
    main(*sys.argv[1:])
