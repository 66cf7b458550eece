"""The next token, from logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: the best where ``temperature`` is 0, else by chance.

    ``top_k`` keeps the likeliest k (0: all), ``top_p`` the likeliest that together have this probability. ``seed`` fixes the chances.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.temperature <= 100 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise InputError(f"temperature is from 0 to 100, top_k not negative, top_p in (0, 1]: got {self}")

    def chooser(self):
        """A function logits (vocabulary,) → token.

        >>> Sampling().chooser()(np.float32([0, 2, 1]))
        1
        >>> Sampling(temperature=1, top_k=1).chooser()(np.float32([0, 2, 1]))
        1
        """
        rng = np.random.default_rng(self.seed)
        return lambda logits: int(np.argmax(logits)) if self.temperature == 0 else self._draw(logits, rng)

    def _draw(self, logits: np.ndarray, rng: np.random.Generator) -> int:
        k = min(self.top_k or len(logits), len(logits))
        ids = np.argpartition(logits, len(logits) - k)[len(logits) - k:] if k < len(logits) else np.arange(len(logits))
        ids = ids[np.argsort(-logits[ids], kind="stable")]
        x = logits[ids].astype(np.float64) / self.temperature
        p = np.exp(x - x[0])
        p /= p.sum()
        keep = int(np.searchsorted(np.cumsum(p), self.top_p)) + 1
        return int(rng.choice(ids[:keep], p=p[:keep] / p[:keep].sum()))
