"""The codes of a coded language model moved along the gradient of the whole model's divergence, and its scales and norms tuned after it.

PV-Tuning (Malinovskii et al. 2024): steps on what is continuous (P) and on the codes (V) in turn. The V step here has a curvature: the
gradient of the KL divergence from the original at every weight, the mean xᵀx of the inputs of a layer, and the Fisher information of each
of its outputs tell what a change of codes would win, and `compand.fit.move` takes the codes there. Gradients are means over few tokens,
and the moves that look best are those that their noise favours. So moves are found by one half of the text, kept in the rows where the
gradient of the other half says too that they win, the best of those first, and taken back if text in neither half does not agree.

The model, its gradients twice, and the statistics of its layers are in memory as float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..array import to_numpy
from ..codec import Codec
from ..codes import Codes
from ..dtypes import dtype
from ..errors import InputError
from ..file import open as open_file
from ..fit.hessian import Hessian
from ..fit.move import moved
from ..modality import pack
from .language import Language, transformers
from .language_target import Target
from .language_tune import Tuner, rate_of
from .module_tune import rescaled

STRIP = 16  # rows that move together: those of a strip of a trellis
CAUTION = (4.0, 16.0, 64.0)  # how many times the curvature that one layer by itself has: all move at once


class Downhill(NamedTuple):
    """Of one linear module: the ``gradient`` of each half of the text (2, n, d), ``hessian`` (d, d) of its inputs, ``importance`` (n,)."""

    gradient: np.ndarray
    hessian: np.ndarray
    importance: np.ndarray


def downhill(tuner: Tuner, *, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> dict[str, Downhill]:
    """What a change of each coded weight would do to the divergence, by module: means over the sequences that are tuned to."""
    torch, _ = transformers()
    language, target = tuner.language, tuner.target
    random = torch.Generator(language.device).manual_seed(seed)
    modules = {n: tuner.linear[n] for n in sorted(tuner.fixed)}
    gradient = {n: torch.zeros(2, *m.weight.shape, device=language.device) for n, m in modules.items()}
    hessian = {n: Hessian(m.in_features) for n, m in modules.items()}
    importance, seen = {n: torch.zeros(m.out_features, device=language.device) for n, m in modules.items()}, {}

    def hook(name: str):
        def see(module, args, y):
            hessian[name].add(args[0].detach().float())
            seen[name] = y
        return see

    hooks = [m.register_forward_hook(hook(n)) for n, m in modules.items()]
    weights = [m.weight.requires_grad_(True) for m in modules.values()]
    tokens = 0
    try:
        for i in range(tuner.count):
            with torch.enable_grad():
                rows = torch.tensor([i])
                p, q = target.wanted(language, rows), target.said(language, target.states(language, target.ids[rows]))
                drawn = torch.multinomial(q.detach().exp(), 1, generator=random)
                outputs = [seen[n] for n in modules]
                fisher = torch.autograd.grad(q.gather(1, drawn).sum(), outputs, retain_graph=True)
                down = torch.autograd.grad((p.exp() * (p - q)).sum(), weights)
            for n, f, g in zip(modules, fisher, down, strict=True):
                importance[n] += f.float().square().flatten(0, -2).sum(0)
                gradient[n][i % 2] += g
            tokens += len(q)
            seen.clear()
            if progress:
                progress(i + 1, tuner.count)
    finally:
        for one in hooks:
            one.remove()
        for w in weights:
            w.requires_grad_(False)
    half = [max(1, tokens * len(range(k, tuner.count, 2)) // tuner.count) for k in (0, 1)]
    return {n: Downhill(np.stack([to_numpy(gradient[n][k]) / half[k] for k in (0, 1)]), hessian[n].matrix,
                        to_numpy(importance[n]) / tokens)
            for n in modules}


def agreed(codes: Codes, at: Downhill, *, caution: float, share: float) -> tuple[Codes, float]:
    """The codes moved where both halves of the text say that it wins, and the part of the rows that did: ``share`` at most, the best.

    The halves are taken in turn: each finds moves for the rows of every other strip, and the other judges them.
    """
    n, d = codes.form[:2]
    w, weight = codes.codec.decode(codes).reshape(n, d).astype(np.float32), caution * at.importance
    strips = np.arange(n) // STRIP
    won = np.zeros(strips[-1] + 1)
    aim = np.zeros((n, d), np.float32)
    for k in (0, 1):
        own = strips % 2 == k
        found = moved(codes, at.gradient[k] * own[:, None], at.hessian, weight)
        e = (found.codec.decode(found).reshape(n, d) - w).astype(np.float64)
        gain = -(at.gradient[1 - k] * e).sum(1) - 0.5 * weight * np.einsum("ni,ni->n", e @ at.hessian, e)
        won += np.bincount(strips[own], gain[own], len(won))
        aim[own] = at.gradient[k][own]
    best = np.argsort(-won, kind="stable")[:max(1, round(share * len(won)))]
    keep = np.isin(strips, best[won[best] > 0])
    return (moved(codes, aim * keep[:, None], at.hessian, weight) if keep.any() else codes), float(keep.mean())


def tune(model, coded, out, text, *, rounds: int = 2, share: float = 0.25, steps: int = 48, length: int = 256, sequences: int = 192,
         rate: float | None = None, seed: int = 0, overwrite: bool = False, device: str = "auto",
         progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write the .cpd file ``coded`` of a model folder to ``out`` with codes that were moved by gradients, and tuned scales and norms.

    Parameters
    ----------
    text : sequences of ``length`` tokens of it, some of which are held back to judge
    rounds : of moving codes and tuning the rest
    share : of the rows of each weight, those that win most, which move in a round
    steps : on scales and norms in each round, as in `language_tune.tune`
    device : auto, cpu or cuda
    progress : called with (done, in all, what is done next)

    Returns the ``losses`` of the text that is held back, nats a token (at first, after each round's moves, after its steps), the part of
    the rows that ``moved`` in each round (0 where moves were taken back), ``seconds``. The same seed gives the same bytes on the same
    machine and number of threads. Weights whose codes cannot be moved keep them. Raises `InputError` if none can.
    """
    start = time.perf_counter()
    torch, _ = transformers()
    with open_file(Path(coded)) as file:
        codes = {n: file[n].codes() for n in file.names if file[n].kind == "array"}
    language = Language(model, device)
    try:
        ids = language.tokens(text, length, sequences)
        language.whole()
        with torch.no_grad():
            run = Run(language, Target.of(language, ids), codes, rate=rate or 1.5 * rate_of(language), seed=seed, progress=progress)
            run.total = rounds * (len(ids) + steps + len(CAUTION))
            for _ in range(rounds):
                run.move(share)
                run.steps(steps)
        done = run.finished()
        pack(language.source, out, spec=lambda name, shape, kind: done.get(name), overwrite=overwrite, check=False)
    finally:
        language.close()
    return {"losses": run.losses, "moved": run.moved, "seconds": time.perf_counter() - start}


class Run:
    """A coded model in memory, between moves of its codes and steps on the rest."""

    def __init__(self, language: Language, target: Target, codes: dict[str, Codes], *, rate: float, seed: int, progress):
        self.language, self.codes, self.seed, self.progress, self.done, self.total = language, codes, seed, progress, 0, 0
        self.tuner = Tuner(language, target, rate=rate, seed=seed)
        for name, p in language.model.named_parameters():
            if (name in codes and p.ndim != 2) or p is language.embedding.weight or p is language.head.weight:
                p.data = language.there(codes[name].codec.decode(codes[name]).astype(np.float32))
        for module in self.tuner.linear:
            self.tuner.coded(module, codes[f"{module}.weight"])
        self.able = [n for n in self.tuner.linear if self._able(codes[f"{n}.weight"])]
        if not self.able:
            raise InputError("no weight has codes that can be moved; those of trellis, int, table, float and sums of trellises can")
        self.losses, self.moved = [self.tuner.loss()], []

    def _able(self, codes: Codes) -> bool:
        try:
            moved(codes.rows(0, 1), np.zeros(tuple(codes.rows(0, 1).form[:2]), np.float32), np.eye(codes.form.d))
        except InputError:
            return False
        return True

    def _tell(self, what: str) -> None:
        if self.progress:
            self.progress(self.done, self.total, what)
        self.done += 1

    def _put(self, codes: dict[str, Codes]) -> None:
        """The weights of modules become what these codes decode to."""
        for n, c in codes.items():
            self.tuner.linear[n].weight.copy_(self.language.there(c.codec.decode(c).astype(np.float32)))

    def fold(self) -> None:
        """Factors of rows go into the scales of codes, and are 1 again."""
        for n, f in self.tuner.factors.items():
            self.codes[f"{n}.weight"] = rescaled(self.codes[f"{n}.weight"], to_numpy(f))
            f.fill_(1.0)
            self._put({n: self.codes[f"{n}.weight"]})

    def move(self, share: float) -> None:
        """Move codes, as cautiously as it takes for the text that is held back to lose less; or not at all."""
        self.fold()
        now = self.losses[-1] = self.tuner.loss()  # scales are rounded
        slopes = downhill(self.tuner, seed=self.seed + len(self.moved), progress=lambda *_: self._tell("gradients"))
        old = {n: self.codes[f"{n}.weight"] for n in self.able}
        for i, caution in enumerate(CAUTION):
            self._tell("moving codes")
            found = {n: agreed(c, slopes[n], caution=caution, share=share) for n, c in old.items()}
            self._put({n: c for n, (c, _) in found.items()})
            if (loss := self.tuner.loss()) < now:
                self.codes |= {f"{n}.weight": c for n, (c, _) in found.items()}
                rows = {n: c.form.n for n, c in old.items()}
                self.moved.append(sum(part * rows[n] for n, (_, part) in found.items()) / sum(rows.values()))
                self.losses.append(loss)
                self.done += len(CAUTION) - i - 1
                return
        self._put(old)
        self.moved.append(0.0)
        self.losses.append(now)

    def steps(self, count: int) -> None:
        """Tune scales, norms and biases."""
        if not count:
            return
        self.tuner.steps(count, progress=lambda loss: self._tell(f"tuning, loss {loss:.4f}"))
        self.losses.append(self.tuner.loss())

    def finished(self) -> dict[str, Codes]:
        """Codes of everything."""
        self.fold()
        raw = {n: x for n, x in self.tuner.state().items() if not n.startswith("factors/")}
        return self.codes | {n: Codec("raw").encode(x.astype(dtype(self.codes[n].dtype))) for n, x in raw.items()}
