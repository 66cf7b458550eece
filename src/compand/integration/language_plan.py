"""Which bits each weight of a language model gets, and what to expect, before anything is coded.

    plan = language_plan.plan("gemma-3-270m/", 3.25, text)
    plan.kld, plan.bytes                                       # expected
    language_fit.compress("gemma-3-270m/", "out.cpd", plan.spec, text)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..fit.hessian import Hessian
from .language import Language, transformers
from .language_evolve import evolve
from .language_fit import gather, norm_of, specs_of
from .language_slopes import CLASSES, nbytes, share
from .language_slopes import slopes as measure

FITTED = 4  # sequences that Hessians come from, for each that is measured


@dataclass(frozen=True)
class Plan:
    """The spec of each weight, and what is expected: bytes of all weights, bits a value, KL divergence in nats a token."""

    specs: dict[str, str]
    bytes: int
    bits: float
    kld: float
    slopes: dict[str, np.ndarray]

    def spec(self, name: str) -> str | None:
        """What `compand.integration.language_fit.compress` asks."""
        return self.specs.get(name)


def plan(model, bits: float, calibration, *, effort: str = "medium", sequences: int = 8, length: int = 256, measured: int = 4,
         ladder: list[str] | None = None, fixed: Mapping[str, str] | None = None, generations: int = 0, damping: float = 0.02,
         slopes: Mapping[str, np.ndarray] | None = None, progress: Callable[[int, int, str], None] | None = None) -> Plan:
    """The bits of each weight for which the KL divergence is least at ``bits`` a value over all weights, embedding and head included.

    Rows of embedding and head whose tokens are frequent in the text may get more bits than the others (``salient``).

    ``ladder`` are the specs to choose from, of rising bits; default: those of 1 to 8 bits by effort; ``fixed`` are those of weights, by
    name, for which there is no choice; ``slopes`` are those of an earlier plan of the same model and text, so that nothing is measured.
    Divergences of noise in embedding and head come from the first ``sequences`` of the text, others from the first ``measured`` of them;
    Hessians from `FITTED` times as many that follow, so that noise is not shaped by the very inputs it is measured on. ``generations`` of
    `language_evolve` better the choice by trying; the expected divergence is then measured on all ``sequences``. The whole model is in
    memory, once.
    Raises `InputError` if so few bits are out of reach.
    """
    torch, _ = transformers()
    language = Language(model)
    try:
        ends = {f"{language.names[id(m)]}.weight" for m in (language.embedding, language.head)} & set(language.items)
        counts = language.counts(calibration)
        found, hessians, ids = slopes, {}, None
        if found is None or generations:
            language.whole()
            ids = language.tokens(calibration, length, (1 + FITTED) * sequences)
            ids, rest_of_text = ids[:sequences], ids[sequences:]
            with torch.no_grad():
                hessians = _hessians(language, rest_of_text if len(rest_of_text) >= len(ids) else ids)
        if found is None:
            others = np.maximum(counts - language.counts(ids), 0)  # what is measured must not tell itself which rows matter
            found = measure(language, ids, hessians, importance=dict.fromkeys(ends, others), measured=measured, damping=damping,
                            progress=progress)
        sizes = {n: (language.items[n].shape[0], language.items[n].shape[1]) for n in found}
        values = sum(i.size for i in language.items.values())
        rest = sum(i.nbytes for n, i in language.items.items() if n not in found)
        ladder = ladder or [specs_of(b, effort) for b in (1, 2, 3, 4, 5, 6, 8)]
        rows = [f"({s})+salient:{share}:{b}" for s in ladder if "trellis" in s for share in CLASSES[:-1] for b in (2, 4)]
        ladders = {n: sorted(ladder + rows if n in ends else ladder, key=lambda s, n=n: nbytes(s, *sizes[n])) for n in found}
        ladders |= {n: [s] for n, s in (fixed or {}).items()}
        try:
            specs, kld = share(found, sizes, bits * values / 8 - rest, ladders)
        except InputError as e:
            raise InputError(f"{bits} bits a value: {e}") from None
        if generations:
            specs, kld = evolve(language, ids, hessians, specs, ladders, sizes, bits * values / 8 - rest, counts=counts,
                                generations=generations, damping=damping, progress=progress)
    finally:
        language.close()
    total = rest + sum(nbytes(specs[n], *sizes[n]) for n in found)
    return Plan(specs, int(total), 8 * total / values, kld, dict(found))


def _hessians(language: Language, ids) -> dict[str, np.ndarray]:
    """The Hessian of the inputs of each linear module of a `whole` model, and of its head, by name of the weight."""
    found: dict[str, np.ndarray] = {}
    hidden = [language.embedding(row[None]) for row in ids]
    for layer, more in zip(language.layers, language.arguments(ids[:1]), strict=True):
        found |= {f"{n}.weight": h.matrix for n, h in gather(layer, hidden, more, language.names[id(layer)]).items()}
        hidden = [y[0] if isinstance(y := layer(h, **more), tuple) else y for h in hidden]
    head = Hessian(language.head.weight.shape[1])
    for h in hidden:
        head.add(norm(h) if (norm := norm_of(language)) is not None else h)
    found[f"{language.names[id(language.embedding if language.tied else language.head)]}.weight"] = head.matrix
    return found
