"""How much each output of a layer's linear modules matters, for ``salient`` terms that give some rows of their weights more bits.

An error e of the weights costs the model half of Σ_r G_rr e_r H e_rᵀ, outputs taken apart: G_rr is the mean square of the gradient of the
log-likelihood of drawn labels at output r (`language_fisher`), and the rest is what `compand.fit.salient` finds. MixLLM (Zheng et al. 2024)
chooses among all outputs of a model so; here a plan shares bytes among classes of rows of all matrices (`language_plan`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..errors import InputError
from .language import Language
from .language_fisher import Fishers


def asked(language: Language, choose: Callable[[str], str | None]) -> list[str]:
    """The weights of layers whose specs ask how much rows matter."""
    layers = tuple(f"{language.names[id(layer)]}." for layer in language.layers)
    return [n for n in language.items if n.startswith(layers) and "salient" in (choose(n) or "")]


def rows_of(language: Language, ids, wanted: list[str], folder: Path,
            tell: Callable[[str], None]) -> Callable[[str], dict[str, np.ndarray]]:
    """G_rr of each row of some weights, by the full name of their module, of a layer by its name; measured once, kept in a folder."""
    if not wanted:
        return lambda name: {}
    fishers = Fishers(folder)
    fishers.measure(language, ids, diagonal=True, progress=tell)

    def rows(name: str) -> dict[str, np.ndarray]:
        return {m: f.outputs if f.outputs.ndim == 1 else np.diag(f.outputs) for m, f in fishers[name].items() if f"{m}.weight" in wanted}
    return rows


def importance(spec: str, module: str, rows: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """What `compand.fit.feedback.encode` needs for a spec. Raises `InputError` if it asks for what is not known."""
    if "salient" not in spec:
        return None
    found = rows.get(module)
    if found is None or not np.isfinite(found).all() or not found.any():
        raise InputError(f"{module}: {spec} needs to know which outputs matter, and no finite gradient of the text comes there; "
                         "leave salient out of its spec")
    return found


def curvature(language: Language, ids, names: list[str]) -> dict[str, np.ndarray]:
    """G_rr of the rows of those of these weights that are of layers and that gradients of the text come to, by name of the weight."""
    with tempfile.TemporaryDirectory(prefix="compand-") as folder:
        rows = rows_of(language, ids, names, Path(folder), lambda what: None)
        found = {f"{m}.weight": g for layer in language.layers for m, g in rows(language.names[id(layer)]).items()}
    return {n: g for n, g in found.items() if np.isfinite(g).all() and g.any()}
