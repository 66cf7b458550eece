"""Attention of transformers models on codes: keys and values as a cache would keep them (KV4), and what comes after the softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..codec import Codec
from ..errors import InputError
from .language import transformers

NAME, SAMPLE = "compand", 1 << 18  # values that a spec is fitted to
PLACES = ("queries", "keys", "values", "probabilities")


class CodedAttention:
    """Put the attention of a model on codes; each row of a head (of a token's probabilities) is coded by itself.

    Parameters
    ----------
    model : of transformers, whose attention can be chosen (``set_attn_implementation``)
    specs : by place, ``queries``, ``keys``, ``values`` or ``probabilities``; those whose codes are fitted need `fit` before use

    After softmax ``compand:log-sqrt2,int:4:per=tensor:sym=false`` keeps small probabilities apart; keys and values at four bits are
    ``int:4:sym=false:search=absmax``. Raises `InputError` for other places and models.
    """

    def __init__(self, model, **specs: str):
        _, library = transformers()
        if unknown := set(specs) - set(PLACES):
            raise InputError(f"no place {', '.join(sorted(unknown))} in an attention; there are {', '.join(PLACES)}")
        self.model = model
        self.codecs: dict[str, dict[int, Codec]] = {place: {} for place in specs}
        self.specs = {place: Codec(spec) for place, spec in specs.items()}
        self.samples: dict[tuple[str, int], list[np.ndarray]] | None = None
        library.AttentionInterface.register(NAME, _attend)
        library.AttentionMaskInterface.register(NAME, library.AttentionMaskInterface()["eager"])
        model.set_attn_implementation(NAME)
        if model.config._attn_implementation != NAME:
            raise InputError(f"{type(model).__name__}: its attention cannot be chosen")
        for module in model.modules():
            module.__dict__["coded_attention"] = self

    def fit(self, run: Callable[[Any], Any], batches: Iterable[Any]) -> CodedAttention:
        """Fit the specs that need it to what the batches give; until then those places are as they were."""
        torch, _ = transformers()
        self.samples = {}
        try:
            with torch.no_grad():
                for batch in batches:
                    run(batch)
            for (place, layer), found in self.samples.items():
                self.codecs[place][layer] = self.specs[place].fit(np.concatenate(found))
        finally:
            self.samples = None
        return self

    def coded(self, place: str, layer: int, x):
        """What x (..., d) decodes to, if this place is coded."""
        torch, _ = transformers()
        if place not in self.specs:
            return x
        rows = np.ascontiguousarray(x.detach().float().reshape(-1, x.shape[-1]).numpy())
        codec = self.specs[place]
        if codec.stage.state(codec.form(rows.shape, "float32")):
            codec = self.codecs[place].get(layer) or codec
            if self.samples is not None:
                held = self.samples.setdefault((place, layer), [])
                if sum(h.size for h in held) < SAMPLE:
                    held.append(rows.reshape(-1, 1)[::max(1, 8 * rows.size // SAMPLE)] if _columnless(codec) else rows)
                return x
        return torch.from_numpy(np.asarray(codec.decode(codec.encode(rows)), np.float32)).to(x.dtype).reshape(x.shape)


def _columnless(codec: Codec) -> bool:
    """Whether what is fitted does not depend on the number of columns, as rows of probabilities differ in theirs."""
    return codec.stage.state(codec.form((2, 3), "float32")) == codec.stage.state(codec.form((2, 5), "float32"))


def _attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    """Attention as eager code computes it, with its parts coded; the signature is that of transformers."""
    torch, _ = transformers()
    own: CodedAttention = module.coded_attention
    layer = id(module)
    query, key, value = own.coded("queries", layer, query), own.coded("keys", layer, key), own.coded("values", layer, value)
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask[..., :key.shape[-2]]
    p = own.coded("probabilities", layer, scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype))
    return (p @ value).transpose(1, 2).contiguous(), p
