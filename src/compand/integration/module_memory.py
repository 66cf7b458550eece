"""A torch model run on batches again and again while its layers are coded one after the other: what is finished is not computed anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np


class Enough(Exception):
    """The modules looked for have all been reached."""


class Memory:
    """Runs a model on batches, without computing again what its finished parts give.

    A part is a module that is called once a run and is no inner part of an element of a list of layers. Once all wanted layers in it are
    `finished` its outputs are kept, batch by batch, and those of the parts inside it are forgotten, as are those that nothing reads.
    """

    def __init__(self, model, run: Callable[[Any], Any], batches: Sequence[Any], names: Iterable[str]):
        self.run, self.batches, self.at = run, batches, 0
        self.modules = dict(model.named_modules())
        self.left = set(names)
        self.kept: dict[str, list[Any]] = {}
        calls = self._calls()
        self.parts = [n for n in self.modules if n and calls.get(n) == 1 and not self._inside(n) and any(_holds(n, m) for m in self.left)]

    def _inside(self, name: str) -> bool:
        """Whether a module is below an element of a list of layers."""
        import torch

        pieces = name.split(".")
        above = (self.modules[".".join(pieces[:i])] for i in range(len(pieces) - 1))
        return any(isinstance(m, (torch.nn.ModuleList, torch.nn.Sequential)) for m in above)

    def _calls(self) -> dict[str, int]:
        calls: dict[str, int] = {}

        def count(name):
            def see(*_):
                calls[name] = calls.get(name, 0) + 1
            return see

        hooks = [m.register_forward_pre_hook(count(n)) for n, m in self.modules.items()]
        try:
            self.run(self.batches[0])
        finally:
            for hook in hooks:
                hook.remove()
        return calls

    def every(self) -> None:
        """Run each batch until it has reached what is looked for."""
        for at, batch in enumerate(self.batches):
            self.at = at
            try:
                self.run(batch)
            except Enough:
                pass

    def each(self, numbers, loss: Callable[[Any], Any]):
        """The mean loss of some batches by their numbers (a tensor), each by itself."""
        total = 0.0
        for one in numbers.split(1):
            self.at = int(one)
            total = total + loss(one)
        return total / len(numbers)

    def inputs(self, name: str, most: int, first: int = 0) -> list[np.ndarray]:
        """Evenly spaced rows of what a linear module is given by each batch: float32 (at most about ``most`` in all, d).

        The ``first`` tokens of sequences (..., tokens, d) are left out.
        """
        found: list[np.ndarray] = []
        share = max(1, most // len(self.batches))

        def see(_, args):
            x = args[0].detach()
            x = (x[..., first:, :] if x.ndim > 2 and x.shape[-2] > first else x).reshape(-1, x.shape[-1])
            found.append(x[::max(1, len(x) // share)].float().numpy().copy())
            raise Enough

        hook = self.modules[name].register_forward_pre_hook(see)
        try:
            self.every()
        finally:
            hook.remove()
        return found

    def finished(self, names: Iterable[str]) -> None:
        """These layers compute with their codes now."""
        self.left -= set(names)
        for name in self.parts:  # the outermost come first
            if name not in self.kept and not any(_holds(name, m) for m in self.left) and not any(_holds(k, name) for k in self.kept):
                self._keep(name)

    def _keep(self, name: str) -> None:
        import torch
        from torch.utils import _pytree as tree

        module, outputs = self.modules[name], []

        def copied(value):
            return tree.tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, value)  # what comes may change it in place

        def see(_, args, output):
            outputs.append(copied(output))
            raise Enough

        hook = module.register_forward_hook(see, prepend=True)  # before factors, which come again
        try:
            self.every()
        finally:
            hook.remove()
        for inner in [k for k in self.kept if _holds(name, k)]:
            self._forget(inner)
        if len(outputs) == len(self.batches):
            module.forward = lambda *args, **kwargs: copied(outputs[self.at])
            for other in list(self.kept):
                self._let_go(other)
            self.kept[name] = outputs

    def _let_go(self, name: str) -> None:
        """Free what a kept part gave if nothing reads it any more: NaN in its place does not reach the model's output."""
        import torch
        from torch.utils import _pytree as tree

        def hollow(value):
            return tree.tree_map(lambda t: t.new_full((), torch.nan).expand(t.shape) if _is_float(t) else t, value)

        outputs = self.kept[name]
        first, outputs[0], self.at = outputs[0], hollow(outputs[0]), 0
        found = [t for t in tree.tree_leaves(self.run(self.batches[0])) if _is_float(t)]
        if found and all(bool(torch.isfinite(t).all()) for t in found):
            outputs[:] = [hollow(value) for value in outputs]
        else:
            outputs[0] = first

    def _forget(self, name: str) -> None:
        del self.kept[name], self.modules[name].forward

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_) -> None:
        for name in list(self.kept):
            self._forget(name)


def _is_float(value) -> bool:
    return hasattr(value, "is_floating_point") and value.is_floating_point()


def _holds(name: str, other: str) -> bool:
    return other == name or other.startswith(name + ".")
