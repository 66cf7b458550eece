"""Bits of each weight found by trying: small changes of a plan, kept where the coded model itself says more of what the original says.

EvoPress (Sieberling et al. 2024): one parent; each child moves some weights a step up their ladder and others down, so that the size stays;
children are measured on a few sequences and the best of them against the parent on more. What is measured is the KL divergence of the
model with all weights coded, not a sum of effects, so that what weights do to each other counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..array import to_numpy
from ..fit import feedback
from .language import Language, transformers
from .language_slopes import nbytes

CHILDREN, FEW, MOVES = 8, 2, 3  # of a generation; sequences that all of them are measured on; most weights that a child moves up


def quick(spec: str) -> str:
    """The spec with the smallest search, which stands for it in trials: the larger ones lose 1 to 5 % less.

    >>> quick("hadamard,trellis:3:memory=16")
    'hadamard,trellis:3:memory=12'
    """
    return spec.replace("memory=16", "memory=12").replace("memory=14", "memory=12")


class Trials:
    """Coded weights by name and spec, each made when it is first asked for, and the divergence of a model of them."""

    def __init__(self, language: Language, ids, names: list[str], hessians: Mapping[str, np.ndarray],
                 importance: Mapping[str, np.ndarray], damping: float):
        self.language, self.ids, self.hessians, self.importance, self.damping = language, ids, hessians, importance, damping
        self.parameters = dict(language.model.named_parameters())
        self.originals = {n: self.parameters[n].data for n in names}
        self.made: dict[tuple[str, str], object] = {}
        self.wanted = [language.likely(language.states(row)) for row in ids]

    def coded(self, name: str, spec: str):
        """The weight as this spec leaves it."""
        if (found := self.made.get((name, spec))) is None:
            w = to_numpy(self.originals[name])
            h = self.hessians.get(name, np.eye(w.shape[1]))
            codes = feedback.encode(quick(spec), w, h, damping=self.damping, importance=self.importance.get(name))
            found = self.made[name, spec] = self.language.there(codes.codec.decode(codes).astype(np.float32))
        return found

    def divergence(self, specs: Mapping[str, str], sequences: int) -> float:
        """Mean KL(original || coded) in nats a token over the first sequences."""
        for name, spec in specs.items():
            self.parameters[name].data = self.coded(name, spec)
        found = [float(self.language.divergence(self.language.states(row), *one))
                 for row, one in zip(self.ids[:sequences], self.wanted, strict=False)]
        for name, w in self.originals.items():
            self.parameters[name].data = w
        return float(np.mean(found))


def evolve(language: Language, ids, hessians: Mapping[str, np.ndarray], start: Mapping[str, str], ladder: Mapping[str, list[str]],
           sizes: Mapping[str, tuple[int, int]], budget: float, *, importance: Mapping[str, np.ndarray], generations: int = 40,
           damping: float = 0.02, seed: int = 0, progress: Callable[[int, int, str], None] | None = None) -> tuple[dict[str, str], float]:
    """Specs as good as ``start`` or better, of at most ``budget`` bytes, and their divergence on all sequences ``ids``.

    ``ladder`` are the specs that each weight may have, by rising bytes, ``importance`` that of rows, by weight, for ``salient`` terms; the
    whole model is in memory, and each weight once for every spec that is tried. The same seed gives the same specs on the same machine.
    """
    torch, _ = transformers()
    rng, names = np.random.default_rng(seed), list(start)
    cost = {n: [nbytes(s, *sizes[n]) for s in ladder[n]] for n in names}
    with torch.no_grad():
        trials = Trials(language, ids, names, hessians, importance, damping)
        best = {n: ladder[n].index(start[n]) for n in names}
        least = trials.divergence(start, len(ids))
        for g in range(generations):
            young = [c for _ in range(CHILDREN) if (c := _child(best, cost, budget, rng)) is not None]
            ranked = sorted(young, key=lambda c: trials.divergence({n: ladder[n][i] for n, i in c.items()}, FEW))
            for child in ranked[:2]:
                loss = trials.divergence({n: ladder[n][i] for n, i in child.items()}, len(ids))
                if loss < least:
                    best, least = child, loss
            if progress:
                progress(g + 1, generations, f"divergence {least:.4f}")
    return {n: ladder[n][i] for n, i in best.items()}, least


def _child(parent: Mapping[str, int], cost: Mapping[str, list[float]], budget: float, rng: np.random.Generator) -> dict[str, int] | None:
    """The parent with some weights a step up and as many others down as the budget asks for; None if that cannot be."""
    child, names = dict(parent), list(parent)
    raised = set()
    for n in rng.permutation(names)[:rng.integers(1, MOVES + 1)]:
        if child[n] + 1 < len(cost[n]):
            child[n] += 1
            raised.add(n)
    size = sum(cost[n][i] for n, i in child.items())
    for n in rng.permutation(names):
        if size <= budget:
            break
        if n not in raised and child[n]:
            size -= cost[n][child[n]] - cost[n][child[n] - 1]
            child[n] -= 1
    return child if raised and size <= budget else None
