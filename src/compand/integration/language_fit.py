"""A language model compressed layer by layer, each fitted to what the compressed layers before it give for calibration text."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..array import to_numpy
from ..codec import Codec
from ..codes import Codes
from ..dtypes import dtype
from ..errors import CompandError, InputError
from ..file import open as open_file
from ..fit import feedback
from ..fit.hessian import Hessian
from ..modality import pack
from ..writer import Writer
from .language import Language, transformers
from .language_tokens import Received

EFFORT = {"low": 12, "medium": 14, "high": 16}
SWEEPS = {"low": 0, "medium": 2, "high": 4}  # of `feedback.encode`


def specs_of(bits: int, effort: str = "medium") -> str:
    """The spec of weights at so many bits a value."""
    if not 1 <= bits <= 8:
        raise InputError(f"bits must be from 1 to 8, not {bits}")
    if bits > 6:
        return f"hadamard,int:{bits}"
    how = f"memory={EFFORT[effort]}"
    return f"hadamard,trellis:{bits}:{how}" if bits < 5 else f"hadamard,(trellis:4:factors=2:{how}+trellis:{bits - 4}:factors=2:{how})"


def compress(model, out, spec: str | Callable[[str], str | None], calibration, *, embedding: str | None = None, sequences: int = 64,
             length: int = 512, damping: float = 0.02, sweeps: int = 0, order: Literal["natural", "activity"] = "natural",
             each: bool = False, fit: str = "layer", blocks: str | None = None, seed: int = 0, overwrite: bool = False,
             device: str = "auto", progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write the model folder to the .cpd file ``out`` with second-order codes of every linear layer, embedding and head.

    Parameters
    ----------
    spec : spec of linear layers, or a callable from the name of a weight to a spec (None: without loss). ``salient`` terms take the rows
        whose loss costs the whole model most (`language_rows`), which takes a pass back through the model
    calibration : text the layers are fitted to, or tokens (`language_generate`); the first sequences × length of it count
    embedding : spec of embedding and head; default: ``spec``
    sweeps, order, each : of `compand.fit.feedback.encode`, for layers; ``activity`` (act-order) is for scalar stages
    fit : what layers are fitted to: their own outputs (``layer``; ``attention``: tokens count by the attention they are paid,
        `language_tokens`), or what the whole model makes of them (``kronecker``: `language_fisher`)
    blocks : low, medium or high: what of a layer is not coded yet learns to make up for what was (`language_blocks`), in so many steps
    device : auto, cpu or cuda; auto is a GPU if there is one
    progress : called with (layers done, layers, name)

    Biases make up for the mean of what is lost. One layer is in memory at a time, beside the hidden states of the text; with ``blocks``
    the gradients of the layer too, and the states twice. Finished layers
    are kept in OUT.parts: a run that was stopped goes on from there, to the same bytes. Returns what `compand.modality.pack` reports and
    what was lost, by tensor.
    Raises `InputError` for models that are not decoders, text that is too short, and ``salient`` where no gradient of the text comes.
    """
    from .language_rows import asked

    torch, _ = transformers()
    out = Path(out)
    if out.exists() and not overwrite:
        from ..errors import OverwriteError

        raise OverwriteError(f"{out} exists; say overwrite=True to replace it")
    language = Language(model, device)
    try:
        ids = language.tokens(calibration, length, sequences)
        choose = spec if callable(spec) else lambda name: spec
        settings = {"specs": {n: choose(n) for n in language.items if n.endswith(".weight")}, "embedding": embedding, "damping": damping,
                    **(how := {"sweeps": sweeps, "order": order, "each": each}), "fit": fit, "blocks": blocks, "seed": seed,
                    "shape": list(ids.shape),
                    "tokens": hashlib.sha256(to_numpy(ids).tobytes()).hexdigest(),
                    "text": digest(calibration),
                    "source": {n: [list(i.shape), i.dtype] for n, i in language.items.items()},
                    **({"rows": rows} if (rows := asked(language, choose)) else {})}
        start = time.perf_counter()
        with torch.no_grad(), Parts(out.with_name(out.name + ".parts"), settings) as parts:
            lost = _layers(language, ids, choose, embedding, damping, how, fit, (blocks, seed), parts, progress or (lambda *_: None),
                           calibration)
            done = parts.codes()
            report = pack(language.source, out, spec=lambda name, shape, dtype: done.get(name), overwrite=overwrite, check=False)
            parts.remove()
        values = sum(item.size for item in language.items.values())
        return {"bits": 8 * out.stat().st_size / values, "bytes": out.stat().st_size, "values": values, "lost": lost,
                "seconds": time.perf_counter() - start, "notes": report.notes}
    finally:
        language.close()


def _layers(language: Language, ids, choose, embedding, damping, how, fit, blocks, parts: Parts, progress, text) -> dict[str, float]:
    """Fit every layer, then the head; relative squared error of the outputs by tensor."""
    from .language_rows import asked, rows_of

    def tell(what: str) -> None:
        progress(0, len(language.layers) + 1, what)

    fisher = fisher_of(language, ids, fit, parts, tell)
    rows = rows_of(language, ids, asked(language, choose), parts.folder, lambda name: tell(f"curvature of {name}"))
    language.load(language.embedding)
    hidden = [language.embedding(row[None]) for row in ids]
    arguments = language.arguments(ids[:1])
    language.drop(language.embedding)
    total, lost, (effort, seed) = len(language.layers) + 1, {}, blocks
    clean = list(hidden)  # what the original gives; hidden: what is compressed
    for i, layer in enumerate(language.layers):
        name = language.names[id(layer)]
        progress(i, total, name)
        found = parts.get(name)
        if effort or found is None:
            language.load(layer)
        if effort:
            advance(layer, clean, arguments[i])
        if found is None:
            if effort:
                from . import language_blocks as blocked

                target = blocked.Outputs(layer, hidden, clean, arguments[i])
                found, own = blocked.fit(language, name, target, choose, fisher(name), rows(name), effort=effort, damping=damping, how=how,
                                         seed=seed)
            else:
                found, own = _layer(language, layer, name, hidden, arguments[i], choose, fisher(name), rows(name), damping, how)
            parts.put(name, found, own)
        language.drop(layer)
        lost |= parts.lost(name)
        language.load(layer, {n: c.codec.decode(c).astype(np.float32) for n, c in found.items()})
        advance(layer, hidden, arguments[i])
        language.drop(layer)
    progress(total - 1, total, "embedding and head")
    lost |= _ends(language, hidden, choose, embedding, damping, how, parts, text)
    progress(total, total, "")
    return lost


def _layer(language: Language, layer, name: str, hidden, arguments, choose, known, rows, damping,
           how) -> tuple[dict[str, Codes], dict[str, float]]:
    """The codes of a layer and what each weight lost."""
    from .language_rows import importance

    found: dict[str, Codes] = {}
    lost: dict[str, float] = {}
    for module, inputs in gather(layer, hidden, arguments, name, known).items():
        full, h = f"{module}.weight", inputs.matrix
        if (spec := choose(full)) is not None:
            w = language.weight(full)
            outputs = known[module].outputs if known else None
            codes = feedback.encode(spec, w, h, outputs=outputs, importance=importance(spec, module, rows), damping=damping, **how)
            found[full] = codes = replace(codes, dtype=language.items[full].dtype)
            lost[full] = lost_of(w, codes, h)
            if (bias := f"{module}.bias") in language.items:  # the mean of the outputs stays
                moved = language.weight(bias) + (w - codes.codec.decode(codes).astype(np.float32)) @ inputs.mean
                found[bias] = Codec("raw").encode(moved.astype(dtype(language.items[bias].dtype)))
                lost[bias] = 0.0
    return found, lost


def advance(layer, hidden: list[Any], arguments: dict[str, Any]) -> None:
    """The states (1, length, d) of each sequence become what a layer gives for them."""
    for j, h in enumerate(hidden):
        y = layer(h, **arguments)
        hidden[j] = y[0] if isinstance(y, tuple) else y


def _ends(language: Language, hidden, choose, embedding, damping, how, parts: Parts, text) -> dict[str, float]:
    """Embedding and head. A matrix that is both is fitted to the inputs of the head."""
    names = {f"{language.names[id(language.embedding)]}.weight": language.tied}
    if not language.tied:
        names[f"{language.names[id(language.head)]}.weight"] = True
    norm = norm_of(language)
    lost: dict[str, float] = {}
    for full, is_head in names.items():
        spec = embedding or choose(full)
        if full not in language.items or spec is None:
            continue
        if parts.get(full) is None:
            w = language.weight(full)
            h = Hessian(w.shape[1])
            if is_head:
                if norm is not None:
                    language.load(norm)
                for x in hidden:
                    h.add(x if norm is None else norm(x))
                matrix = h.matrix
            else:
                matrix = np.eye(w.shape[1])
            codes = feedback.encode(spec, w, matrix, damping=max(damping, 0.1) if language.tied else damping,
                                    importance=importance_of(language, spec, text), each=how["each"])
            codes = replace(codes, dtype=language.items[full].dtype)
            parts.put(full, {full: codes}, {full: lost_of(w, codes, matrix)})
        lost |= parts.lost(full)
    return lost


def fisher_of(language: Language, ids, fit: str, parts: Parts, tell: Callable[[str], None]) -> Callable[[str], dict[str, Any]]:
    """What `language_fisher` knows of the modules of a layer, by the layer's name: nothing if they are fitted to their own outputs."""
    if fit == "layer":
        return lambda name: {}
    if fit == "attention":
        return lambda name: Received()
    if fit != "kronecker":
        raise InputError(f"fit must be layer, attention or kronecker, not {fit!r}")
    from .language_fisher import Fishers

    fishers = Fishers(parts.folder)
    fishers.measure(language, ids, progress=lambda name: tell(f"curvature of {name}"))
    return fishers.__getitem__


def digest(text) -> str:
    """SHA-256 of a text, or of tokens."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else np.asarray(text).tobytes()).hexdigest()


def importance_of(language: Language, spec: str, text) -> np.ndarray | None:
    """How much each row of an embedding or head matters, for specs that ask."""
    return language.counts(text) if "salient" in spec else None


def norm_of(language: Language):
    """The norm between the last layer and the head, if there is one."""
    return getattr(language.body, "norm", None) or getattr(language.body, "final_layernorm", None)


def gather(layer, hidden, arguments: dict[str, Any], prefix: str, fisher: Mapping[str, Any] | None = None,
           only: Collection[str] | None = None) -> dict[str, Hessian]:
    """The Hessian of every linear module of a layer, or of some, by the module's full name; modules that share their input share it.

    Tokens count by their importance if ``fisher`` (of `language_fisher`) tells it; each module has its own then. `Received` tells one for
    all modules.
    """
    torch, _ = transformers()
    found: dict[str, Hessian] = {}
    leader: dict[str, str] = {}
    inputs: dict[int, tuple[str, Any]] = {}
    at, shared = 0, fisher.importance(layer, hidden, arguments) if isinstance(fisher, Received) else None

    def hook(name):
        def see(module, args):
            x = args[0]
            if name not in leader:
                leader[name] = name if fisher else inputs.setdefault(id(x), (name, x))[0]  # holding x keeps its id from being used again
                found.setdefault(leader[name], Hessian(x.shape[-1]))
            if leader[name] == name:
                found[name].add(x, fisher[f"{prefix}.{name}"].importance[at] if fisher else shared and shared[at])
        return see

    linear = {n: m for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear) and (only is None or f"{prefix}.{n}" in only)}
    if not linear:
        raise InputError(f"{prefix} has no linear modules")
    hooks = [module.register_forward_pre_hook(hook(name)) for name, module in linear.items()]
    try:
        for at, h in enumerate(hidden):  # noqa: B007 (hooks read it)
            layer(h, **arguments)
            inputs.clear()
    finally:
        for one in hooks:
            one.remove()
    return {f"{prefix}.{name}": found[leader[name]] for name in linear if name in leader}


def lost_of(w: np.ndarray, codes: Codes, h: np.ndarray) -> float:
    """Squared error of the outputs, relative to the outputs; of evenly spaced rows if there are many."""
    form = codes.form
    step = max(1, form.n // 8192)
    rows = w.reshape(form.n, form.d)[::step].astype(np.float64)
    e = codes.codec.decode(codes).reshape(form.n, form.d)[::step] - rows
    return float(np.einsum("ij,ij->", e @ h, e) / max(np.einsum("ij,ij->", rows @ h, rows), 1e-300))


class Parts:
    """Finished layers in a folder beside the output, valid for the same settings only."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder = folder
        text = json.dumps(settings, sort_keys=True)
        note = folder / "settings.json"
        if folder.exists() and not (note.is_file() and note.read_text() == text):
            if not note.is_file() and any(folder.iterdir()):
                raise InputError(f"{folder} exists and is not the rest of a stopped run; move it away")
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        note.write_text(text)

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, kind, *_) -> None:
        """After a fault before anything was finished, nothing is left behind."""
        if kind is not None and not any(path.suffix in (".cpd", ".fisher") for path in self.folder.iterdir()):
            self.remove()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.cpd"

    def get(self, name: str) -> dict[str, Codes] | None:
        """The codes of a finished layer."""
        try:
            with open_file(self._path(name).read_bytes()) as file:
                return {n: file[n].codes() for n in file.names}
        except (CompandError, OSError):
            return None

    def lost(self, name: str) -> dict[str, float]:
        """What a finished layer lost."""
        with open_file(self._path(name)) as file:
            return {n: float(file[n].attrs["lost"]) for n in file.names}

    def put(self, name: str, codes: dict[str, Codes], lost: dict[str, float]) -> None:
        """Keep the codes of a layer."""
        with Writer(self._path(name), overwrite=True) as w:
            for n, c in codes.items():
                w.write_codes(n, c, attrs={"lost": lost[n]})

    def codes(self) -> dict[str, Codes]:
        """All codes."""
        return {n: c for path in sorted(self.folder.glob("*.cpd")) for n, c in (self.get(path.name[:-4]) or {}).items()}

    def remove(self) -> None:
        """The output is whole: the parts are not needed any more."""
        shutil.rmtree(self.folder)
