"""Calibration tokens that a language model writes itself, for want of text: its own next-token distribution is what it shall keep."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np

from .. import seeded
from ..array import to_numpy
from ..errors import InputError
from .language import Language, transformers

SEQUENCES = 16  # of 512 tokens: a quarter of what text would be read, for each takes a pass through the model


def generate(model, *, sequences: int = SEQUENCES, length: int = 512, seed: int = 0, batch: int = 16, device: str = "auto",
             progress: Callable[[int, int], None] | None = None):
    """Tokens of a model folder sampled at temperature 1, from its start token on: int64 (sequences, length).

    After an end a new document begins; other special tokens are never drawn. One seed gives one text, whatever ``batch`` is, on one
    machine (logits may differ in the last bits on another). The whole model is in memory, float32. ``progress`` is called with (steps
    done, steps). Goes in the place of text in `language_fit.compress` and `language_plan.plan`. As LLM-QAT (Liu et al. 2023), without
    its greedy first tokens. Raises `InputError` for a model without a start or end token, and one that gives NaN.
    """
    torch, library = transformers()
    language = Language(model, device)
    try:
        language.whole()
        tokenizer = language.tokenizer
        start, stop = tokenizer.bos_token_id, tokenizer.eos_token_id
        if (begin := start if start is not None else stop) is None:
            raise InputError(f"{model}: the tokenizer has no token to begin a text with; give text with --calib")
        never = [i for i in tokenizer.all_special_ids if i != stop and i < language.head.weight.shape[0]]
        ids = torch.full((sequences, length), begin, dtype=torch.int64)
        chance = seeded.uniform(seed, sequences * length).reshape(sequences, length)
        keyword = "cache" if "cache" in inspect.signature(language.body.forward).parameters else "past_key_values"  # older transformers
        done, total = 0, -(-sequences // batch) * (length - 1)
        with torch.no_grad():
            for at in range(0, sequences, batch):
                rows, cache = ids[at:at + batch], {keyword: library.DynamicCache(config=language.config)}
                for t in range(1, length):
                    hidden = language.body(input_ids=rows[:, t - 1:t].to(language.device), use_cache=True, **cache).last_hidden_state
                    logits = to_numpy(language.logits(hidden[:, -1]))
                    logits[:, never] = -np.inf
                    drawn = torch.from_numpy(draw(logits, chance[at:at + batch, t]))
                    rows[:, t] = drawn if start is None or stop is None else torch.where(rows[:, t - 1] == stop, start, drawn)
                    if progress:
                        progress(done := done + 1, total)
        return ids
    finally:
        language.close()


def draw(logits: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """One token of each row of logits (n, v), with its softmax probability, by numbers (n,) in [0, 1): int64 (n,).

    >>> draw(np.log([[0.25, 0.25, 0.5]] * 3), np.array([0.1, 0.3, 0.9])).tolist()
    [0, 1, 2]
    """
    most = logits.max(-1, keepdims=True)
    if not np.isfinite(most).all():
        raise InputError("the model gives NaN or infinite logits")
    sums = np.exp(logits - most).cumsum(-1, dtype=np.float64)
    return np.array([np.searchsorted(row, u * row[-1], "right") for row, u in zip(sums, chance, strict=True)], np.int64)
