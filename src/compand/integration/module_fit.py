"""Any torch module tree compressed in the order it runs: linear layers, convolutions, embeddings, each fitted to the inputs it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any

import numpy as np

from ..codec import Codec
from ..codes import Codes
from ..errors import InputError
from ..fit import feedback
from ..fit.hessian import Hessian, loss

PATCHES = 8192  # of a convolution's inputs in one batch: evenly spaced ones tell the same
LEAST = 4096    # values; smaller weights are kept without loss
POSITIONS = "hadamard,int:8"


class _Enough(Exception):
    """The modules looked for have all been reached."""


@dataclass
class Fitted:
    """Codes of weights by parameter name, biases that make up for what was lost (float32), and what was lost of the outputs."""

    codes: dict[str, Codes] = field(default_factory=dict)
    biases: dict[str, np.ndarray] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)


def fit(model, run: Callable[[Any], Any], batches: Sequence[Any], choose: Callable[[str, Any], str | None], *, damping: float = 0.02,
        correct: bool = True, progress: Callable[[int, int, str], None] | None = None) -> Fitted:
    """Codes of the layers of a torch model, which then computes with what they decode to.

    Parameters
    ----------
    run : called with a batch, runs the model (eval mode, no gradients)
    batches : what the layers are fitted to
    choose : (module name, module) → the spec of its weight, or None to leave it
    correct : biases make up for the mean of what is lost

    Layers that share an input are fitted together, and every layer sees what the compressed layers before it give; what finished parts
    of the model give is remembered, not computed again. Layers that the batches do not reach, and embeddings, are coded by themselves,
    before all others; an embedding that is also the head is fitted to the head's inputs. Raises `InputError` if there is nothing to do.
    """
    import torch

    wanted = {name: spec for name, m in model.named_modules() if is_layer(m) and (spec := choose(name, m)) is not None}
    if not wanted:
        raise InputError(f"{type(model).__name__}: no linear layer, convolution or embedding was chosen")
    modules = dict(model.named_modules())
    out = Fitted()
    with torch.no_grad():
        groups = order(model, run, batches[0], [n for n in wanted if not isinstance(modules[n], torch.nn.Embedding)])
        reached = {n for g in groups for n in g}
        others = _tied(modules, sorted(wanted, key=lambda n: n not in reached))
        heads = {n for n in others if n in reached}
        groups = [left for g in groups if (left := [n for n in g if n not in heads])]
        first = [[n] for n in wanted if n in heads or (n not in reached and not any(n in names for names in others.values()))]
        with Memory(model, run, batches, [n for g in groups for n in g]) as memory:
            for i, group in enumerate(first + groups):
                if progress:
                    progress(i, len(first) + len(groups), group[0])
                inputs = _inputs(modules[group[0]], memory) if group[0] in reached else None
                for name in group:
                    _one(out, name, modules[name], wanted[name], inputs, max(damping, 0.1) if name in heads else damping, correct)
                    for other in others.get(name, ()):
                        out.codes[f"{other}.weight"], out.lost[f"{other}.weight"] = (a[f"{name}.weight"] for a in (out.codes, out.lost))
                memory.finished(group)
        if progress:
            progress(len(first) + len(groups), len(first) + len(groups), "")
    return out


def chooser(model, spec: str) -> Callable[[str, Any], str | None]:
    """What `fit` asks about a transformer: ``spec``, but 8 bits for tables of positions, and None for the smallest weights.

    A position is added to every token that stands there, and its table is about a hundredth of the model.
    """
    import torch

    words = model.get_input_embeddings().weight

    def choose(name: str, module) -> str | None:
        if module.weight.numel() < LEAST:
            return None
        return POSITIONS if isinstance(module, torch.nn.Embedding) and module.weight is not words else spec
    return choose


def _tied(modules, names: Iterable[str]) -> dict[str, list[str]]:
    """Modules whose weight is also that of modules after them, with those."""
    homes: dict[int, list[str]] = {}
    for name in names:
        homes.setdefault(id(modules[name].weight), []).append(name)
    return {first: rest for first, *rest in homes.values() if rest}


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
            except _Enough:
                pass

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
            raise _Enough

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
            raise _Enough

        hook = module.register_forward_hook(see)
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


def is_layer(module) -> bool:
    """Whether a module's weight is a matrix that inputs are multiplied with, or looked up in."""
    import torch

    return isinstance(module, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Embedding))


def order(model, run, batch, names: Iterable[str]) -> list[list[str]]:
    """Modules in the order they are reached, those that are given the same tensor in one group."""
    modules = dict(model.named_modules())
    groups: list[list[str]] = []
    seen: dict[str, int] = {}
    inputs: list[Any] = []  # held, so that an id is one tensor's only

    def hook(name):
        def see(module, args):
            if name in seen:
                return
            x = args[0]
            at = next((i for i, other in enumerate(inputs) if other is x and shape_of(modules[groups[i][0]]) == shape_of(module)), None)
            if at is None:
                groups.append([])
                inputs.append(x)
                at = len(groups) - 1
            groups[at].append(name)
            seen[name] = at
        return see

    hooks = [modules[n].register_forward_pre_hook(hook(n)) for n in names]
    try:
        run(batch)
    finally:
        for one in hooks:
            one.remove()
    return groups


def shape_of(module) -> tuple:
    """What decides which rows a module makes of an input."""
    return tuple(module.weight.shape[1:]), *(getattr(module, k, None) for k in ("stride", "padding", "dilation", "groups"))


def rows(module, x):
    """The rows that the weights of each output are multiplied with: (m, d). Of grouped convolutions, those of all groups."""
    import torch

    if isinstance(module, torch.nn.Linear):
        return x.reshape(-1, x.shape[-1])
    if isinstance(module, torch.nn.Conv1d):
        x = x[..., None, :]
    one = isinstance(module, torch.nn.Conv1d)
    kernel, stride, dilation = ((1, *v) if one else tuple(v) for v in (module.kernel_size, module.stride, module.dilation))
    pad = module._reversed_padding_repeated_twice  # last axis first
    x = torch.nn.functional.pad(x, [*pad, 0, 0] if one else pad)
    patches = torch.nn.functional.unfold(x, kernel, dilation, 0, stride)
    b, d, m = patches.shape
    patches = patches.reshape(b, module.groups, d // module.groups, m).permute(0, 1, 3, 2).reshape(-1, d // module.groups)
    return patches[::max(1, len(patches) // PATCHES)]


def _inputs(module, memory: Memory) -> Hessian:
    """The Hessian of a module that is reached; what comes after it is not computed."""
    found = Hessian(int(np.prod(module.weight.shape[1:])))

    def see(_, args):
        found.add(rows(module, args[0]))
        raise _Enough

    hook = module.register_forward_pre_hook(see)
    try:
        memory.every()
    finally:
        hook.remove()
    return found


def _one(out: Fitted, name: str, module, spec: str, inputs: Hessian | None, damping: float, correct: bool) -> None:
    """Code one module's weight, put what it decodes to in its place, and mend the bias."""
    import torch

    w = module.weight.detach().float().numpy()
    form = Codec(spec).form(w.shape, "float32")
    if inputs is None:
        codec = Codec(spec)
        codes = (codec.fit(w) if codec.stage.state(form) else codec).encode(w)
    else:
        codes = feedback.encode(spec, w, inputs.matrix, damping=damping)
    decoded = np.asarray(codes.codec.decode(codes), np.float32).reshape(w.shape)
    e, flat = (decoded - w).reshape(len(w), -1), w.reshape(len(w), -1)
    h = np.eye(flat.shape[1]) if inputs is None else inputs.matrix
    weight = f"{name}.weight"
    out.lost[weight] = loss(e, h) / max(loss(flat, h), 1e-300)
    out.codes[weight] = changed(codes, dtype=str(module.weight.dtype).rpartition(".")[2])
    module.weight.data = torch.from_numpy(decoded.copy()).to(module.weight.dtype)
    if correct and inputs is not None and getattr(module, "bias", None) is not None and getattr(module, "groups", 1) == 1:
        moved = module.bias.detach().float().numpy() - e.astype(np.float64) @ inputs.mean
        out.biases[f"{name}.bias"] = moved.astype(np.float32)
        module.bias.data = torch.from_numpy(out.biases[f"{name}.bias"]).to(module.bias.dtype)
