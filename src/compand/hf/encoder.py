"""Encoders of text of transformers whose layers run as one native pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from .. import _native
from ..errors import UnsupportedError
from .held import Forward, Held, unusual

CLASSES = ("BertModel", "RobertaModel", "XLMRobertaModel")
_LINEAR = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "intermediate.dense",
           "output.dense")
_TANH = {"gelu": False, "gelu_new": True, "gelu_pytorch_tanh": True}


class Layers(Held):
    """Native layers of an encoder."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        c = model.config
        if c._attn_implementation not in ("sdpa", "eager") or c.is_decoder or getattr(c, "is_causal", False) or c.hidden_act not in _TANH:
            raise UnsupportedError("attention or activation are not the usual ones")
        d, ff = c.hidden_size, c.intermediate_size
        self.layers = _native.Encoder(d, ff, c.num_attention_heads, c.layer_norm_eps, _TANH[c.hidden_act])
        for i in range(c.num_hidden_layers):
            at = f"encoder.layer.{i}."
            sizes = [(d, d)] * 4 + [(ff, d), (d, ff)]
            weights = [self.matrix(f"{at}{name}.weight", *size) for name, size in zip(_LINEAR, sizes, strict=True)]
            biases = [self.vector(f"{at}{name}.bias", n) if f"{at}{name}.bias" in self else None
                      for name, (n, _) in zip(_LINEAR, sizes, strict=True)]
            norms = [self.vector(f"{at}{name}.LayerNorm.{part}", d) for name in ("attention.output", "output")
                     for part in ("weight", "bias")]
            self.layers.layer(weights, biases, norms)


class EncoderForward(Forward):
    """The forward of an encoder. What it gives for tokens that the mask leaves out is 0."""

    held = Layers

    def native(self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None, return_dict=None,
               **more: Any) -> BaseModelOutputWithPoolingAndCrossAttentions | None:
        model = self.model
        if return_dict is False or (input_ids is None) is (inputs_embeds is None) or unusual(model.config, more):
            return None
        shape = tuple((input_ids if inputs_embeds is None else inputs_embeds).shape[:2])
        if attention_mask is None:
            attention_mask = torch.ones(shape, dtype=torch.bool)
        if attention_mask.device.type != "cpu" or tuple(attention_mask.shape) != shape or (held := self.layers()) is None:
            return None
        x = model.embeddings(input_ids=input_ids, token_type_ids=token_type_ids, position_ids=position_ids, inputs_embeds=inputs_embeds)
        if x.device.type != "cpu" or type(x) is not torch.Tensor or not x.is_floating_point():
            return None
        y = held.layers.forward(x.to(torch.float32).contiguous().numpy(), (attention_mask != 0).numpy())
        hidden = torch.from_numpy(y).to(x.dtype)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=hidden, pooler_output=None if model.pooler is None else model.pooler(hidden))
