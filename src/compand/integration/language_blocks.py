"""One decoder layer coded in turns: after some of its weights are coded, what is left of it learns to give what the original's layer gives.

The linear layers that share their inputs (query, key and value; output; gate and up; down) are coded together, fitted to what the coded
part of the layer gives them. Then the weights of the layer that are still floats, its norms, its biases and a factor for each row of what
is coded take gradient steps, so that the layer, which reads what the coded layers before it give, gives what the original's gives of the
original's inputs. At the end norms, biases and factors alone are tuned. So errors of earlier layers are made good too, with one layer in
memory.

BRECQ (Li et al. 2021); with weights not yet coded: QuIP# (Tseng et al. 2024); with scales: EfficientQAT's first phase (Chen et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ..array import to_numpy
from ..codec import Codec
from ..codes import Codes
from ..dtypes import dtype
from ..fit import feedback
from .language import Language, transformers
from .language_fit import gather, lost_of
from .language_rows import importance
from .language_target import products
from .language_tune import HELD
from .module_tune import Tuner, rescaled

STEPS = {"low": (8, 16), "medium": (12, 24), "high": (24, 48)}  # after each of the turns of a layer; at its end


class Outputs:
    """What a layer shall give: ``hidden`` and ``wanted`` are the states (1, length, d) of each sequence before and after it.

    The divergence is the mean over tokens of the squared error, each relative to the token's own size, which differs a hundredfold.
    """

    def __init__(self, layer, hidden: list[Any], wanted: list[Any], arguments: dict[str, Any]):
        self.layer, self.hidden, self.wanted, self.arguments = layer, hidden, wanted, arguments

    def divergence(self, language: Language, i):
        """Of sequences i, with gradients."""
        torch, _ = transformers()
        some = [int(j) for j in i]
        with products(language):
            y = first(self.layer(torch.cat([self.hidden[j] for j in some]), **self.arguments)).float()
        wanted = torch.cat([self.wanted[j] for j in some]).float()
        size = wanted.square().mean(-1)
        return ((y - wanted).square().mean(-1) / (size + 1e-3 * size.mean())).mean()


def first(y):
    """The states that a layer returns, alone or before other things."""
    return y[0] if isinstance(y, tuple) else y


def rate_of(language: Language) -> float:
    """The rate that suits the steps of a layer, as `language_tune.rate_of` does for all of them together."""
    return min(3e-3, 0.02 / language.head.weight.shape[1] ** 0.5)


def turns(layer, hidden: list[Any], arguments: dict[str, Any]) -> list[list[str]]:
    """The names of the linear modules of a layer, in the order they are run, those that share their input together."""
    torch, _ = transformers()
    seen: dict[int, list[str]] = {}
    kept = []

    def hook(name: str) -> Callable[..., None]:
        def see(module, args):
            kept.append(args[0])  # holding it keeps its id from being used again
            seen.setdefault(id(args[0]), []).append(name)
        return see

    hooks = [m.register_forward_pre_hook(hook(n)) for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear)]
    try:
        layer(hidden[0], **arguments)
    finally:
        for one in hooks:
            one.remove()
    return list(seen.values())


def reconstruct(language: Language, tuner: Tuner, name: str, target: Outputs, code: Callable[[list[str]], None], *, effort: str,
                rate: float) -> Iterator[float]:
    """Code a layer by ``code`` (called with full names of modules, one turn after another) and tune it; the losses as they come.

    ``tuner`` is of the layer or of the model; ``code`` tells it what it coded.
    """
    each, last = STEPS[effort]
    todo = turns(target.layer, target.hidden, target.arguments)
    for i, some in enumerate(todo):
        code([f"{name}.{n}" for n in some])
        end = i == len(todo) - 1
        local = tuner.part(name, lambda i: target.divergence(language, i), len(target.hidden), rate=rate)
        yield from local.steps(last if end else each, finer=3.0 if end else 1.0)


def fit(language: Language, name: str, target: Outputs, choose, known, rows, *, effort: str, damping: float,
        how: dict[str, Any], seed: int = 0) -> tuple[dict[str, Codes], dict[str, float]]:
    """The codes of everything in a layer that is in memory, tuned, and what each weight lost; the layer's own tensors are not kept.

    ``known`` is what `language_fisher` tells of its modules, by full name, or nothing; ``rows`` what `language_rows` does.
    """
    found: dict[str, Codes] = {}
    lost: dict[str, float] = {}
    own = {n for n in language.items if n.startswith(f"{name}.")}
    tuner = Tuner(language.model, lambda i: target.divergence(language, i), len(target.hidden), own, batch=2, held=HELD, rate=0.0,
                  seed=seed)

    def code(modules: list[str]) -> None:
        for module, inputs in gather(target.layer, target.hidden, target.arguments, name, known, only=modules).items():
            full = f"{module}.weight"
            if (spec := choose(full)) is None:
                continue
            linear, outputs = tuner.linear[module], known[module].outputs if known else None
            w = to_numpy(linear.weight)
            codes = feedback.encode(spec, w, inputs.matrix, outputs=outputs, importance=importance(spec, module, rows), damping=damping,
                                    **how)
            lost[full] = lost_of(w, codes, inputs.matrix)
            found[full] = replace(codes, dtype=language.items[full].dtype)
            if linear.bias is not None:
                linear.bias += language.there((w - codes.codec.decode(codes)) @ inputs.mean).to(linear.bias.dtype)
            tuner.coded(module, found[full])

    for _ in reconstruct(language, tuner, name, target, code, effort=effort, rate=rate_of(language)):
        pass
    tuner.close()
    for key, x in tuner.state().items():
        full = key.removeprefix("factors/")
        found[full] = rescaled(found[full], x) if full != key else Codec("raw").encode(x.astype(dtype(language.items[full].dtype)))
        lost.setdefault(full, 0.0)
    return found, lost
