"""Which bits each weight of any torch module gets, and what to expect: the planner of language models for other losses.

Noise of the shape that second-order codes leave goes into one layer after the other, in the order they run, and the loss is measured; what
finished layers give is remembered. See `language_slopes` for why that predicts every rate, and `language_plan` for the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ..fit.hessian import Hessian, damped
from .language_fit import specs_of
from .language_plan import Plan, chosen
from .language_slopes import CLASSES, COARSE, REFERENCE, classes, levels, nbytes, noise
from .module_fit import Turns, is_layer, rows
from .module_memory import Memory

MEASURED, FITTED = 3, 12  # batches that losses are measured on; that Hessians come from, at most


@dataclass
class Measured:
    """How a model is measured: ``run`` and ``batches`` as of `module_fit.fit`, ``loss`` of some batches by their numbers, against the
    original; ``importance`` of the rows of embeddings, by the name of their weight."""

    model: Any
    run: Callable[[Any], Any]
    batches: Sequence[Any]
    loss: Callable[[Any], Any]
    importance: Mapping[str, np.ndarray]


def plan(what: Measured, choose: Callable[[str, Any], str | None], *, bits: float | None = None, size: int | None = None,
         kld: float | None = None, rest: int, effort: str = "medium", ladder: list[str] | None = None, damping: float = 0.02, seed: int = 0,
         progress: Callable[[int, int, str], None] | None = None) -> Plan:
    """The spec of each weight for which the loss is least at ``bits`` a value or ``size`` bytes of all; or of fewest bytes at a loss.

    ``choose`` gives an empty string for weights that there is a choice for; the spec of others, or None to leave them. ``rest`` are the
    bytes of all that is not coded. Names of the plan are those of parameters. Raises `InputError` if so few bits, or so little loss, are
    out of reach.
    """
    import torch

    wanted = {name: spec for name, m in what.model.named_modules() if is_layer(m) and (spec := choose(name, m)) is not None}
    with torch.no_grad():
        turns = Turns(what.model, what.run, what.batches[0], wanted)
        noisy = _Noisy(what, turns, damping, seed)
        found = noisy.slopes(progress)
        weights = {f"{n}.weight": noisy.weight(n) for n in noisy.names}
        sizes = {n: (len(w), w[0].numel()) for n, w in weights.items()}
        ladder = ladder or [specs_of(b, effort) for b in (1, 2, 3, 4, 5, 6, 8)]
        by_row = [f"({s})+salient:{share}:{b}" for s in ladder if "trellis" in s for share in CLASSES[:-1] for b in (2, 4)]
        ladders = {n: sorted(ladder + by_row if n in what.importance else ladder, key=lambda s, n=n: nbytes(s, *sizes[n])) for n in sizes}
        ladders |= {f"{n}.weight": [spec] for n, spec in wanted.items() if spec}
        values = sum(p.numel() for p in what.model.parameters())
        return chosen(found, sizes, {n: ladders[n] for n in sizes}, rest, values, noisy.together, bits=bits, size=size, kld=kld)


class _Noisy:
    """A model in some of whose weights there is noise."""

    def __init__(self, what: Measured, turns: Turns, damping: float, seed: int):
        self.what, self.turns, self.damping = what, turns, damping
        self.modules = dict(what.model.named_modules())
        self.names = [n for g in turns.first + turns.groups for n in g]
        self.numbers = list(range(min(MEASURED, len(what.batches))))
        self.rng = np.random.default_rng(seed)
        self.hessians = self._hessians()
        self.before = self._loss()

    def weight(self, name: str):
        """The weight of a module."""
        return self.modules[name].weight

    def _hessians(self) -> dict[str, Hessian]:
        """The Hessian of each layer that is reached, of other batches than are measured if there are any."""
        others = self.what.batches[len(self.numbers):] or self.what.batches
        found: dict[str, Hessian] = {}
        hooks = []
        for group in [*([n] for n in self.turns.heads), *self.turns.groups]:
            h = Hessian(self.weight(group[0])[0].numel())
            found |= dict.fromkeys(group, h)
            hooks.append(self.modules[group[0]].register_forward_pre_hook(lambda m, args, h=h: h.add(rows(m, args[0]))))
        try:
            for batch in others[::max(1, len(others) // FITTED)]:
                self.what.run(batch)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def _loss(self, memory: Memory | None = None) -> float:
        import torch

        numbers = torch.tensor(self.numbers)
        return float(memory.each(numbers, self.what.loss) if memory else self.what.loss(numbers))

    def _noise(self, name: str) -> np.ndarray:
        """Noise of power 1 for a weight (n, d), as its codes would leave it."""
        w, shape = self.weight(name).detach().numpy().reshape(len(self.weight(name)), -1), None
        if name in self.hessians:
            damping = max(self.damping, 0.1) if name in self.turns.heads else self.damping
            lower = np.linalg.cholesky(damped(self.hessians[name].matrix, damping))
            shape = np.linalg.inv(lower / np.diag(lower)).astype(np.float32)
        return noise(self.rng, w, shape)

    def _put(self, name: str, w) -> None:
        for one in (name, *self.turns.others.get(name, [])):
            self.modules[one].weight.data = w

    def slopes(self, progress: Callable[[int, int, str], None] | None) -> dict[str, np.ndarray]:
        """The loss for each unit of relative noise power in each weight, as of `language_slopes.slopes`."""
        import torch

        found: dict[str, np.ndarray] = {}
        batches = [self.what.batches[i] for i in self.numbers]
        with Memory(self.what.model, self.what.run, batches, [n for g in self.turns.groups for n in g]) as memory:
            for group in self.turns.first + self.turns.groups:
                for name in group:
                    kept, e, each = self.weight(name).data, torch.from_numpy(self._noise(name)), []
                    importance = self.what.importance.get(f"{name}.weight")
                    pieces = [slice(None)] if importance is None else classes(importance)
                    for some, power in product(pieces, (REFERENCE,) if importance is None else (REFERENCE, COARSE)):  # type: ignore[var-annotated]
                        w = kept.clone()
                        w[some] += (e[some] * power ** 0.5).reshape(w[some].shape)
                        self._put(name, w)
                        each.append(max(self._loss(memory) - self.before, 0.0) / power)
                    self._put(name, kept)
                    found[f"{name}.weight"] = np.array(each) if importance is None else np.array(each).reshape(-1, 2)
                    if progress:
                        progress(len(found), len(self.names), name)
                memory.finished(group)
        return found

    def together(self, specs: Mapping[str, str]) -> float:
        """The loss of noise in all weights at once, in each as strong as its spec leaves it."""
        import torch

        kept = {n: self.weight(n).data for n in self.names}
        try:
            for name, w in kept.items():
                e = self._noise(name)
                importance = self.what.importance.get(f"{name}.weight")
                power = levels(specs[f"{name}.weight"], e.shape[1], 1 if importance is None else len(CLASSES))
                for some, p in zip([slice(None)] if importance is None else classes(importance), power, strict=True):  # type: ignore[list-item]
                    e[some] *= np.float32(p ** 0.5)
                self._put(name, w + torch.from_numpy(e).reshape(w.shape))
            return max(self._loss() - self.before, 0.0)
        finally:
            for name, w in kept.items():
                self._put(name, w)
