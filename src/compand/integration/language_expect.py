"""What a choice of specs will cost a language model, before anything is coded.

Noise that is shaped as second-order codes shape their errors, and as strong in each weight as its spec leaves it, goes into all weights
at once, and the KL divergence that it causes is measured on a thousand tokens. That is the law of degradation at the one point that is
asked for: where much is lost, losses make each other worse, and no sum over a few layers tells it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .language import Language, transformers
from .language_plan import hessians_of
from .language_slopes import together


def expected(model, spec: str | Callable[[str], str | None], calibration, *, sequences: int = 4, length: int = 256,
             damping: float = 0.02) -> float:
    """The KL divergence (nats a token) to expect of a model folder whose weights are coded by a spec and fitted to text, without tuning.

    ``spec`` is one for all matrices, or a callable from the name of a weight to its spec (None: kept). Noise is shaped by Hessians of
    sequences that follow the ``sequences`` it is measured on, four times as many. The whole model is in memory.
    Raises `InputError` for text that is too short.
    """
    torch, _ = transformers()
    language = Language(model)
    try:
        language.whole()
        ids = language.tokens(calibration, length, 5 * sequences)
        ids, others = ids[:sequences], ids[sequences:]
        with torch.no_grad():
            hessians = hessians_of(language, others if len(others) else ids)
        matrices = [n for n, p in language.model.named_parameters() if n in language.items and p.ndim == 2]
        specs = {n: s for n in matrices if (s := spec(n) if callable(spec) else spec) is not None}
        ends = {f"{language.names[id(m)]}.weight" for m in (language.embedding, language.head)}
        counts = np.maximum(language.counts(calibration) - language.counts(ids), 0)
        importance = {n: counts for n in ends & specs.keys() if "salient" in specs[n]}
        return together(language, ids, hessians, specs, importance=importance, damping=damping)
    finally:
        language.close()
