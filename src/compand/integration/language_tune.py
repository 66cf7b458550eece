"""The scales and norms of a coded language model, tuned together so that it says what the original says. Codes stay as they are.

Every linear layer gets a factor for each output row, which is multiplied into the scales that its codes store; weights of norms and biases
are tuned too. The loss is the KL divergence from the original's next-token distribution, over the tokens that matter (the end-to-end
phase of QuIP#, Tseng et al. 2024, and of EfficientQAT, Chen et al. 2024). Same size, same speed. `language_distil` does more: it tunes
while it codes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..codec import Codec
from ..codes import Block, Codes
from ..dtypes import dtype
from ..errors import InputError
from ..file import open as open_file
from ..modality import pack
from .language import Language, transformers
from .language_target import Target


def rescaled(codes: Codes, factors: np.ndarray) -> Codes:
    """The codes of w (n, d) → the codes of w with its rows times ``factors`` (n,), by changing their scales only.

    Raises `InputError` if the codec keeps no scales of rows or groups, or they are not proportional to what is decoded.

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


def rate_of(language: Language) -> float:
    """The rate that suits a model: what a step changes adds up over the width of a layer, of which Adam's signs agree, and over layers.

    The constant was found on stories260K. At eleven times this rate three steps took Gemma-3-270M from a loss of 0.10 to 0.35.
    """
    return min(3e-3, 0.12 / len(language.layers) / language.head.weight.shape[1] ** 0.5)


class Tuner:
    """Gradient steps on what may change of a `whole` model: norms, biases, weights not yet coded, factors of the rows of those coded."""

    def __init__(self, language: Language, target: Target, *, batch: int = 4, rate: float, seed: int = 0):
        self.language, self.target, self.batch, self.rate, self.seed = language, target, min(batch, len(target.ids)), rate, seed
        n = len(target.ids)
        self.held = list(range(n - min(2 * self.batch, n // 4), n)) or [0]  # sequences that are not tuned to
        self.count = max(1, n - len(self.held))  # of those that are
        self.taken = 0  # steps
        self.factors: dict[str, Any] = {}
        self.fixed: set[str] = set()  # names of modules whose weights do not change
        self.vectors = {n: p for n, p in language.model.named_parameters() if n in language.items and p.ndim == 1}
        torch, _ = transformers()
        self.linear = {n: m for n, m in language.model.named_modules()
                       if isinstance(m, torch.nn.Linear) and m is not language.head and f"{n}.weight" in language.items}

    def coded(self, module: str, codes: Codes) -> None:
        """The weight of a module is what its codes decode to from now on, times a factor for each row if they can take one."""
        torch, _ = transformers()
        m = self.linear[module]
        m.weight = torch.nn.Parameter(torch.from_numpy(codes.codec.decode(codes).astype(np.float32)), requires_grad=False)
        self.fixed.add(module)
        try:
            rescaled(codes, np.full(codes.form.n, 2, np.float32))
        except InputError:
            return
        f = self.factors[module] = torch.ones(len(m.weight))
        m.register_forward_hook(lambda m, x, y: y * f if m.bias is None else (y - m.bias) * f + m.bias)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that steps change: float32, by name; factors under factors/NAME."""
        found = {n: p for n, p in self.vectors.items()}
        found |= {f"{n}.weight": m.weight for n, m in self.linear.items() if n not in self.fixed}
        found |= {f"factors/{n}.weight": f for n, f in self.factors.items()}
        return {n: p.detach().numpy() for n, p in found.items()}

    def restore(self, state: dict[str, np.ndarray], taken: int) -> None:
        """What `state` gave, of a tuner with the same codes."""
        for n, x in self.state().items():
            np.copyto(x, state[n])
        self.taken = taken

    def _rows(self):
        """The sequences of the next step: all of the text in a drawn order, then in another."""
        torch, _ = transformers()
        n, found = self.count, []
        for i in range(self.taken * self.batch, (self.taken + 1) * self.batch):
            found.append(torch.randperm(n, generator=torch.Generator().manual_seed(self.seed + i // n))[i % n])
        self.taken += 1
        return torch.stack(found)

    def steps(self, count: int, *, finer: float = 1.0, progress: Callable[[float], None] | None = None) -> list[float]:
        """So many steps of Adam, whose rate rises and falls to zero; the losses. ``finer`` times the rate for vectors and factors.

        If they were for nothing, by the loss of text that was not tuned to, all is as before and the rate is halved for the next ones.
        """
        torch, _ = transformers()
        before, kept = self.loss(), {n: x.copy() for n, x in self.state().items()}
        weights = [m.weight for n, m in self.linear.items() if n not in self.fixed]
        tuned = [*((p, 1.0) for p in weights), *((p, finer) for p in (*self.vectors.values(), *self.factors.values()))]
        groups = []
        for p, k in tuned:
            groups.append({"params": [p.requires_grad_(True)], "lr": self.rate * k * max(float(p.detach().square().mean().sqrt()), 1e-3)})
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        rise = max(1, min(10, count // 4))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / rise) * 0.5 * (1 + np.cos(np.pi * t / count)))
        losses = []
        with torch.enable_grad():
            for _ in range(count):
                loss = self.target.divergence(self.language, self._rows())
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
        if not self.loss() <= before:
            self.restore(kept, self.taken)
            self.rate /= 2
        return losses

    def loss(self) -> float:
        """The mean divergence on the sequences that are held back."""
        torch, _ = transformers()
        with torch.no_grad():
            pieces = torch.tensor(self.held).split(self.batch)
            return sum(float(self.target.divergence(self.language, i)) * len(i) for i in pieces) / len(self.held)


def tune(model, coded, out, text, *, steps: int = 100, length: int = 256, sequences: int = 192, rate: float | None = None,
         seed: int = 0, overwrite: bool = False, progress: Callable[[int, int, float], None] | None = None) -> dict[str, Any]:
    """Write the .cpd file ``coded`` of a model folder to ``out`` with tuned scales, norms and biases.

    Parameters
    ----------
    text : sequences of ``length`` tokens of it are taken in turn, four a step
    rate : of Adam, in parts of the root mean square of each tensor, falling to zero as a cosine; default: three times `rate_of`
    progress : called with (step, steps, loss)

    Returns ``loss`` before and after (nats a token, on the first and last tenth of the steps), ``seconds``.
    """
    start = time.perf_counter()
    torch, _ = transformers()
    with open_file(Path(coded)) as file:
        codes = {n: file[n].codes() for n in file.names if file[n].kind == "array"}
    language = Language(model)
    try:
        ids = language.tokens(text, length, sequences)
        language.whole()
        with torch.no_grad():
            tuner = Tuner(language, Target.of(language, ids), rate=rate or 3 * rate_of(language), seed=seed)
            for name, p in language.model.named_parameters():
                if (name in codes and p.ndim != 2) or p is language.embedding.weight or p is language.head.weight:
                    p.data = torch.from_numpy(codes[name].codec.decode(codes[name]).astype(np.float32))
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
