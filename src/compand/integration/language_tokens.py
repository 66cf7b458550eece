"""How much each token of a calibration text counts in the Hessians of a layer: by the attention that it is paid there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .language import transformers

FLOOR = 0.3  # weight of the token that is paid least attention, the one that is paid most having 1


class Received(dict):
    """In the place of what `language_fisher` knows of a layer: nothing of its modules, but the importance of tokens."""

    def importance(self, layer, hidden: Sequence[Any], arguments: dict[str, Any]) -> list[np.ndarray]:
        """The importance of each token of each sequence in a layer: float32 (length,), at most 1.

        A token scores the attention that all heads and all tokens pay it, the first one no more than the most of the others, as it takes
        what attention is to spare. Scores go linearly to `FLOOR` to 1, and tokens count by their squares (RSQ, Sung et al. 2025: attention
        concentration). Raises `InputError` for layers whose attention cannot be seen.
        """
        return [np.square(FLOOR + (1 - FLOOR) * _unit(received(layer, h, arguments))).astype(np.float32) for h in hidden]


def _unit(score: np.ndarray) -> np.ndarray:
    score = np.minimum(score, score[1:].max()) if len(score) > 1 else score
    low, high = score.min(), score.max()
    return (score - low) / (high - low) if high > low else np.ones_like(score)


def received(layer, hidden, arguments: dict[str, Any]) -> np.ndarray:
    """The attention that each token is paid by all heads and tokens of one sequence (1, length, d): float64 (length,)."""
    torch, _ = transformers()
    attention = next((m for n, m in layer.named_modules() if n.endswith(("attn", "attention")) and hasattr(m, "config")), None)
    if attention is None:
        raise InputError(f"{type(layer).__name__} has no attention whose weights can be seen; leave out --fit attention")
    length, seen = hidden.shape[1], []
    hook = attention.register_forward_hook(lambda module, args, out: seen.append(out[1] if isinstance(out, tuple) else None))
    kept = attention.config._attn_implementation
    try:
        attention.config._attn_implementation = "eager"
        layer(hidden, **{**arguments, "attention_mask": _mask(torch, arguments.get("attention_mask"), hidden, length)})
    finally:
        attention.config._attn_implementation = kept
        hook.remove()
    if not seen or seen[0] is None:
        raise InputError(f"{type(attention).__name__} does not tell its weights; leave out --fit attention")
    return seen[0].double().sum(dim=(0, 1, 2)).cpu().numpy()


def _mask(torch, mask, hidden, length: int):
    """What is added to the scores: a mask of bools, or none for plain causal attention, in numbers."""
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()[None, None]
    least = torch.finfo(hidden.dtype).min
    return torch.zeros(mask.shape, dtype=hidden.dtype, device=mask.device).masked_fill(~mask, least) if mask.dtype == torch.bool else mask
