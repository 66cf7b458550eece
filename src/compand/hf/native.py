"""Decoders of transformers whose layers run natively, on the caches of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import cache_utils
from transformers.modeling_outputs import BaseModelOutputWithPast

from .. import _native
from ..errors import CompandError, UnsupportedError
from ..lm.layers import layers, norm
from ..lm.shape import shape_of
from ..op.matmul import matrix
from .embedding import CodedEmbedding
from .linear import CodedLinear

CLASSES = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model", "GemmaModel", "Gemma2Model", "Gemma3TextModel")
_PARTS = (CodedLinear, CodedEmbedding, nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU)  # beside those of the family's own file
_CACHES = ("DynamicLayer", "DynamicSlidingWindowLayer", "StaticLayer", "StaticSlidingWindowLayer", "QuantoQuantizedLayer",
           "HQQQuantizedLayer")
_KEPT = {torch.float32: torch.float32, torch.bfloat16: torch.uint16}  # how the native code sees keys and values
_CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"  # its name in the arguments


def run_natively(model: nn.Module, native: bool = True) -> bool:
    """Let the layers of a decoder on codes run as one native pass where that gives the same answer, or, with ``native=False``, never.

    Loading a model that `CompandConfig` codes, or a .cpd file, does this. Norms, positions, products, attention and residuals are then
    native, in float32 between the layers; keys and values stay in the model's cache, in its dtype. So ``generate``, beams, left padding and
    batches work as they do without. Everything else takes the path of transformers: gradients, training, other devices and dtypes,
    adapters and hooks inside, outputs of attention or of each layer, masks that are not causal with padding on the left, other caches.
    Coded products round what they are given to 8 bits, so a difference in its last bit can grow to a step of that rounding.
    Returns whether the model is a decoder whose layers can run so.

    >>> run_natively(nn.Linear(2, 2))
    False
    """
    found = [m for m in model.modules() if type(m).__name__ in CLASSES and type(m).__module__.startswith("transformers.models.")]
    for m in found:
        if native:
            m.forward = Forward(m)
        else:
            m.__dict__.pop("forward", None)
    return bool(found)


class Forward:
    """What stands in for ``forward`` of a decoder without its head; ``passes`` counts those that ran natively.

    It looks at the model at each call, so whatever is changed in it, weights, adapters or hooks, holds from then on.
    """

    def __init__(self, model: nn.Module):
        self.model, self.passes = model, 0
        self._plan: _Plan | None = None
        self._refused: list[tuple[int, type]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None, "_refused": None}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = self._native(**kwargs) if not args else None
        return type(self.model).forward(self.model, *args, **kwargs) if found is None else found

    def _native(self, input_ids=None, attention_mask=None, position_ids=None, inputs_embeds=None, use_cache=None, return_dict=None,
                cache_position=None, **more: Any) -> BaseModelOutputWithPast | None:
        """What the layers give, None where transformers has to run them."""
        model, config = self.model, self.model.config
        cache = more.pop("cache", None)
        cache = more.pop("past_key_values", None) if cache is None else cache
        if torch.is_grad_enabled() or model.training or return_dict is False or (input_ids is None) is (inputs_embeds is None):
            return None
        if any(v is not None and v is not False for v in more.values()) or config.output_attentions or config.output_hidden_states:
            return None
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or torch.jit.is_tracing() or (plan := self._planned()) is None:
            return None
        use_cache = config.use_cache if use_cache is None else use_cache
        if cache is None and use_cache:
            cache = cache_utils.DynamicCache(config=config)
        if cache is not None and not (use_cache and type(cache) in (cache_utils.DynamicCache, cache_utils.StaticCache)
                                      and all(type(layer).__name__ in _CACHES for layer in cache.layers)):
            return None
        shape = (input_ids if inputs_embeds is None else inputs_embeds).shape
        past = 0 if cache is None else int(cache.get_seq_length())
        starts = _starts(attention_mask, shape, past, cache, plan.shape.windows)
        if starts is None or not shape[0] * shape[1]:
            return None
        if position_ids is None:
            position_ids = torch.arange(past, past + shape[1])[None]
        elif attention_mask is None and not bool((position_ids.diff(dim=-1) == 1).all()):
            return None  # sequences packed into one, perhaps
        x = model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if x.device.type != "cpu" or x.dtype not in _KEPT or type(x) not in (torch.Tensor, nn.Parameter):
            return None
        self.passes += 1
        return BaseModelOutputWithPast(last_hidden_state=plan.run(x, starts, past, position_ids, cache), **{_CACHE: cache})

    def _planned(self) -> _Plan | None:
        """The layers as they are now."""
        if self._plan is None or not self._plan.holds():
            self._plan = None
            parts = [(id(m), type(m)) for m in self.model.modules()]
            if parts != self._refused:
                try:
                    self._plan = _Plan(self.model)
                except (CompandError, ValueError, AttributeError):
                    self._refused = parts
        return None if self._plan is None or self._plan.hooked() else self._plan


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


class _Plan:
    """Native layers of a model's weights, and what of the model they were made of."""

    path = "the model"  # in errors

    def __init__(self, model: nn.Module):
        config = model.config
        if config._attn_implementation not in ("sdpa", "eager") or getattr(config, "use_bidirectional_attention", False) or getattr(
                config, "is_causal", True) is False:
            raise UnsupportedError("attention is not the usual one")
        self.shape = shape = shape_of(config.to_dict())
        self.modules = dict(model.named_modules())
        if shape.gemma and getattr(model.embed_tokens, "scalar_embed_scale", getattr(model.embed_tokens, "scale", None)) is None:
            raise UnsupportedError("the embedding is scaled elsewhere")
        home = type(model).__module__
        if any(type(m).__module__ not in (home, "transformers.activations") and type(m) not in _PARTS for m in self.modules.values()):
            raise UnsupportedError("there are other modules in it")
        self.model, self.tensors = model, []
        self.children = [(parent._modules, dict(parent._modules)) for parent in self.modules.values() if parent._modules]
        self.native = _native.Layers(shape.d, shape.ff, shape.heads, shape.shared, shape.width, shape.eps, shape.scale, shape.gelu,
                                     shape.attention_cap)
        for layer, window in zip(layers(self, shape, ""), shape.windows, strict=True):
            self.native.layer(*layer, window)
        self.native.ends(norm(self, shape, "norm", shape.d))
        many = shape.family == "gemma3_text"  # kinds of positions
        self.kinds = [(kind,) if many else () for kind in config.layer_types] if many else [()] * shape.layers

    def _tensor(self, name: str) -> torch.Tensor | None:
        module, _, own = name.rpartition(".")
        held = self.modules.get(module)
        return None if held is None else held._parameters.get(own, held._buffers.get(own))

    def _watched(self, module: nn.Module) -> None:
        for own in (module._parameters, module._buffers):
            self.tensors += [(own, name, t, t.data_ptr(), 0 if t.is_inference() else t._version)
                             for name, t in own.items() if t is not None]

    def __contains__(self, name: str) -> bool:
        return self._tensor(name) is not None

    def vector(self, name: str, size: int) -> np.ndarray:
        """See `compand.lm.layers.Named`."""
        t = self._tensor(name)
        if t is None or tuple(t.shape) != (size,) or not t.is_floating_point() or t.device.type != "cpu":
            raise UnsupportedError(f"{name} is not {size} floats")
        self._watched(self.modules[name.rpartition(".")[0]])
        return t.detach().float().contiguous().numpy()

    def matrix(self, name: str, n: int, d: int) -> _native.Matrix:
        """See `compand.lm.layers.Named`."""
        module = self.modules[name.removesuffix(".weight")]
        if module.weight.device.type != "cpu":
            raise UnsupportedError(f"{name} is elsewhere")
        self._watched(module)
        if type(module) is CodedLinear and module.activations == "int8":
            return matrix(module.codes)
        if type(module) is not nn.Linear or module.weight.dtype not in _KEPT:
            raise UnsupportedError(f"{name} is of another kind")
        return _native.Plain(_seen(module.weight.detach().contiguous()))

    def holds(self) -> bool:
        """Whether the model is still what the layers were made of."""
        return all(now == before for now, before in self.children) and all(
            own.get(name) is t and t.data_ptr() == at and (t.is_inference() or t._version == version)
            for own, name, t, at, version in self.tensors)

    def hooked(self) -> bool:
        """Whether somebody wants to see or change what happens inside."""
        all_of_them = nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks
        return bool(all_of_them) or any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__
                                        for m in self.modules.values() if m is not self.model)

    def run(self, x: torch.Tensor, starts: np.ndarray, past: int, position_ids: torch.Tensor, cache) -> torch.Tensor:
        """x (batch, n, d) through all layers and the last norm."""
        batch, n = x.shape[:2]
        s, half, like = self.shape, self.shape.width // 2, torch.empty(0)
        turns = {}
        for kind in set(self.kinds):
            turns[kind] = [a[..., :half].contiguous().numpy() for a in self.model.rotary_emb(like, position_ids, *kind)]
        steps = _native.Pass(self.native, x.detach().to(torch.float32).contiguous().numpy(), starts)
        for i, kind in enumerate(self.kinds):
            kept = torch.empty(2, batch, s.shared, n, s.width, dtype=x.dtype)
            steps.project(_seen(kept), *turns[kind])
            keys, values, offset = kept[0], kept[1], 0
            if cache is not None:
                offset = int(cache.get_mask_sizes(n, i)[1])
                keys, values = cache.update(keys, values, i)
            steps.attend(_seen(keys), _seen(values), offset, past)
        return torch.from_numpy(steps.result()).to(x.dtype)


def _seen(t: torch.Tensor) -> np.ndarray:
    """A tensor as the native code takes it: the same memory."""
    return t.view(_KEPT[t.dtype]).numpy()
