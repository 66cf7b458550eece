"""What `compand.integration.module_fit` found, put into the .cpd file of the model's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..codec import Codec
from ..codes import Codes
from ..dtypes import dtype as dtype_of
from ..modality import detect, pack
from .language_fit import Parts
from .language_plan import around
from .module_fit import Fitted, chooser, fit, is_layer
from .module_plan import Measured, plan
from .module_tune import Tuning, products


def write(folder, out, found: Fitted, *, moved: Mapping[str, np.ndarray] | None = None, files: Mapping[str, bytes] | None = None,
          overwrite: bool = False) -> dict[str, Any]:
    """Write a model folder to the file ``out``: fitted weights as their codes, what was tuned, and all else without loss.

    ``moved`` are other tensors that take the place of the folder's, ``files`` come to those that it has.

    Names of the torch model are found in the folder with or without a prefix. Returns ``bits`` (of the file, a value), ``bytes``,
    ``values``, ``lost`` by tensor, ``notes``.
    """
    with detect(folder) as source:
        items = {item.name: item for item in source.items()}
        done: dict[str, Codes] = {}
        for name, codes in found.codes.items():
            if (full := stored(items, name)) is not None:
                done[full] = replace(codes, dtype=items[full].dtype)
        for name, x in {**found.biases, **(moved or {})}.items():
            if (full := stored(items, name)) is not None:
                done[full] = Codec("raw").encode(x.astype(dtype_of(items[full].dtype)))
        for name, content in (files or {}).items():
            source.files[name] = content
            source.meta["files"] = [*(n for n in source.meta["files"] if n != name), name]
        report = pack(source, out, spec=lambda name, shape, dtype: done.get(name), overwrite=overwrite, check=False)
        values = sum(item.size for item in items.values())
    nbytes = Path(out).stat().st_size
    return {"bits": 8 * nbytes / values, "bytes": nbytes, "values": values, "lost": found.lost, "losses": found.losses,
            "notes": report.notes}


def compress(folder, out: Path, what: Measured, spec: str | Mapping[str, float], *, tuning: Tuning | None, damping: float, effort: str,
             seed: int = 0, overwrite: bool = False, progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Fit the model of a folder and write it to the file ``out``; with a budget instead of a spec, bits are shared by `module_plan.plan`.

    A budget is that function's argument: {"bits": 3.2}, {"size": 30_000_000} (the file), {"kld": 0.1}. Finished layers are kept in
    OUT.parts, valid for the same model, data and settings: a run that was stopped goes on from there. Returns what `write` returns, and
    ``specs`` and ``expected`` of a plan.
    """
    how = {f.name: getattr(tuning, f.name) for f in fields(tuning) if f.name != "loss"} if tuning else None
    settings = {"spec": spec if isinstance(spec, str) else dict(spec), "data": _digest(what), "damping": damping, "effort": effort,
                "seed": seed, "tuning": how}
    with Parts(out.with_name(out.name + ".parts"), settings) as parts:
        planned: dict[str, Any] = {}
        choose = chooser(what.model, spec if isinstance(spec, str) else "")
        if not isinstance(spec, str):
            planned = _planned(folder, parts.folder / "plan.json", what, choose, spec, effort, damping, seed, progress)
            choose = _chooser(what.model, planned["specs"])
        size = sum(p.numel() for p in what.model.parameters())

        def run(batch):
            with products(size):
                return what.run(batch)

        found = fit(what.model, run, what.batches, choose, damping=damping, tuning=tuning, parts=parts, importance=what.importance,
                    progress=progress)
        result = write(folder, out, found, overwrite=overwrite)
        parts.remove()
    return {**result, **planned}


def _digest(what: Measured) -> str:
    """SHA-256 of a model's parameters and its batches."""
    from torch.utils import _pytree as tree

    digest = hashlib.sha256()
    for x in [*what.model.parameters(), *tree.tree_leaves(list(what.batches))]:
        digest.update(np.ascontiguousarray(x.detach().numpy()))
    return digest.hexdigest()


def _planned(folder, path: Path, what: Measured, choose, budget: Mapping[str, float], effort: str, damping: float, seed: int,
             progress) -> dict[str, Any]:
    """The plan of a run, or of the same run before it was stopped: ``specs`` and ``expected``."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):  # none yet, or one that was not written to its end
        pass
    with detect(folder) as source:
        items = {item.name: item for item in source.items()}
        coded = {stored(items, f"{n}.weight") for n, m in what.model.named_modules() if is_layer(m) and choose(n, m) is not None}
        rest = sum(item.nbytes for name, item in items.items() if name not in coded)
    bound: dict[str, Any] = dict(budget)
    if "size" in bound:
        bound["size"] = int(bound["size"]) - around(folder)
    tell = (lambda i, n, name: progress(0, 1, f"noise in {name}, {i} of {n}")) if progress else None
    found = plan(what, choose, rest=rest, effort=effort, damping=damping, seed=seed, progress=tell, **bound)
    planned = {"specs": found.specs, "expected": {"bytes": found.bytes, "bits": found.bits, "loss": found.kld}}
    path.write_text(json.dumps(planned))
    return planned


def _chooser(model, specs: Mapping[str, str]) -> Callable[[str, Any], str | None]:
    """What `fit` asks, for specs by the name of a weight; modules that share it get the same."""
    by = {id(model.get_parameter(name)): spec for name, spec in specs.items()}
    table = {n: by.get(id(m.weight)) for n, m in model.named_modules() if is_layer(m)}
    return lambda name, module: table[name]


def stored(names, name: str) -> str | None:
    """The folder's name of a tensor: the same, or one that ends with it after a dot.

    >>> stored(["bert.pooler.weight"], "pooler.weight")
    'bert.pooler.weight'
    """
    return name if name in names else next((f for f in names if f.endswith(f".{name}")), None)
