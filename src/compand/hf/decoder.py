"""Decoders of transformers whose layers run as one native pass, on the caches of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import cache_utils
from transformers.modeling_outputs import BaseModelOutputWithPast

from .. import _native
from ..errors import UnsupportedError
from ..lm.layers import layers, norm
from ..lm.shape import shape_of
from .held import KINDS, Forward, Held, seen, unusual

CLASSES = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model", "GemmaModel", "Gemma2Model", "Gemma3TextModel")
_CACHES = ("DynamicLayer", "DynamicSlidingWindowLayer", "StaticLayer", "StaticSlidingWindowLayer", "QuantoQuantizedLayer",
           "HQQQuantizedLayer")
_CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"  # its name in the arguments


class Layers(Held):
    """Native layers of a decoder."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        config = model.config
        if config._attn_implementation not in ("sdpa", "eager") or getattr(config, "use_bidirectional_attention", False) or getattr(
                config, "is_causal", True) is False:
            raise UnsupportedError("attention is not the usual one")
        self.shape = shape = shape_of(config.to_dict())
        if shape.gemma and getattr(model.embed_tokens, "scalar_embed_scale", getattr(model.embed_tokens, "scale", None)) is None:
            raise UnsupportedError("the embedding is scaled elsewhere")
        self.layers = _native.Layers(shape.d, shape.ff, shape.heads, shape.shared, shape.width, shape.eps, shape.scale, shape.gelu,
                                     shape.attention_cap)
        for layer, window in zip(layers(self, shape, ""), shape.windows, strict=True):
            self.layers.layer(*layer, window)
        self.layers.ends(norm(self, shape, "norm", shape.d))
        many = shape.family == "gemma3_text"  # kinds of positions
        self.kinds = [(kind,) if many else () for kind in config.layer_types] if many else [()] * shape.layers

    def run(self, x: torch.Tensor, starts: np.ndarray, past: int, position_ids: torch.Tensor, cache) -> torch.Tensor:
        """x (batch, n, d) through all layers and the last norm."""
        batch, n = x.shape[:2]
        s, half, like = self.shape, self.shape.width // 2, torch.empty(0)
        turns = {}
        for kind in set(self.kinds):
            turns[kind] = [a[..., :half].contiguous().numpy() for a in self.model.rotary_emb(like, position_ids, *kind)]
        steps = _native.Pass(self.layers, x.detach().to(torch.float32).contiguous().numpy(), starts)
        for i, kind in enumerate(self.kinds):
            kept = torch.empty(2, batch, s.shared, n, s.width, dtype=x.dtype)
            steps.project(seen(kept), *turns[kind])
            keys, values, offset = kept[0], kept[1], 0
            if cache is not None:
                offset = int(cache.get_mask_sizes(n, i)[1])
                keys, values = cache.update(keys, values, i)
            steps.attend(seen(keys), seen(values), offset, past)
        return torch.from_numpy(steps.result()).to(x.dtype)


class DecoderForward(Forward):
    """The forward of a decoder without its head."""

    held = Layers

    def native(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, use_cache=None, return_dict=None,
               cache_position=None, **more: Any) -> BaseModelOutputWithPast | None:
        model, config = self.model, self.model.config
        cache = more.pop("cache", None)
        cache = more.pop("past_key_values", None) if cache is None else cache
        if return_dict is False or (input_ids is None) is (inputs_embeds is None) or unusual(config, more):
            return None
        if (held := self.layers()) is None:
            return None
        use_cache = config.use_cache if use_cache is None else use_cache
        if cache is None and use_cache:
            cache = cache_utils.DynamicCache(config=config)
        if cache is not None and not (use_cache and type(cache) in (cache_utils.DynamicCache, cache_utils.StaticCache)
                                      and all(type(layer).__name__ in _CACHES for layer in cache.layers)):
            return None
        shape = (input_ids if inputs_embeds is None else inputs_embeds).shape
        past = 0 if cache is None else int(cache.get_seq_length())
        starts = _starts(attention_mask, shape, past, cache, held.shape.windows)
        if starts is None or not shape[0] * shape[1]:
            return None
        if position_ids is None:
            position_ids = torch.arange(past, past + shape[1])[None]
        elif attention_mask is None and not bool((position_ids.diff(dim=-1) == 1).all()):
            return None  # sequences packed into one, perhaps
        x = model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if x.device.type != "cpu" or x.dtype not in KINDS or type(x) not in (torch.Tensor, nn.Parameter):
            return None
        return BaseModelOutputWithPast(last_hidden_state=held.run(x, starts, past, position_ids, cache), **{_CACHE: cache})


def _starts(mask, shape: Sequence[int], past: int, cache, windows: Sequence[int]) -> np.ndarray | None:
    """The first position that each line of the batch sees: int64; None for a mask that is not causal with padding on the left.

    ``mask`` is None, of (batch, positions), or what `generate` prepares for static caches: bool (batch, 1, n, rows), or one for each kind
    of layers.
    """
    batch, n = shape[:2]
    last = np.arange(past, past + n)
    if mask is None:
        return np.zeros(batch, np.int64)
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        if mask.device.type != "cpu" or tuple(mask.shape) != (batch, past + n):
            return None
        seen = mask.numpy() != 0
        first = seen.argmax(1).astype(np.int64)
        return first if bool((seen == (np.arange(past + n) >= first[:, None])).all()) else None
    kinds = mask if isinstance(mask, dict) else {"sliding_attention" if all(windows) else "full_attention": mask}
    first = np.zeros(batch, np.int64)
    for kind, window in (("full_attention", 0), ("sliding_attention", max(windows))):
        if (own := kinds.get(kind)) is None:
            continue
        layer = next((i for i, w in enumerate(windows) if bool(w) is bool(window)), None)
        if cache is None or layer is None or not isinstance(own, torch.Tensor) or own.dtype != torch.bool or own.device.type != "cpu":
            return None
        rows, offset = (int(size) for size in cache.get_mask_sizes(n, layer))
        if tuple(own.shape) != (batch, 1, n, rows):
            return None
        seen, at = own[:, 0].numpy(), offset + np.arange(rows)
        if not window:
            first = offset + seen[:, -1].argmax(1).astype(np.int64)
        wanted = (at <= last[:, None]) & (at > last[:, None] - (window or past + n + 1)) & (at >= first[:, None, None])
        if not bool(((seen == wanted) | (last < first[:, None])[..., None]).all()):  # what padding sees does not matter
            return None
    return first
