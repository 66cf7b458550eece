"""Gradient steps on a torch model part of which is coded, so that it gives what the original gives. Codes stay as they are.

Every coded layer gets a factor for each output row, which is multiplied into the scales that its codes store; weights of norms, biases,
and weights that are not coded yet are tuned too (Tseng et al. 2024, QuIP#; Chen et al. 2024, EfficientQAT). The loss is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..array import to_numpy
from ..codes import Block, Codes
from ..errors import CompandError, InputError
from ..file import open as open_file
from ..writer import Writer

LARGE = 50_000_000  # parameters from which products are bfloat16


def rescaled(codes: Codes, factors: np.ndarray) -> Codes:
    """The codes of w (n, d) → the codes of w with its rows times ``factors`` (n,), by changing their scales only.

    Raises `InputError` if the codec keeps no scales of rows or groups, or they are not proportional to what is decoded.

    >>> from compand import Codec
    >>> w = np.float32([[1, 2, -4, 3]] * 2)
    >>> codes = rescaled(Codec("int:8").encode(w), np.float32([1, 2]))
    >>> codes.codec.decode(codes)[:, 2].round(1).tolist()
    [-4.0, -8.0]
    """
    form = codes.form
    layout = codes.codec.layout(form._replace(n=1))
    names = [name for name, p in layout.items() if name.rpartition(".")[2] == "scale" and "float" in (p.dtype or "") and p.shape[0] == 1]
    some = [name for name, p in layout.items() if name.endswith("scale") and p.shape == (-1,) and name[:-5] + "rows" in layout]  # salient
    if not names:
        raise InputError(f"{codes.codec.spec} stores no scales of rows that could be tuned")
    factors, blocks, at = np.asarray(factors, np.float32).reshape(-1), [], 0
    for b in codes.blocks:
        f = factors[at:at + b.rows].reshape(-1, *[1] * (b.parts[names[0]].ndim - 1))
        fresh = {name: (b.parts[name].astype(np.float32) * f).astype(b.parts[name].dtype) for name in names}
        for name in some:
            rows = np.flatnonzero(np.unpackbits(b.parts[name[:-5] + "rows"], bitorder="little"))
            fresh[name] = (b.parts[name].astype(np.float32) * factors[at:at + b.rows][rows]).astype(b.parts[name].dtype)
        blocks.append(Block(b.rows, dict(b.parts) | fresh))
        at += b.rows
    changed = replace(codes, blocks=tuple(blocks))
    few = min(form.n, 16)
    before, after = (c.codec.decode(c.rows(0, few)).reshape(-1, form.d)[:few].astype(np.float32) for c in (codes, changed))
    if np.abs(after - before * factors[:few, None]).max() > 0.02 * max(np.abs(after).max(), 1e-30):
        raise InputError(f"{codes.codec.spec} does not decode in proportion to its scales; they cannot be tuned")
    return changed


@dataclass(frozen=True)
class Tuning:
    """How a model is tuned while it is coded: what a `Tuner` is given; steps after each of some sections of layers, and at the end."""

    loss: Callable[[Any], Any]
    count: int
    rate: float
    sections: int = 6
    each: int = 12
    last: int = 24
    batch: int = 2
    seed: int = 0


def rate_of(layers: int, width: int) -> float:
    """The rate that suits a model: what a step changes adds up over the width of a layer, of which Adam's signs agree, and over layers.

    The constant was found on stories260K. At eleven times this rate three steps took Gemma-3-270M from a loss of 0.10 to 0.35.
    """
    return min(3e-3, 0.12 / layers / width ** 0.5)


def products(parameters: int):
    """A context in which torch multiplies in bfloat16 if a model is large and the machine multiplies those."""
    import torch

    half = parameters >= LARGE and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast("cpu", torch.bfloat16, enabled=half)


class Tuner:
    """Gradient steps on what may change of a torch model: norms, biases, weights not yet coded, factors of the rows of those coded.

    ``loss`` is how far the model is from the original on some of ``count`` examples: from their numbers (a tensor) to a scalar with
    gradients, least at 0. ``names`` are the parameters that may change; those of the modules ``without`` stay as they are. So many
    examples as ``held`` are not tuned to, or a quarter of all; they judge.
    """

    def __init__(self, model, loss: Callable[[Any], Any], count: int, names: Iterable[str], *, without: Iterable[Any] = (), batch: int = 4,
                 held: int | None = None, rate: float, seed: int = 0):
        from .module_fit import is_layer

        self.measure, self.batch, self.rate, self.seed = loss, min(batch, count), rate, seed
        self.held = list(range(count - min(held or 2 * self.batch, count // 4), count)) or [0]  # examples that are not tuned to
        self.count = max(1, count - len(self.held))  # of those that are
        self.taken = 0  # steps
        self.factors: dict[str, Any] = {}
        self.fixed: set[str] = set()  # names of modules whose weights do not change
        names, apart = set(names), {id(m) for m in without}
        self.vectors = {n: p for n, p in model.named_parameters() if n in names and p.ndim == 1}
        self.linear = {n: m for n, m in model.named_modules() if is_layer(m) and id(m) not in apart and f"{n}.weight" in names}
        self.hooks: list[Any] = []

    def part(self, within: str, loss: Callable[[Any], Any], count: int, *, rate: float) -> Tuner:
        """A tuner of the tensors of one module, by its name, towards something else; changes the same tensors."""
        one, inside = copy(self), f"{within}."
        one.measure, one.rate, one.taken, one.batch = loss, rate, 0, min(self.batch, count)
        one.held = list(range(count - min(len(self.held), count // 4), count)) or [0]
        one.count = max(1, count - len(one.held))
        one.vectors, one.linear, one.factors = ({n: x for n, x in d.items() if n.startswith(inside)}
                                                for d in (self.vectors, self.linear, self.factors))
        return one

    @classmethod
    def of(cls, model, how: Tuning) -> Tuner:
        """A tuner of all parameters of a model."""
        names = [n for n, _ in model.named_parameters(remove_duplicate=False)]
        return cls(model, how.loss, how.count, names, batch=how.batch, rate=how.rate, seed=how.seed)

    def coded(self, module: str, codes: Codes, also: Iterable[str] = ()) -> None:
        """The weight of a module is what its codes decode to from now on, times a factor for each row if they can take one.

        ``also`` are modules that have the same weight.
        """
        import torch

        m, others = self.linear[module], [self.linear[n] for n in also]
        w = torch.from_numpy(np.array(codes.codec.decode(codes), np.float32)).reshape(m.weight.shape).to(m.weight.device)
        weight = torch.nn.Parameter(w, requires_grad=False)
        self.fixed |= {module, *also}
        for one in (m, *others):
            one.weight = weight
        if any(isinstance(one, torch.nn.Embedding) and type(one).forward is not torch.nn.Embedding.forward for one in (m, *others)):
            return  # tables of positions, which look up something else than what they are called with
        try:
            rescaled(codes, np.full(codes.form.n, 2, np.float32))
        except InputError:
            return
        f = self.factors[module] = torch.ones(len(weight), device=weight.device)
        self.hooks += [one.register_forward_hook(_scaled(f)) for one in (m, *others)]

    def close(self) -> None:
        """Factors do nothing from now on."""
        for hook in self.hooks:
            hook.remove()

    def _weights(self) -> dict[str, Any]:
        """Weights that are not coded, each once."""
        found = {id(m.weight): (n, m.weight) for n, m in reversed(self.linear.items()) if n not in self.fixed}
        return dict(reversed(found.values()))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that steps change: float32, by name; factors under factors/NAME. Views where the model is in this machine's memory."""
        return {n: to_numpy(p) for n, p in self._tensors().items()}

    def _tensors(self) -> dict[str, Any]:
        found = {n: p for n, p in self.vectors.items()}
        found |= {f"{n}.weight": w for n, w in self._weights().items()}
        found |= {f"factors/{n}.weight": f for n, f in self.factors.items()}
        return {n: p.detach() for n, p in found.items()}

    def restore(self, state: dict[str, np.ndarray], taken: int) -> None:
        """What `state` gave, of a tuner with the same codes."""
        import torch

        for n, x in self._tensors().items():
            x.copy_(torch.from_numpy(np.array(state[n])))
        self.taken = taken

    def save(self, path: Path, losses: list[float], sections: int) -> None:
        """Write the `state` to a file, with the losses so far and how many sections of the model are done."""
        with Writer(path, overwrite=True) as w:
            for n, x in self.state().items():
                w.write(n, x, "raw")
            w.write("losses", np.array([*losses, sections, self.taken, self.rate], np.float64), "raw")

    @staticmethod
    def open(path: Path) -> tuple[dict[str, np.ndarray], list[float], int, int, float] | None:
        """What was saved: the state, losses, sections, steps taken and the rate. None if nothing was."""
        try:
            with open_file(path) as file:
                state = {n: file[n].array() for n in file.names}
        except (CompandError, OSError):
            return None
        *losses, sections, taken, rate = state.pop("losses").tolist()
        return state, losses, int(sections), int(taken), rate

    def _rows(self):
        """The examples of the next step: all of them in a drawn order, then in another."""
        import torch

        n, found = self.count, []
        for i in range(self.taken * self.batch, (self.taken + 1) * self.batch):
            found.append(torch.randperm(n, generator=torch.Generator().manual_seed(self.seed + i // n))[i % n])
        self.taken += 1
        return torch.stack(found)

    def steps(self, count: int, *, finer: float = 1.0, progress: Callable[[float], None] | None = None) -> list[float]:
        """So many steps of Adam, whose rate rises and falls to zero; the losses. ``finer`` times the rate for vectors and factors.

        Where they led is judged by the loss of examples that were not tuned to, and so are half and a quarter of the way, where less of
        what was learnt is noise. If none is better, all is as before and the rate is halved for the next ones.
        """
        import torch

        before, kept = self.loss(), {n: x.copy() for n, x in self.state().items()}
        tuned = [*((p, 1.0) for p in self._weights().values()), *((p, finer) for p in (*self.vectors.values(), *self.factors.values()))]
        groups = []
        for p, k in tuned:
            groups.append({"params": [p.requires_grad_(True)], "lr": self.rate * k * max(float(p.detach().square().mean().sqrt()), 1e-3)})
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        rise = max(1, min(10, count // 4))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / rise) * 0.5 * (1 + np.cos(np.pi * t / count)))
        losses = []
        with torch.enable_grad():
            for _ in range(count):
                loss = self.measure(self._rows())
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(float(loss.detach()))
                if progress:
                    progress(losses[-1])
        for p, _ in tuned:
            p.requires_grad_(False)
            p.grad = None
        self._settle(kept, before)
        return losses

    def _settle(self, kept: dict[str, np.ndarray], before: float) -> None:
        """Go as much of the way from ``kept`` to here as examples that were not tuned to like best."""
        moved = {n: x - kept[n] for n, x in self.state().items()}
        best, least = 0.0, before
        for share in (1.0, 0.5, 0.25):
            self._at(kept, moved, share)
            loss = self.loss()
            if loss < least:
                best, least = share, loss
            elif best:
                break
        self._at(kept, moved, best)
        if not best:
            self.rate /= 2

    def _at(self, kept: dict[str, np.ndarray], moved: dict[str, np.ndarray], share: float) -> None:
        self.restore({n: x + np.float32(share) * moved[n] for n, x in kept.items()} if share else kept, self.taken)

    def loss(self) -> float:
        """The mean loss of the examples that are held back."""
        import torch

        with torch.no_grad():
            pieces = torch.tensor(self.held).split(self.batch)
            return sum(float(self.measure(i)) * len(i) for i in pieces) / len(self.held)


def _scaled(f) -> Callable[[Any, Any, Any], Any]:
    """A hook that multiplies the rows of a layer's weight by ``f`` where it is cheapest: in what the layer gives."""
    import torch

    def see(m, args, y):
        if isinstance(m, torch.nn.Embedding):
            return y * f[args[0]][..., None]
        over = slice(None) if isinstance(m, torch.nn.Linear) else (slice(None), *[None] * len(m.kernel_size))  # where the channels are
        return y * f[over] if m.bias is None else (y - m.bias[over]) * f[over] + m.bias[over]
    return see
