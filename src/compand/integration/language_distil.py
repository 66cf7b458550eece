"""A language model coded part by part, while what is not coded yet is tuned to make up for what was lost.

Embedding and head are coded first, then the layers from the first to the last, some at a time, each fitted (second order) to what the coded
model gives it. After each group, all weights that are still floats, the norms, the biases, and a factor for each row of what is coded are
tuned by the KL divergence from the original's next-token distributions: later layers make good the errors of earlier ones. At the end norms
and factors alone are tuned. The factors go into the scales that the codes store: size and speed stay.

Tuning of what is not quantized yet: QuIP# (Tseng et al. 2024), there inside a block; of scales and norms at the end: EfficientQAT (Chen et
al. 2024). The whole model is in memory as float32, and three times the weights of its layers for the tuning.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..array import to_numpy
from ..codec import Codec
from ..codes import Codes
from ..dtypes import dtype
from ..errors import CompandError, InputError, OverwriteError
from ..file import open as open_file
from ..fit import feedback
from ..fit.hessian import Hessian
from ..modality import pack
from ..writer import Writer
from . import language_blocks, language_rows
from .language import Language, transformers
from .language_fit import Parts, advance, digest, fisher_of, gather, importance_of, lost_of
from .language_target import Target, products
from .language_tune import Tuner, rate_of
from .module_tune import rescaled

MOST = 600_000_000  # parameters of a model that is tuned without being asked to
GROUPS = {"low": (3, 16, 32), "medium": (6, 24, 48), "high": (6, 48, 96)}  # groups of layers; steps after each; at the end
FITTED = 16384  # tokens that layers are fitted to, at most


def small(model) -> bool:
    """Whether a model folder is of a size that is tuned without being asked to."""
    language = Language(model)
    try:
        return sum(i.size for i in language.items.values()) <= MOST
    finally:
        language.close()


def compress(model, out, spec: str | Callable[[str], str | None], calibration, *, embedding: str | Codes | None = None,
             effort: str = "medium", sequences: int = 192, length: int = 256, damping: float = 0.02, rate: float | None = None,
             fit: str = "layer", blocks: bool = False, seed: int = 0, overwrite: bool = False, device: str = "auto",
             progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write the model folder to the .cpd file ``out``, coded as `language_fit.compress` would and tuned on the way.

    Parameters
    ----------
    spec, calibration, embedding, damping, fit : as in `language_fit.compress`; each layer is fitted to the first third of the sequences, at
        most `FITTED` tokens. An embedding that is the head too may be given as codes that were made before
    effort : how many groups of layers and steps of 2 sequences, see `GROUPS`
    blocks : whether each layer is tuned while it is coded too, towards what the original's layer gives (`language_blocks`)
    rate : of Adam, in parts of the root mean square of each tensor; default: `language_tune.rate_of`
    device : auto, cpu or cuda; auto is a GPU if there is one
    progress : called with (steps done, steps, what is done next)

    Finished groups are kept in OUT.parts, with the tensors as they are tuned: a run that was stopped goes on from there, to the same
    bytes on the same machine and number of threads. Returns what `language_fit.compress` returns, and ``losses`` of the tuning in nats a
    token. Raises `InputError` for models that are not decoders and text that is too short.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise OverwriteError(f"{out} exists; say overwrite=True to replace it")
    if effort not in GROUPS:
        raise InputError(f"effort must be one of {', '.join(GROUPS)}, not {effort!r}")
    torch, _ = transformers()
    language, start = Language(model, device), time.perf_counter()
    try:
        ids = language.tokens(calibration, length, sequences)
        choose, rate = spec if callable(spec) else lambda name: spec, rate or rate_of(language)
        settings = {"specs": {n: choose(n) for n in language.items if n.endswith(".weight")}, "damping": damping, "rate": rate, "fit": fit,
                    "blocks": blocks,
                    "embedding": str(embedding.codec.spec) if isinstance(embedding, Codes) else embedding,
                    "seed": seed, "groups": GROUPS[effort], "tokens": hashlib.sha256(to_numpy(ids).tobytes()).hexdigest(),
                    "shape": list(ids.shape), "text": digest(calibration),
                    "source": {n: [list(i.shape), i.dtype] for n, i in language.items.items()},
                    **({"rows": rows} if (rows := language_rows.asked(language, choose)) else {})}
        with Parts(out.with_name(out.name + ".parts"), settings) as parts:
            run = Run(language, ids, choose, embedding or choose, parts, text=calibration, effort=effort, damping=damping, rate=rate,
                      fit=fit, blocks=blocks, seed=seed, progress=progress)
            with torch.no_grad():
                run.all()
            done = run.finished()
            report = pack(language.source, out, spec=lambda name, shape, kind: done.get(name), overwrite=overwrite, check=False)
            parts.remove()
        values = sum(item.size for item in language.items.values())
        size = out.stat().st_size
        return {"bits": 8 * size / values, "bytes": size, "values": values, "lost": run.lost, "losses": run.losses,
                "seconds": time.perf_counter() - start, "notes": report.notes}
    finally:
        language.close()


class Run:
    """The model as it is between two groups of layers."""

    def __init__(self, language: Language, ids, choose, embedding, parts: Parts, *, text, effort: str, damping: float, rate: float,
                 fit: str, blocks: bool, seed: int, progress: Callable[[int, int, str], None] | None):
        self.language, self.choose, self.parts, self.damping, self.text = language, choose, parts, damping, text
        self.embedding = embedding if callable(embedding) else lambda name: embedding
        language.whole()
        groups, self.each, self.last = GROUPS[effort]
        self.bounds = sorted({round(i * len(language.layers) / groups) for i in range(groups + 1)})
        self.done, self.total = 0, (len(self.bounds) - 1) * (self.each + 1) - self.each + self.last + 2
        self.progress, self.codes, self.lost = progress, {}, {}
        self._tell("what the original says")
        self.target = Target.of(language, ids)
        self.few = ids[:max(1, min(len(ids) // 3, FITTED // ids.shape[1]))]
        self.fisher = fisher_of(language, self.few, fit, parts, lambda what: self._tell(what, 0))
        self.rows = language_rows.rows_of(language, self.few, language_rows.asked(language, choose), parts.folder,
                                          lambda name: self._tell(f"curvature of {name}", 0))
        self.tuner = Tuner(language, self.target, rate=rate, seed=seed)
        self.effort, self.blocks = effort, self._outputs() if blocks else None
        self.losses: list[float] = []

    def _tell(self, what: str, steps: int = 1) -> None:
        if self.progress:
            self.progress(self.done, self.total, what)
        self.done += steps

    def all(self) -> None:
        """Code everything, tuning on the way."""
        self._tell("embedding and head")
        self._ends()
        known = self._resume()
        for i, (lo, hi) in enumerate(zip(self.bounds[:-1], self.bounds[1:], strict=True)):
            if i < known:
                self.done += 1 + (self.each if hi < self.bounds[-1] else 0)
                continue
            self._tell(f"layers {lo + 1} to {hi}")
            self._layers(lo, hi)
            if hi < self.bounds[-1]:
                self.losses += self.tuner.steps(self.each, progress=lambda loss: self._tell(f"tuning, loss {loss:.4f}"))
            self._keep(i + 1)
        self.losses += self.tuner.steps(self.last, finer=3.0, progress=lambda loss: self._tell(f"tuning, loss {loss:.4f}"))
        self._tell("")

    def _ends(self) -> None:
        """Embedding and head, the head fitted to the states that the original gives it."""
        language = self.language
        names = {f"{language.names[id(language.embedding)]}.weight": language.tied}
        if not language.tied:
            names[f"{language.names[id(language.head)]}.weight"] = True
        for full, is_head in names.items():
            spec = self.embedding(full)
            if full not in language.items or spec is None:
                continue
            found = {full: replace(spec, dtype=language.items[full].dtype)} if isinstance(spec, Codes) else self.parts.get(full)
            if found is None:
                w, h = language.weight(full), Hessian(language.items[full].shape[1])
                for states in self.target.hidden if is_head else ():
                    h.add(states)
                matrix = h.matrix if is_head else np.eye(w.shape[1])
                codes = feedback.encode(spec, w, matrix, damping=max(self.damping, 0.1) if language.tied else self.damping,
                                        importance=importance_of(language, spec, self.text))
                found = {full: replace(codes, dtype=language.items[full].dtype)}
                self.parts.put(full, found, {full: lost_of(w, codes, matrix)})
            self.codes |= found
            self.lost |= {} if isinstance(spec, Codes) else self.parts.lost(full)
            decoded = language.there(found[full].codec.decode(found[full]).astype(np.float32))
            (language.head if is_head and not language.tied else language.embedding).weight.data = decoded
        if language.tied:
            language.head.weight = language.embedding.weight

    def _layers(self, lo: int, hi: int) -> None:
        """Code layers lo to hi, fitted to what the layers before them give now."""
        language = self.language
        arguments = language.arguments(self.few[:1])
        hidden = [language.embedding(row[None]) for row in self.few]
        for k in range(hi):
            layer = language.layers[k]
            name = language.names[id(layer)]
            if k >= lo and not self.blocks and (found := self.parts.get(name)) is not None:  # of a run that was stopped inside this group
                for full, codes in found.items():
                    self.tuner.coded(full.removesuffix(".weight"), codes)
                self.codes |= found
                self.lost |= self.parts.lost(name)
            elif k >= lo:
                found, lost, known = {}, {}, self.fisher(name)
                if self.blocks:
                    target = language_blocks.Outputs(layer, hidden, self.blocks[k], arguments[k])

                    def code(modules, *, at=(layer, hidden, arguments[k], name, known), into=(found, lost)):
                        self._code(*at, *into, only=modules)
                    for _ in language_blocks.reconstruct(language, self.tuner, name, target, code, effort=self.effort,
                                                         rate=language_blocks.rate_of(language)):
                        pass
                else:
                    self._code(layer, hidden, arguments[k], name, known, found, lost)
                self.parts.put(name, found, lost)
                self.codes |= found
                self.lost |= lost
            with products(language):
                advance(layer, hidden, arguments[k])

    def _code(self, layer, hidden, arguments, name: str, known, found: dict[str, Codes], lost: dict[str, float], *, only=None) -> None:
        """Code the linear modules of a layer, or some of them, as it is now."""
        with products(self.language):
            hessians = gather(layer, hidden, arguments, name, known, only)
        rows = self.rows(name)
        for module, inputs in hessians.items():
            full = f"{module}.weight"
            if (spec := self.choose(full)) is None:
                continue
            w, h = to_numpy(self.tuner.linear[module].weight), inputs.matrix
            codes = feedback.encode(spec, w, h, outputs=known[module].outputs if known else None,
                                    importance=language_rows.importance(spec, module, rows), damping=self.damping)
            lost[full] = lost_of(w, codes, h)
            found[full] = replace(codes, dtype=self.language.items[full].dtype)
            self.tuner.coded(module, found[full])

    def _outputs(self) -> list[list[Any]]:
        """What each layer of the original gives for the text that layers are fitted to: bfloat16."""
        torch, _ = transformers()
        arguments, found = self.language.arguments(self.few[:1]), []
        with torch.no_grad(), products(self.language):
            hidden = [self.language.embedding(row[None]) for row in self.few]
            for layer, more in zip(self.language.layers, arguments, strict=True):
                advance(layer, hidden, more)
                found.append([h.to(torch.bfloat16) for h in hidden])
        return found

    @property
    def _path(self) -> Path:
        return self.parts.folder / "tuned.state"

    def _keep(self, groups: int) -> None:
        """The tensors as they are tuned, so that a stopped run can go on after this group."""
        with Writer(self._path, overwrite=True) as w:
            for n, x in self.tuner.state().items():
                w.write(n, x, "raw")
            w.write("losses", np.array([*self.losses, groups, self.tuner.taken, self.tuner.rate], np.float64), "raw")

    def _resume(self) -> int:
        """How many groups are done already; the tensors are then as they were tuned."""
        try:
            with open_file(self._path) as file:
                state = {n: file[n].array() for n in file.names}
        except (CompandError, OSError):
            return 0
        *self.losses, groups, taken, self.tuner.rate = state.pop("losses").tolist()
        for layer in self.language.layers[:self.bounds[int(groups)]]:
            found = self.parts.get(name := self.language.names[id(layer)])
            if found is None:
                raise InputError(f"{self.parts.folder} lost {name}; delete the folder and start anew")
            for full, codes in found.items():
                self.tuner.coded(full.removesuffix(".weight"), codes)
            self.codes |= found
            self.lost |= self.parts.lost(name)
        self.tuner.restore(state, int(taken))
        return int(groups)

    def finished(self) -> dict[str, Codes]:
        """Codes of all that was coded or tuned."""
        done = dict(self.codes)
        for name, x in self.tuner.state().items():
            full = name.removeprefix("factors/")
            if full != name:
                done[full] = rescaled(done[full], x)
            elif full not in done:
                done[full] = Codec("raw").encode(x.astype(dtype(self.language.items[full].dtype)))
        return done
