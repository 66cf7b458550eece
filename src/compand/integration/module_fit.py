"""Any torch module tree compressed in the order it runs: linear layers, convolutions, embeddings, each fitted to the inputs it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..codec import Codec
from ..codes import Codes
from ..errors import InputError
from ..fit import feedback
from ..fit.hessian import Hessian, loss
from .language_fit import Parts
from .module_memory import Enough, Memory
from .module_tune import Tuner, Tuning, rescaled

PATCHES = 8192  # of a convolution's inputs in one batch: evenly spaced ones tell the same
LEAST = 4096    # values; smaller weights are kept without loss
POSITIONS = "hadamard,int:8"


@dataclass
class Fitted:
    """Codes of weights by parameter name, biases that make up for what was lost (float32), and what was lost of the outputs.

    Of a model that was tuned, ``biases`` are all parameters that are not coded, and ``losses`` those of its steps.
    """

    codes: dict[str, Codes] = field(default_factory=dict)
    biases: dict[str, np.ndarray] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)


def fit(model, run: Callable[[Any], Any], batches: Sequence[Any], choose: Callable[[str, Any], str | None], *, damping: float = 0.02,
        correct: bool = True, tuning: Tuning | None = None, parts: Parts | None = None,
        importance: Mapping[str, np.ndarray] | None = None, progress: Callable[[int, int, str], None] | None = None) -> Fitted:
    """Codes of the layers of a torch model, which then computes with what they decode to.

    Parameters
    ----------
    run : called with a batch, runs the model (eval mode, no gradients)
    batches : what the layers are fitted to
    choose : (module name, module) → the spec of its weight, or None to leave it
    correct : biases make up for the mean of what is lost
    tuning : between sections of layers, what is not coded yet, norms, biases and factors of coded rows take gradient steps towards the
        least loss (`module_tune.Tuning`); its examples are the batches. Parts of the model that are finished wait for the last steps
    importance : of the rows (n,) of weights, by parameter name, for ``salient`` terms
    parts : finished layers are kept there (`language_fit.Parts`): a run that was stopped goes on from there, to the same codes

    Layers that share an input are fitted together, and every layer sees what the compressed layers before it give; what finished parts
    of the model give is remembered, not computed again. Layers that the batches do not reach, and embeddings, are coded by themselves,
    before all others; an embedding that is also the head is fitted to the head's inputs. Raises `InputError` if there is nothing to do.
    """
    import torch

    wanted = {name: spec for name, m in model.named_modules() if is_layer(m) and (spec := choose(name, m)) is not None}
    if not wanted:
        raise InputError(f"{type(model).__name__}: no linear layer, convolution or embedding was chosen")
    with torch.no_grad():
        turns = Turns(model, run, batches[0], wanted)
        work = _Work(model, wanted, turns, tuning, parts, damping, correct, importance or {}, progress)
        known = work.resume()
        for i, section in enumerate(work.sections[known:], known):
            with Memory(model, run, batches, [n for g in turns.groups for n in g]) as memory:
                memory.finished([n for before in work.sections[:i] for g in before for n in g])
                for group in section:
                    work.code(group, memory)
                work.tune(i + 1, memory)
        work.finish()
    return work.out


class Turns:
    """The order that layers are coded in: ``first``, those alone that no input decides; then ``groups`` that share an input."""

    def __init__(self, model, run: Callable[[Any], Any], batch, wanted: Iterable[str]):
        import torch

        modules, wanted = dict(model.named_modules()), list(wanted)
        groups = order(model, run, batch, [n for n in wanted if not isinstance(modules[n], torch.nn.Embedding)])
        self.reached = {n for g in groups for n in g}
        self.others = _tied(modules, sorted(wanted, key=lambda n: n not in self.reached))
        self.heads = {n for n in self.others if n in self.reached}
        self.groups = [left for g in groups if (left := [n for n in g if n not in self.heads])]
        again = {n for names in self.others.values() for n in names}
        self.first = [[n] for n in wanted if n in self.heads or (n not in self.reached and n not in again)]


class _Work:
    """A model part of which is coded."""

    def __init__(self, model, wanted: dict[str, str], turns: Turns, tuning: Tuning | None, parts: Parts | None, damping: float,
                 correct: bool, importance: Mapping[str, np.ndarray], progress: Callable[[int, int, str], None] | None):
        self.modules, self.wanted, self.turns, self.tuning, self.parts = dict(model.named_modules()), wanted, turns, tuning, parts
        self.damping, self.correct, self.importance, self.progress, self.out = damping, correct, importance, progress, Fitted()
        whole = turns.first + turns.groups
        number = min(tuning.sections if tuning else 1, len(whole))
        ends = [round(i * len(whole) / number) for i in range(number + 1)]
        self.sections = [whole[lo:hi] for lo, hi in pairwise(ends)]
        self.done, self.total = 0, len(whole) + (tuning.each * (number - 1) + tuning.last if tuning else 0)
        self.tuner = Tuner.of(model, tuning) if tuning else None

    def _tell(self, what: str, steps: int = 1) -> None:
        if self.progress:
            self.progress(self.done, self.total, what)
        self.done += steps

    def code(self, group: list[str], memory: Memory) -> None:
        """Code the layers of a group, or take the codes of a run that was stopped."""
        self._tell(group[0])
        if not self._known(group):
            inputs = _inputs(self.modules[group[0]], memory) if group[0] in self.turns.reached else None
            found: dict[str, Codes] = {}
            lost: dict[str, float] = {}
            for name in group:
                damping = max(self.damping, 0.1) if name in self.turns.heads else self.damping
                one, lost[f"{name}.weight"] = _one(name, self.modules[name], self.wanted[name], inputs, damping, self.correct,
                                                   self.importance.get(f"{name}.weight"))
                found |= one
            if self.parts:
                self.parts.put(group[0], found, {n: lost.get(n, 0.0) for n in found})
            self._take(found, lost)
        memory.finished(group)

    def _known(self, group: list[str]) -> bool:
        """Whether a run that was stopped has coded a group; its codes are then taken."""
        if self.parts is None or (found := self.parts.get(group[0])) is None:
            return False
        self._take(found, self.parts.lost(group[0]))
        return True

    def _take(self, found: dict[str, Codes], lost: dict[str, float]) -> None:
        """The model computes with codes of weights, and with biases, from now on."""
        import torch

        for full, codes in found.items():
            name, _, kind = full.rpartition(".")
            module, others = self.modules[name], self.turns.others.get(name, [])
            x = np.array(codes.codec.decode(codes), np.float32)
            if kind == "bias":
                self.out.biases[full] = x
                module.bias.data = torch.from_numpy(x.copy()).to(module.bias.dtype)
                continue
            for one in (name, *others):
                self.out.codes[f"{one}.weight"], self.out.lost[f"{one}.weight"] = codes, lost[full]
            if self.tuner:
                self.tuner.coded(name, codes, others)
            else:
                module.weight.data = torch.from_numpy(x.reshape(module.weight.shape)).to(module.weight.dtype)

    def tune(self, sections: int, memory: Memory) -> None:
        """After so many sections: steps on what comes after the finished parts of the model, whose outputs are remembered."""
        if self.tuner and self.tuning:
            loss = self.tuning.loss
            self.tuner.measure = lambda numbers: memory.each(numbers, loss)
            if sections < len(self.sections):
                self.out.losses += self.tuner.steps(self.tuning.each, progress=lambda loss: self._tell(f"tuning, loss {loss:.4f}"))
            self.tuner.measure = loss
            if self.parts:
                self.tuner.save(self.parts.folder / "tuned.state", self.out.losses, sections)

    def resume(self) -> int:
        """How many sections a run that was stopped has finished; all is then as it was."""
        found = self.tuner.open(self.parts.folder / "tuned.state") if self.tuner and self.parts else None
        if not (found and self.tuner and self.tuning and self.parts):
            return 0
        state, self.out.losses, sections, taken, rate = found
        for group in [g for section in self.sections[:sections] for g in section]:
            if not self._known(group):
                raise InputError(f"{self.parts.folder} lost {group[0]}; delete the folder and start anew")
            self.done += 1
        self.done += self.tuning.each * min(sections, len(self.sections) - 1)
        self.tuner.restore(state, taken)
        self.tuner.rate = rate
        return sections

    def finish(self) -> None:
        """The last steps; factors move into the scales that codes store."""
        import torch

        if self.tuner and self.tuning:
            self.out.losses += self.tuner.steps(self.tuning.last, finer=3.0, progress=lambda loss: self._tell(f"tuning, loss {loss:.4f}"))
            self.tuner.close()
            for name, x in self.tuner.state().items():
                if name == (full := name.removeprefix("factors/")):
                    self.out.biases[full] = x.copy()
                    continue
                owner, codes = full.removesuffix(".weight"), rescaled(self.out.codes[full], x)
                for one in (owner, *self.turns.others.get(owner, [])):
                    self.out.codes[f"{one}.weight"] = codes
                weight = self.modules[owner].weight
                weight.data = torch.from_numpy(np.array(codes.codec.decode(codes), np.float32)).reshape(weight.shape)
        self._tell("", 0)


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
        found.add(rows(module, args[0]).float())
        raise Enough

    hook = module.register_forward_pre_hook(see)
    try:
        memory.every()
    finally:
        hook.remove()
    return found


def _one(name: str, module, spec: str, inputs: Hessian | None, damping: float, correct: bool,
         importance: np.ndarray | None) -> tuple[dict[str, Codes], float]:
    """The codes of one module's weight, and of a bias that mends what they lose on average; what is lost."""
    w = module.weight.detach().float().numpy()
    form = Codec(spec).form(w.shape, "float32")
    if inputs is None:
        codec = Codec(spec)
        codes = (codec.fit(w) if codec.stage.state(form) else codec).encode(w)
    else:
        codes = feedback.encode(spec, w, inputs.matrix, damping=damping, importance=importance)
    decoded = np.asarray(codes.codec.decode(codes), np.float32).reshape(w.shape)
    e, flat = (decoded - w).reshape(len(w), -1), w.reshape(len(w), -1)
    h = np.eye(flat.shape[1]) if inputs is None else inputs.matrix
    found = {f"{name}.weight": replace(codes, dtype=str(module.weight.dtype).rpartition(".")[2])}
    if correct and inputs is not None and getattr(module, "bias", None) is not None and getattr(module, "groups", 1) == 1:
        moved = module.bias.detach().float().numpy() - e.astype(np.float64) @ inputs.mean
        found[f"{name}.bias"] = Codec("raw").encode(moved.astype(np.float32))
    return found, loss(e, h) / max(loss(flat, h), 1e-300)
