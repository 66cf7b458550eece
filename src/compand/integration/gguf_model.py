"""A Hugging Face folder as a GGUF file that llama.cpp runs: metadata, tokenizer, and weights in any type that can be written.

Source: the conventions of llama.cpp's converter, as `gguf_folder`, whose opposite this is.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, InputError, UnsupportedError
from ..modality import detect
from ..modality.gguf_write import write_stream
from ..modality.source import Item
from .gguf_folder import GEMMA, LAYER, MODELS, NAMES
from .gguf_mixture import PLAIN, names, type_of
from .gguf_refit import refit
from .gguf_vocabulary import read_json, vocabulary

KINDS = {model: kind for kind, (_, model) in MODELS.items()} | {"mistral": "llama"}
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def from_folder(folder, out, *, kind: str | None = None, ends: str | None = None, calibration: str | None = None, imatrix=None,
                sequences: int = 48, length: int = 512, sweeps: int = 2, overwrite: bool = False,
                progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write the model of a folder (also one quantized by others) as a GGUF file: Llama, Mistral, Qwen 2 and 3, Gemma 3 (text).

    Parameters
    ----------
    kind : a type, as Q4_K or IQ4_XS, or a mixture of types, as Q4_K_M (`gguf_mixture.names`); by default that of the weights
    ends : the type of embedding and head; by default what ``kind`` says
    calibration, imatrix, sequences, length, sweeps : as `gguf_refit.refit`, which finds the codes then; without, least squares do

    Returns bytes, bits of a weight, the types with how many matrices have them, and seconds. Raises `UnsupportedError` for other models
    and tokenizers, `FormatError` for a damaged folder, `InputError` for unknown types.
    """
    start = time.perf_counter()
    with detect(folder) as source:
        items = {item.name: item for item in source.items()}
        config = read_json(Path(folder, "config.json"), "this takes a Hugging Face model folder")
        try:
            model = _Model(Path(folder), config, items)
            metadata = model.metadata()
            todo = model.tensors(kind or _DTYPES.get(items[model.embedding].dtype, "F32"), ends)
        except (AttributeError, TypeError, OverflowError) as e:  # values of other kinds
            raise FormatError(f"{folder}: config.json is damaged ({e})") from None
        done, total = 0, sum(math.prod(shape) for _, _, shape, _ in todo)

        def told(name: str, shape, load):
            def loaded() -> np.ndarray:
                nonlocal done
                if progress:
                    progress(done, total, name)
                done += math.prod(shape)
                return load()
            return loaded

        fitted = (calibration is not None or imatrix is not None) and any(t not in (*PLAIN, "Q8_0") for _, t, _, _ in todo)
        todo = [(name, t, shape, told(name, shape, load)) for name, t, shape, load in todo]
        if not fitted:
            write_stream(out, todo, metadata, overwrite=overwrite)
        else:
            with tempfile.TemporaryDirectory(prefix="compand-", dir=Path(out).resolve().parent) as room:
                write_stream(Path(room, "plain.gguf"), todo, metadata)
                refit(Path(room, "plain.gguf"), folder, out, calibration=calibration, imatrix=imatrix, sequences=sequences, length=length,
                      sweeps=sweeps, overwrite=overwrite, progress=progress)
    size, types = Path(out).stat().st_size, [t for _, t, shape, _ in todo if len(shape) > 1]
    return {"bytes": size, "bits": 8 * size / max(total, 1), "types": {t: types.count(t) for t in dict.fromkeys(types)},
            "architecture": model.kind, "fitted": fitted, "seconds": time.perf_counter() - start}


class _Model:
    """What config.json and the tensors say."""

    def __init__(self, folder: Path, config: dict[str, Any], items: dict[str, Item]):
        self.folder, self.config, self.items = folder, config, items
        found = config.get("model_type")
        if not isinstance(found, str) or found not in KINDS:
            raise UnsupportedError(f"{folder}: models of type {str(found)[:40]!r} are not written as GGUF; {', '.join(KINDS)} are")
        self.kind, self.embedding = KINDS[found], "model.embed_tokens.weight"
        if found == "mistral" and config.get("sliding_window") is not None:
            raise UnsupportedError(f"{folder}: a window of attention has no place in GGUF's llama")
        if self.embedding not in items or len(items[self.embedding].shape) != 2:
            raise FormatError(f"{folder}: no matrix {self.embedding}")
        self.layers, self.heads = self._count("num_hidden_layers"), self._count("num_attention_heads")
        self.shared, self.hidden = self._count("num_key_value_heads", self.heads), self._count("hidden_size")
        self.width = self._count("head_dim", self.hidden // self.heads or 1)
        self.tied = bool(config.get("tie_word_embeddings", self.kind == "gemma3")) or "lm_head.weight" not in items

    def _count(self, key: str, default: int | None = None) -> int:
        v = self.config.get(key)
        v = default if v is None else v
        if type(v) is not int or not 0 < v < 1 << 32:
            raise FormatError(f"{self.folder}: config.json has {key} = {str(v)[:40]}, a positive whole number is needed")
        return v

    def _real(self, key: str, default: float, among: dict[str, Any] | None = None) -> float:
        v = (self.config if among is None else among).get(key)
        v = default if v is None else v
        if type(v) not in (int, float) or not 0 < v < 1e30:
            raise FormatError(f"{self.folder}: config.json has {key} = {str(v)[:40]}, a positive number is needed")
        return float(v)

    def rotary(self) -> dict[str, Any]:
        """How positions turn, in the old or the new way of saying it."""
        c = self.config
        new = c.get("rope_parameters") or {}
        new = new.get("full_attention", new)
        old = c.get("rope_scaling") or {}
        found = {"theta": self._real("rope_theta", self._real("rope_theta", 1e6 if self.kind == "gemma3" else 1e4), new)}
        return {**old, **new, **found, "rope_type": new.get("rope_type", old.get("rope_type", old.get("type", "default")))}

    def metadata(self) -> dict[str, Any]:
        """All of the file's metadata."""
        c, k, turn = self.config, self.kind, self.rotary()
        out: dict[str, Any] = {
            "general.architecture": k, "general.name": self.folder.resolve().name, "general.quantization_version": 2,
            f"{k}.context_length": self._count("max_position_embeddings", 2048), f"{k}.embedding_length": self.hidden,
            f"{k}.block_count": self.layers, f"{k}.feed_forward_length": self._count("intermediate_size"),
            f"{k}.attention.head_count": self.heads, f"{k}.attention.head_count_kv": self.shared,
            f"{k}.attention.key_length": self.width, f"{k}.attention.value_length": self.width, f"{k}.rope.dimension_count": self.width,
            f"{k}.attention.layer_norm_rms_epsilon": self._real("rms_norm_eps", 1e-6), f"{k}.rope.freq_base": turn["theta"],
            f"{k}.vocab_size": self.items[self.embedding].shape[0]}
        if turn["rope_type"] == "linear":
            out |= {f"{k}.rope.scaling.type": "linear", f"{k}.rope.scaling.factor": self._real("factor", 1.0, turn)}
        elif turn["rope_type"] not in ("default", "llama3"):
            raise UnsupportedError(f"{self.folder}: rotary scaling {str(turn['rope_type'])[:40]!r} is not written")
        if k == "gemma3":
            kinds = c.get("layer_types") or []
            if any((kind == "full_attention") is not (i % 6 == 5) for i, kind in enumerate(kinds)):
                raise UnsupportedError(f"{self.folder}: GGUF's gemma3 wants every sixth layer to see everything")
            out[f"{k}.attention.sliding_window"] = self._count("sliding_window", 4096)
        elif c.get("use_sliding_window"):
            raise UnsupportedError(f"{self.folder}: windows of attention are not written for {k}")
        return out | vocabulary(self.folder, c, self.items[self.embedding].shape[0])

    def tensors(self, mixture: str, ends: str | None) -> list[tuple[str, str, tuple[int, ...], Callable[[], np.ndarray]]]:
        """Name, type, shape and what loads it, of all tensors of the file."""
        if mixture not in names():
            raise InputError(f"no GGUF type {mixture!r} to write; there are {', '.join(names())}")
        todo = []
        for name, item in self.items.items():
            if (name == "lm_head.weight" and self.tied) or name.endswith("rotary_emb.inv_freq"):
                continue
            own, heads = self._named(item)
            shape = tuple(item.shape)
            kind = type_of(mixture, own, shape, self.layers, tied=self.tied, shared=self.heads // self.shared, ends=ends)
            todo.append((own, kind, shape, self._load(item, own, heads)))
        if (turn := self.rotary())["rope_type"] == "llama3":
            factors = self._stretched(turn)
            todo.append(("rope_freqs.weight", "F32", factors.shape, lambda: factors))
        return todo

    def _named(self, item: Item) -> tuple[str, int | None]:
        """The name in the file, and how many heads' rows turn from halves to pairs."""
        words = item.name.split(".")
        inner = LAYER | (GEMMA if self.kind == "gemma3" else {})
        back = {own: short for short, own in inner.items()} if words[:2] == ["model", "layers"] else {v: k for k, v in NAMES.items()}
        layer = words[2] if words[:2] == ["model", "layers"] and len(words) > 4 else ""
        short = back.get(".".join(words[3:-1] if layer else words[:-1]))
        if short is None or words[-1] not in ("weight", "bias") or (layer and not (layer.isdecimal() and int(layer) < self.layers)):
            raise UnsupportedError(f"{self.folder}: tensor {item.name[:80]!r} has no place in a GGUF file of {self.kind}")
        heads = {"attn_q": self.heads, "attn_k": self.shared}.get(short) if self.kind == "llama" else None
        if heads and item.shape[0] % (2 * heads):
            raise FormatError(f"{self.folder}: {item.name[:80]!r} of {item.shape[0]:,} rows does not split into {heads} heads")
        return (f"blk.{int(layer)}." if layer else "") + f"{short}.{words[-1]}", heads

    def _load(self, item: Item, own: str, heads: int | None) -> Callable[[], np.ndarray]:
        def load() -> np.ndarray:
            x = np.asarray(item.load()).astype(np.float32)
            if self.kind == "gemma3" and own.endswith("norm.weight"):
                x = x + 1
            if heads:
                x = x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
            return x
        return load

    def _stretched(self, turn: dict[str, Any]) -> np.ndarray:
        """What Llama 3 divides each rotary frequency by."""
        factor, low, high, old = (self._real(key, default, turn) for key, default in (
            ("factor", 8.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0), ("original_max_position_embeddings", 8192)))
        wave = 2 * math.pi * turn["theta"] ** (np.arange(0, self.width, 2) / self.width)
        between = np.clip((old / wave - low) / max(high - low, 1e-9), 0, 1)
        return (1 / ((1 - between) / factor + between)).astype(np.float32)
