"""What each number of terms of each matrix of a stacked language model is worth, measured once and kept in its file.

    language_stack.compress("gemma-3-270m/", "gemma.cpd", "hadamard,(trellis:2+trellis:1+trellis:1)", text)
    compand.lm.load("gemma.cpd", memory=100_000_000)         # any size from the first terms alone to the whole file

One matrix at a time is replaced by what its first terms decode to, all others being the original's, and the KL divergence from the original
is measured, as BitStack (Wang et al. 2024) sorts its blocks by the perplexity they save.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..file import open as open_file
from ..modality.stack import KEY, stacked
from ..writer import Writer
from . import language_fit
from .language import Language, transformers
from .language_slopes import Before, divergence


def spec_of(bits: int, effort: str = "medium") -> str:
    """The spec of a stack of so many bits a value: two, and then one after the other.

    >>> spec_of(4, "low")
    'hadamard,(trellis:2:memory=12+trellis:1:memory=12+trellis:1:memory=12)'
    """
    if not 3 <= bits <= 8:
        raise InputError(f"a stack has 3 to 8 bits, not {bits}")
    return "hadamard,(" + "+".join(f"trellis:{b}:memory={language_fit.EFFORT[effort]}" for b in (2, *(1,) * (bits - 2))) + ")"


def compress(model, out, spec, text, *, measured: int = 4, progress: Callable[[int, int, str], None] | None = None,
             **how: Any) -> dict[str, Any]:
    """`language_fit.compress` with every term of a sum fitted by itself, so that the first terms alone are good, and then `order`.

    ``measured`` sequences of at most 256 tokens are used for that; other arguments are those of `language_fit.compress`. Returns what that
    does, and ``order``: what each number of terms costs. The whole model is in memory at the end.
    """
    result = language_fit.compress(model, out, spec, text, each=True, progress=progress, **how)
    found = order(model, out, text, sequences=measured, length=min(256, how.get("length", 256)), progress=progress)
    return result | {"order": found, "bytes": Path(out).stat().st_size}


def order(model, path, text, *, sequences: int = 4, length: int = 256,
          progress: Callable[[int, int, str], None] | None = None) -> dict[str, list[float]]:
    """Measure the file of a stacked model against the model folder it was made of, and keep the result in its meta; no code changes.

    Returns the KL divergence (nats a token) with the first 1, 2, ... terms of each stacked matrix, on the first ``sequences`` of the text.
    The whole model is in memory. Raises `InputError` if no matrix is a sum of terms.
    """
    torch, _ = transformers()
    language = Language(model)
    try:
        with open_file(path) as file, torch.no_grad():
            language.whole()
            parameters = dict(language.model.named_parameters())
            names = [n for n in file if n in parameters and stacked(file[n]) > 1]
            if not names:
                raise InputError(f"{path}: no matrix is a sum of terms, as hadamard,(trellis:2+trellis:1) makes them")
            before = Before(language, language.tokens(text, length, sequences))
            said = list(before.states(0))
            likely = [language.likely(h) for h in said]
            step = max(1, len(said) * length * language.head.weight.shape[0] >> 27)  # positions whose whole distributions are compared
            whole = [language.logits(h[::step]).log_softmax(-1) for h in said]
            found: dict[str, list[float]] = {}
            for i, name in enumerate(names):
                p, each = parameters[name], []
                kept, end = p.data, p is language.head.weight or p is language.embedding.weight  # of which any token may suffer
                for terms in range(1, stacked(file[name]) + 1):
                    p.data = torch.from_numpy(file[name].array(terms=terms).astype(np.float32))
                    now = before.states(0 if end else before.layer(name))
                    kl = [divergence(q, language.logits(h[::step])) if end else float(language.divergence(h, *one))
                          for h, q, one in zip(now, whole, likely, strict=True)]
                    each.append(max(float(np.mean(kl)), 0.0))
                p.data, found[name] = kept, each
                if progress:
                    progress(i + 1, len(names), name)
    finally:
        language.close()
    with Writer(path, append=True, meta={KEY: {"lost": {n: [float(f"{v:.4g}") for v in each] for n, each in found.items()}}}):
        pass
    return found
