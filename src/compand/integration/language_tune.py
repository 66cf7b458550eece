"""The scales and norms of a coded language model, tuned together so that it says what the original says. Codes stay as they are.

Every linear layer gets a factor for each output row, which is multiplied into the scales that its codes store; weights of norms and biases
are tuned too. The loss is the KL divergence from the original's next-token distribution, over the tokens that matter (the end-to-end
phase of QuIP#, Tseng et al. 2024, and of EfficientQAT, Chen et al. 2024). Same size, same speed. `language_distil` does more: it tunes
while it codes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..codec import Codec
from ..dtypes import dtype
from ..file import open as open_file
from ..modality import pack
from . import module_tune
from .language import Language, transformers
from .language_target import Target
from .module_tune import rescaled

HELD = 8  # sequences that are not tuned to, at most


def rate_of(language: Language) -> float:
    """Twice `module_tune.rate_of` of a language model: two sequences a step, of which there are many. Found on stories260K.

    At eleven times the rate of `module_tune` three steps took Gemma-3-270M from a loss of 0.10 to 0.35.
    """
    return 2 * module_tune.rate_of(len(language.layers), language.head.weight.shape[1])


class Tuner(module_tune.Tuner):
    """Gradient steps on all of a `whole` model but its embedding and head, by the KL divergence from what a target says."""

    def __init__(self, language: Language, target: Target, *, batch: int = 2, rate: float, seed: int = 0):
        super().__init__(language.model, lambda i: target.divergence(language, i), len(target.ids), language.items,
                         without=(language.embedding, language.head), batch=batch, held=HELD, rate=rate, seed=seed)
        self.language, self.target = language, target


def tune(model, coded, out, text, *, steps: int = 200, length: int = 256, sequences: int = 192, rate: float | None = None,
         seed: int = 0, overwrite: bool = False, device: str = "auto",
         progress: Callable[[int, int, float], None] | None = None) -> dict[str, Any]:
    """Write the .cpd file ``coded`` of a model folder to ``out`` with tuned scales, norms and biases.

    Parameters
    ----------
    text : sequences of ``length`` tokens of it are taken in turn, two a step
    rate : of Adam, in parts of the root mean square of each tensor, falling to zero as a cosine; default: one and a half times `rate_of`
    device : auto, cpu or cuda; auto is a GPU if there is one
    progress : called with (step, steps, loss)

    Returns ``loss`` before and after (nats a token, on the first and last tenth of the steps), ``seconds``.
    """
    start = time.perf_counter()
    torch, _ = transformers()
    with open_file(Path(coded)) as file:
        codes = {n: file[n].codes() for n in file.names if file[n].kind == "array"}
    language = Language(model, device)
    try:
        ids = language.tokens(text, length, sequences)
        language.whole()
        with torch.no_grad():
            tuner = Tuner(language, Target.of(language, ids), rate=rate or 1.5 * rate_of(language), seed=seed)
            for name, p in language.model.named_parameters():
                if (name in codes and p.ndim != 2) or p is language.embedding.weight or p is language.head.weight:
                    p.data = language.there(codes[name].codec.decode(codes[name]).astype(np.float32))
            for module in tuner.linear:
                tuner.coded(module, codes[f"{module}.weight"])
        losses = tuner.steps(steps, progress=(lambda loss: progress(tuner.taken, steps, loss)) if progress else None)
        done = dict(codes)
        for name, x in tuner.state().items():
            full = name.removeprefix("factors/")
            done[full] = rescaled(codes[full], x) if full != name else Codec("raw").encode(x.astype(dtype(codes[full].dtype)))
        pack(language.source, out, spec=lambda name, shape, kind: done.get(name), overwrite=overwrite, check=False)
    finally:
        language.close()
    tenth = max(1, len(losses) // 10)
    return {"loss_before": float(np.mean(losses[:tenth])), "loss_after": float(np.mean(losses[-tenth:])), "steps": len(losses),
            "seconds": time.perf_counter() - start}
