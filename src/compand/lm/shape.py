"""What a decoder is: the sizes and switches of its config.json, whatever family it is of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FormatError, UnsupportedError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
_MOST = 1 << 24
_LARGE = 1e30


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, and how its layers differ."""

    family: str
    layers: int
    d: int
    ff: int
    heads: int
    shared: int        # heads of keys and values
    width: int         # of a head
    vocabulary: int
    context: int       # positions it was made for
    eps: float
    scale: float       # of scores
    gelu: bool
    tied: bool
    windows: tuple[int, ...]         # keys a layer sees, 0: all
    ropes: tuple[dict[str, Any], ...]  # parameters of the positions of a layer
    attention_cap: float = 0.0
    logit_cap: float = 0.0

    @property
    def gemma(self) -> bool:
        """Norms multiply by 1 + weight, and embeddings are multiplied by sqrt(d)."""
        return self.family.startswith("gemma")

    @property
    def embedding_scale(self) -> float:
        """Factor of embeddings."""
        return math.sqrt(self.d) if self.gemma else 1.0


def shape_of(config: dict[str, Any]) -> Shape:
    """The shape that a config.json describes.

    Raises `UnsupportedError` for another family or kind of positions, `FormatError` for values that cannot be.

    >>> shape_of({"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    ...           "num_attention_heads": 4, "vocab_size": 100}).width
    16
    """
    if not isinstance(config, dict):
        raise FormatError("config.json is not an object")
    if isinstance(config.get("text_config"), dict):
        config = {**config, **config["text_config"]}
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UnsupportedError(f"models of the type {str(family)[:40]!r} do not run here; {', '.join(FAMILIES)} do. "
                               "`import compand.hf` runs the others in transformers")
    layers, d, ff, heads = (_size(config, k) for k in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"))
    shared = _size(config, "num_key_value_heads", heads)
    width = _size(config, "head_dim", d // heads)
    if heads % shared or layers > 4096:
        raise FormatError(f"config.json: {layers} layers of {heads} heads, {shared} of keys and values")
    act = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    act = "gelu_pytorch_tanh" if family == "gemma" else act
    if act not in ("silu", "gelu_pytorch_tanh"):
        raise UnsupportedError(f"the activation {str(act)[:40]!r} is not known; silu and gelu_pytorch_tanh are")
    kinds = _kinds(config, str(family), layers)
    window = _size(config, "sliding_window", 0, least=0) if "sliding_attention" in kinds else 0
    query = _number(config, "query_pre_attn_scalar", width) if str(family) in ("gemma2", "gemma3_text") else width
    if query == 0:
        raise FormatError("config.json: query_pre_attn_scalar is 0")
    return Shape(str(family), layers, d, ff, heads, shared, width, _size(config, "vocab_size"),
                 _size(config, "max_position_embeddings", 8192 if family == "gemma" else 2048),
                 _number(config, "rms_norm_eps", 1e-6), query ** -0.5, act != "silu",
                 bool(config.get("tie_word_embeddings", str(family).startswith("gemma"))),
                 tuple(window if k == "sliding_attention" else 0 for k in kinds), tuple(_rope(config, str(family), k) for k in kinds),
                 _number(config, "attn_logit_softcapping", 50.0 if family == "gemma2" else 0.0, none=0.0),
                 _number(config, "final_logit_softcapping", 30.0 if family == "gemma2" else 0.0, none=0.0))


def _size(config: dict, key: str, default: int | None = None, *, least: int = 1) -> int:
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not least <= value < _MOST:
        raise FormatError(f"config.json: {key} is {str(value)[:40]!r}, not a size")
    return value


def _number(config: dict, key: str, default: float, *, none: float | None = None) -> float:
    value = config.get(key, default)
    value = (default if none is None else none) if value is None else value
    if type(value) not in (int, float) or not 0 <= value < _LARGE:
        raise FormatError(f"config.json: {key} is {str(value)[:40]!r}, not a number")
    return float(value)


def _kinds(config: dict, family: str, layers: int) -> tuple[str, ...]:
    """full_attention or sliding_attention, for each layer."""
    given = config.get("layer_types")
    if given is not None:
        if not isinstance(given, list) or len(given) != layers or any(k not in ("full_attention", "sliding_attention") for k in given):
            raise UnsupportedError("config.json: layer_types are full_attention and sliding_attention, one for each layer")
        return tuple(given)
    if family == "gemma3_text":
        pattern = _size(config, "sliding_window_pattern", 6)
        return tuple("sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers))
    if family == "gemma2":
        return tuple("full_attention" if i % 2 else "sliding_attention" for i in range(layers))
    sliding = config.get("sliding_window") is not None and (
        family == "mistral" or (family.startswith("qwen") and bool(config.get("use_sliding_window"))))
    above = _size(config, "max_window_layers", 0, least=0) if family.startswith("qwen") else 0
    return tuple("sliding_attention" if sliding and i >= above else "full_attention" for i in range(layers))


def _rope(config: dict, family: str, kind: str) -> dict[str, Any]:
    """The parameters of positions of a kind of layers."""
    found = config.get("rope_parameters")
    if isinstance(found, dict) and isinstance(found.get(kind), dict):
        found = found[kind]
    elif not isinstance(found, dict) or "rope_theta" not in found:
        local = family == "gemma3_text" and kind == "sliding_attention"
        default = 1e6 if family == "gemma3_text" else 1e4
        found = {"rope_theta": _number(config, "rope_local_base_freq", 1e4) if local else _number(config, "rope_theta", default),
                 **({} if local or not isinstance(scaling := config.get("rope_scaling"), dict) else scaling)}
    found = {**found, "rope_type": found.get("rope_type", found.get("type", "default"))}
    if found["rope_type"] not in ("default", "linear", "llama3") or found.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedError(f"positions of the type {str(found['rope_type'])[:40]!r} are not known; default, linear and llama3 are")
    return found


def angles(rope: dict[str, Any], width: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of each position and pair of columns: float32 (context · width / 2,) each."""
    power = np.arange(0, width, 2) / width  # powers, cosines and sines in float64: rounded, they are the same on every machine
    rate = (1 / _number(rope, "rope_theta", 1e4) ** power).astype(np.float32)
    if rope["rope_type"] == "linear":
        rate = rate / np.float32(_number(rope, "factor", 1.0))
    elif rope["rope_type"] == "llama3":
        known = ("factor", 8.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0)
        factor, low, high = (np.float32(_number(rope, k, v)) for k, v in known)
        before = np.float32(_number(rope, "original_max_position_embeddings", 8192))
        wave = np.float32(2 * math.pi) / rate
        smooth = (before / wave - low) / (high - low)
        between = (1 - smooth) * rate / factor + smooth * rate
        rate = np.where(wave > before / low, rate / factor, np.where(wave < before / high, rate, between)).astype(np.float32)
    turn = np.arange(context, dtype=np.float32)[:, None] * rate
    return tuple(f(turn.astype(np.float64)).astype(np.float32).ravel() for f in (np.cos, np.sin))  # type: ignore[return-value]
