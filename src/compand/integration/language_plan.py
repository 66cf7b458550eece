"""Which bits each weight of a language model gets, and what to expect, before anything is coded.

    plan = language_plan.plan("gemma-3-270m/", 3.25, text)     # or kld=0.05, nbytes=100_000_000, milliseconds=4
    plan.kld, plan.bytes, plan.table()                         # expected
    language_fit.compress("gemma-3-270m/", "out.cpd", plan.spec, text)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from ..fit.hessian import Hessian
from ..modality import detect
from ..writer import Writer
from . import language_gradients, language_rows, language_speed
from .language import Language, transformers
from .language_evolve import evolve
from .language_fit import gather, norm_of, specs_of
from .language_slopes import CLASSES, classes, lost, nbytes, share, together
from .language_slopes import slopes as measure

FITTED = 4  # sequences that Hessians come from, for each that is measured
ENTRY_BYTES = 240  # of the index and of padding, a tensor
TRIES = 5  # of a budget of divergence, each with what noise in all weights of the last choice really cost


@dataclass(frozen=True)
class Plan:
    """The spec of each weight, and what is expected: bytes of all weights, bits a value, KL divergence in nats a token.

    ``factor`` is how much more noise in all weights at once costs than the sum over weights, measured; ``kld`` counts it.
    """

    specs: dict[str, str]
    bytes: int
    bits: float
    kld: float
    slopes: dict[str, np.ndarray]
    ladders: dict[str, list[str]]
    sizes: dict[str, tuple[int, int]]
    factor: float = 1.0

    def spec(self, name: str) -> str | None:
        """What `compand.integration.language_fit.compress` asks."""
        return self.specs.get(name)

    def table(self) -> list[dict[str, Any]]:
        """Each weight's spec, bytes and share of the divergence; ``cost``: bytes over the next smaller spec, which ``won`` so much less."""
        rows = []
        for name, spec in self.specs.items():
            size, slope = self.sizes[name], self.slopes[name]
            own, loss = nbytes(spec, *size), self.factor * lost(spec, size[1], slope)
            row = {"name": name, "spec": spec, "bytes": round(own), "kld": loss}
            if smaller := [s for s in self.ladders[name] if nbytes(s, *size) < own]:
                less = max(smaller, key=lambda s, size=size: nbytes(s, *size))  # type: ignore[misc]
                row |= {"cost": round(own - nbytes(less, *size)), "won": self.factor * lost(less, size[1], slope) - loss}
            rows.append(row)
        return rows


def plan(model, bits: float | None, calibration, *, size: int | None = None, kld: float | None = None, milliseconds: float | None = None,
         effort: str = "medium", sequences: int = 8, length: int = 256, measured: int = 4, ladder: list[str] | None = None,
         fixed: Mapping[str, str] | None = None, generations: int = 0, damping: float = 0.02,
         slopes: Mapping[str, np.ndarray] | None = None, rows: bool = False,
         sensitivity: Literal["kl", "fisher", "relevance"] = "kl", device: str = "auto",
         progress: Callable[[int, int, str], None] | None = None) -> Plan:
    """The bits of each weight for which the KL divergence is least at ``bits`` a value over all weights, embedding and head included.

    Instead of ``bits``, ``size`` bytes of all weights, or ``milliseconds`` a token (of `language_speed`, on this machine) may be the
    bound; or ``kld``, the divergence in nats a token that must not be exceeded with the fewest bytes.

    Rows of embedding and head whose tokens are frequent in the text may get more bits than the others (``salient``); with
    ``rows`` those of all other weights too whose outputs the model minds most (`language_rows`).

    ``ladder`` are the specs to choose from, of rising bits; default: those of 1 to 8 bits by effort; ``fixed`` are those of weights, by
    name, for which there is no choice. ``sensitivity`` is what says how much noise a weight stands: the divergence measured with noise in
    it (`language_slopes`), or gradients (`language_gradients`). Gradients and divergences of noise in embedding and head are of the first
    ``sequences`` of the text, other divergences from the first ``measured`` of them; Hessians from `FITTED` times as many that follow, so
    that noise is not shaped by the very inputs it is measured on. What noise in all weights together costs is measured once and scales the
    expected divergence. ``slopes`` are those of an earlier plan of the same model, text and ``rows``: with bits, size or milliseconds
    nothing is measured then, and what is expected is the plain sum over weights. ``generations`` of
    `language_evolve` better the choice by trying; the expected divergence is then measured on all ``sequences``. The whole model is in
    memory, once.
    Raises `InputError` if so few bits, or so little divergence, are out of reach.
    """
    if sum(x is not None for x in (bits, size, kld, milliseconds)) != 1:
        raise InputError("give one of bits, size, kld and milliseconds")
    if generations and (kld is not None or milliseconds is not None):
        raise InputError("generations better a choice of a size; give bits or size")
    torch, _ = transformers()
    language = Language(model, device)
    try:
        ends = {f"{language.names[id(m)]}.weight" for m in (language.embedding, language.head)} & set(language.items)
        counts, hessians, found, ids = language.counts(calibration), {}, slopes, None
        if slopes is None or generations or kld is not None:
            language.whole()
            ids = language.tokens(calibration, length, (1 + FITTED) * sequences)
            ids, others = ids[:sequences], ids[sequences:]
            with torch.no_grad():
                hessians = hessians_of(language, others if len(others) >= len(ids) else ids)
        seen = 0 if ids is None else language.counts(ids)
        importance = dict.fromkeys(ends, np.maximum(counts - seen, 0))  # what is measured must not tell itself which rows matter
        outputs = {}
        if rows and ids is not None:
            outputs = language_rows.curvature(language, others if len(others) >= len(ids) else ids, list(language.items))
        if found is None and sensitivity == "kl":
            found = measure(language, ids, hessians, importance=importance, measured=measured, damping=damping, progress=progress)
        elif found is None:
            found = language_gradients.slopes(language, ids, hessians, importance=importance, relevance=sensitivity == "relevance",
                                           damping=damping, progress=progress)
        by_row = importance | {n: g * np.square(language.weight(n)).mean(1) for n, g in outputs.items()}  # rows lose by their size too
        found = found | {n: _split(found[n], by_row[n]) for n in outputs if len(found.get(n, ())) == 1}
        sizes = {n: (language.items[n].shape[0], language.items[n].shape[1]) for n in found}
        values = sum(i.size for i in language.items.values())
        rest = sum(i.nbytes for n, i in language.items.items() if n not in found)
        ladder = ladder or [specs_of(b, effort) for b in (1, 2, 3, 4, 5, 6, 8)]
        mixed = [f"({s})+salient:{share}:{b}" for s in ladder if "trellis" in s for share in CLASSES[:-1] for b in (2, 4)]
        some = {n for n in found if (n in ends or rows) and len(found[n]) > 1} if milliseconds is None else set()
        ladders = {n: sorted(ladder + mixed if n in some else ladder, key=lambda s, n=n: nbytes(s, *sizes[n])) for n in found}
        ladders |= {n: [s] for n, s in (fixed or {}).items()}
        weigh = partial(together, language, ids, hessians, importance=by_row, damping=damping)
        cost = None if milliseconds is None else language_speed.milliseconds(sorted({s for own in ladders.values() for s in own}))
        found_plan = chosen(found, sizes, ladders, rest, values, weigh if slopes is None or kld is not None else None, bits=bits, size=size,
                            kld=kld, milliseconds=milliseconds, cost=cost)
        if generations:
            budget = (size if size is not None else (bits or 0) * values / 8) - rest
            specs, expected = evolve(language, ids, hessians, found_plan.specs, ladders, sizes, budget,
                                     importance=dict.fromkeys(ends, counts) | outputs, generations=generations, damping=damping,
                                     progress=progress)
            factor = expected / max(sum(lost(s, sizes[n][1], found[n]) for n, s in specs.items()), 1e-300)
            found_plan = _of(specs, found, sizes, ladders, rest, values, expected, factor)
    finally:
        language.close()
    return found_plan


def chosen(slopes: Mapping[str, np.ndarray], sizes: Mapping[str, tuple[int, int]], ladders: Mapping[str, list[str]], rest: int, values: int,
           weigh: Callable[[Mapping[str, str]], float] | None, *, bits: float | None = None, size: int | None = None,
           kld: float | None = None, milliseconds: float | None = None, cost: Callable[[str, int, int], float] | None = None) -> Plan:
    """The plan within a bound (one of those of `plan`) for weights of known slopes, sizes and ladders.

    ``rest`` bytes are not coded, of ``values`` in all; ``weigh`` says what noise in all weights together costs.
    """
    if kld is not None:
        assert weigh is not None
        specs, expected, factor = _within(kld, slopes, sizes, ladders, weigh)
        return _of(specs, slopes, sizes, ladders, rest, values, expected, factor)
    budget = milliseconds if milliseconds is not None else (size if size is not None else (bits or 0) * values / 8) - rest
    try:
        specs, total = share(slopes, sizes, budget, ladders, cost=cost)
    except InputError as e:
        asked = next(f"{x} {unit}" for x, unit in ((bits, "bits a value"), (size, "bytes"), (milliseconds, "ms a token")) if x is not None)
        raise InputError(f"{asked}: {e}") from None
    expected = weigh(specs) if weigh else total
    return _of(specs, slopes, sizes, ladders, rest, values, expected, expected / max(total, 1e-300))


def _split(slope: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """The slope (1,) of a weight shared among `CLASSES` of its rows, by what noise as strong as each costs: float64 (classes,)."""
    each = np.array([worth[some].sum() for some in classes(worth)])
    return slope * each / max(each.sum(), 1e-300)


def _of(specs, slopes, sizes, ladders, rest: int, values: int, expected: float, factor: float) -> Plan:
    stored = rest + sum(nbytes(specs[n], *sizes[n]) for n in slopes)
    return Plan(specs, int(stored), 8 * stored / values, expected, dict(slopes), dict(ladders), dict(sizes), factor)


def around(model) -> int:
    """Bytes that the .cpd file of a model folder takes beside its tensors: other files, coded, and the index."""
    with detect(model) as source, tempfile.TemporaryDirectory(prefix="compand-") as folder:
        path = Path(folder, "files.cpd")
        with Writer(path) as w:
            for name, content in source.files.items():
                w.write_file(name, content)
        return path.stat().st_size + ENTRY_BYTES * len(list(source.items()))


def hessians_of(language: Language, ids) -> dict[str, np.ndarray]:
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


def _within(kld: float, found, sizes, ladders, weigh) -> tuple[dict[str, str], float, float]:
    """The specs of fewest bytes whose divergence, with noise in all weights, is at most ``kld``; that divergence; the factor."""
    bound, best = kld, None
    for _ in range(TRIES):
        try:
            specs, total = share(found, sizes, None, ladders, divergence=bound)
        except InputError as e:
            raise InputError(f"a KL divergence of {kld}: {e}") from None
        expected = weigh(specs)
        size = sum(nbytes(s, *sizes[n]) for n, s in specs.items())
        if expected <= kld and (best is None or size < best[0]):
            best = size, specs, expected, total
        if 0.95 * kld <= expected <= kld:
            break
        bound *= 0.98 * kld / max(expected, 1e-12)
    if best is None:
        raise InputError(f"no choice of bits was found whose KL divergence is at most {kld}")
    _, specs, expected, total = best
    return specs, expected, expected / max(total, 1e-300)
