"""How fast a model runs, beside how fast this machine reads memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _native
from .model import Model

READ = 1 << 28  # bytes: more than caches hold
PASSES = 3      # of a read before the tokens of a round, and after them


def _read(far: np.ndarray) -> float:
    """GB/s of one pass."""
    begin = time.perf_counter()
    _native.read(far)
    return far.nbytes / (time.perf_counter() - begin) / 1e9


def measure(model: Model, *, prompt: int = 64, tokens: int = 32, rounds: int = 3,
            others: dict[str, Callable[[], float]] | None = None) -> dict[str, Any]:
    """Medians over rounds of: a prompt, tokens after it, and ``others`` (name → a function that gives a number), one after the other so
    that all meet the same noise; and reads of memory on the same threads, before and after the tokens of each round.

    Gives prompt and decode tokens a second, weights and bytes of weights a second, GB/s of the quickest read, and the share of it.
    """
    ids = np.random.default_rng(0).integers(0, model.shape.vocabulary, prompt)
    prompt, tokens = min(prompt, model.context - 1), min(tokens, model.context - min(prompt, model.context - 1))
    far = np.ones(READ, np.uint8)
    _native.read(far)
    found: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        model.reset()
        times = [time.perf_counter()]
        model.logits(ids[:prompt])
        times.append(time.perf_counter())
        read = [_read(far) for _ in range(PASSES)]
        times.append(time.perf_counter())
        for t in range(tokens):
            model.logits([t % model.shape.vocabulary])
        times.append(time.perf_counter())
        read += [_read(far) for _ in range(PASSES)]
        row = {"prompt": prompt / (times[1] - times[0]), "decode": tokens / (times[3] - times[2]), "read": max(read)}
        row |= {name: run() for name, run in (others or {}).items()}
        for name, value in row.items():
            if turn:
                found.setdefault(name, []).append(value)
    mid = {name: float(np.median(v)) for name, v in found.items()} | {"read": max(found["read"])}
    # an embedding that is no head is looked up, not multiplied
    seen = model.values - (0 if model.shape.tied else model.shape.vocabulary * model.shape.d)
    nbytes = model.bytes * seen / model.values
    return {"prompt_tokens": prompt, "tokens": tokens, "prompt_tok_s": mid["prompt"], "decode_tok_s": mid["decode"],
            "gweights_s": mid["decode"] * seen / 1e9, "gb_s": mid["decode"] * nbytes / 1e9, "read_gb_s": mid["read"],
            "of_read": mid["decode"] * nbytes / 1e9 / mid["read"], "bits": model.bits, "bytes": model.bytes, "threads": _native.threads(),
            **{name: mid[name] for name in others or {}}}
