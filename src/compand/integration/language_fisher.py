"""How much a whole language model minds an error at each token and output of a linear layer, by its Fisher information.

For labels drawn from the model's own next-token distributions, the KL divergence that a change e of the weights of a layer y = x wᵀ
causes is half the mean of (Σ gᵀ e x)² over gradients g of the log-likelihood at y. As a product of two factors, tokens taken apart, it
is trace(G e H eᵀ) with G = mean of g gᵀ and H = mean of |g|² x xᵀ (Martens and Grosse 2015; for rounding: YAQA, Tseng et al. 2025; from
the papers). Gradients are those of the original. A layer is in memory at a time; what goes into each is on the disk meanwhile.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..array import to_numpy
from ..file import open as open_file
from ..writer import Writer
from .language import Language, transformers
from .language_fit import norm_of
from .language_target import Target, products

DIAGONAL = 0.1  # how far G is drawn to its diagonal, at least


class Fisher(NamedTuple):
    """Of one linear module: ``importance`` |g|² of each token, float32 (sequences, length), and ``outputs`` G, float64 (n, n) or its
    diagonal (n,).

    G is drawn to its diagonal, the more the fewer tokens it is the mean of.
    """

    importance: np.ndarray
    outputs: np.ndarray


class Fishers:
    """The Fisher information of every layer for sequences ``ids``, measured once and kept in a folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.fisher"

    def __getitem__(self, name: str) -> dict[str, Fisher]:
        """Of the linear modules of a layer, by full name."""
        with open_file(self._path(name)) as file:
            names = [n.removesuffix("/importance") for n in file.names if n.endswith("/importance")]
            return {n: Fisher(file[f"{n}/importance"].array(), file[f"{n}/outputs"].array().astype(np.float64)) for n in names}

    def measure(self, language: Language, ids, *, diagonal: bool = False, seed: int = 0,
                progress: Callable[[str], None] | None = None) -> None:
        """Measure what is not in the folder yet, from the last layer to the first: G or its ``diagonal``. A label is drawn a token."""
        torch, _ = transformers()
        names = [language.names[id(layer)] for layer in language.layers]
        if all(self._path(name).exists() for name in names):
            return
        with tempfile.TemporaryFile(dir=self.folder) as f, torch.no_grad():
            shape = (len(names) + 1, *ids.shape, language.head.weight.shape[1])
            inputs = np.memmap(f, np.float32, "w+", shape=shape)
            arguments = _forward(language, ids, inputs)
            gradient = _top(language, ids, language.there(inputs[-1]), seed)
            for k in reversed(range(len(names))):
                if progress:
                    progress(names[k])
                with _loaded(language, language.layers[k]) as layer, products(language):
                    found = _backward(layer, inputs[k], gradient, arguments[k], names[k], diagonal)
                with Writer(self._path(names[k]), overwrite=True) as w:
                    for name, fisher in found.items():
                        w.write(f"{name}/importance", fisher.importance, "raw")
                        w.write(f"{name}/outputs", fisher.outputs.astype(np.float32), "raw")


@contextlib.contextmanager
def _loaded(language: Language, module):
    """The module in memory; if it was not, it is not afterwards."""
    empty = any(p.device.type == "meta" for p in module.parameters())
    yield language.load(module)
    if empty:
        language.drop(module)


def _first(y):
    return y[0] if isinstance(y, tuple) else y


def _forward(language: Language, ids, inputs: np.ndarray) -> list[dict[str, Any]]:
    """Fill ``inputs`` (layers + 1, sequences, length, d) with all inputs of layers and the last outputs; arguments of the layers."""
    with _loaded(language, language.embedding):
        for j, row in enumerate(ids):
            inputs[0, j] = to_numpy(language.embedding(row[None])[0])
        arguments = language.arguments(ids[:1])
    for k, layer in enumerate(language.layers):
        with _loaded(language, layer), products(language):
            for j in range(len(ids)):
                inputs[k + 1, j] = to_numpy(_first(layer(language.there(inputs[k, j:j + 1]), **arguments[k]))[0].float())
    return arguments


def _top(language: Language, ids, hidden, seed: int):
    """Gradients (sequences, length, d) of the log-likelihood of drawn labels at what the last layer gives."""
    torch, _ = transformers()
    norm, generator = norm_of(language), torch.Generator(language.device).manual_seed(seed)
    gradient = torch.empty_like(hidden)
    with contextlib.ExitStack() as stack:
        for module in (norm, language.embedding if language.tied else language.head):
            if module is not None:
                stack.enter_context(_loaded(language, module))
        if language.tied:
            language.head.weight = language.embedding.weight
        target = Target.from_states(language, ids, torch.stack([x if norm is None else norm(x) for x in hidden]))
        for j, x in enumerate(hidden):
            with torch.enable_grad():
                x = x.clone().requires_grad_(True)
                said = target.said(language, x if norm is None else norm(x))
                labels = torch.multinomial(said.detach().exp(), 1, generator=generator)
                said.gather(1, labels).sum().backward()
            gradient[j] = x.grad
    if language.tied:
        language.head.weight = language.embedding.weight  # empty again, if it was
    return gradient


def _backward(layer, inputs: np.ndarray, gradient, arguments: dict[str, Any], prefix: str, diagonal: bool) -> dict[str, Fisher]:
    """What a layer's linear modules see; ``gradient`` at its outputs becomes that at its inputs."""
    torch, _ = transformers()
    linear = {n: m for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear)}
    seen: dict[str, Any] = {}

    def hook(name):
        def see(module, args, y):
            y.register_hook(lambda g: seen.__setitem__(name, g.detach().float().flatten(0, -2)))
        return see

    hooks = [m.register_forward_hook(hook(n)) for n, m in linear.items()]
    importance = {n: np.empty(gradient.shape[:2], np.float32) for n in linear}
    outputs = {n: np.zeros((m.out_features,) * (1 if diagonal else 2)) for n, m in linear.items()}
    try:
        for j in range(len(inputs)):
            with torch.enable_grad():
                x = torch.from_numpy(inputs[j:j + 1].copy()).to(gradient.device).requires_grad_(True)
                _first(layer(x, **arguments)).float().backward(gradient[j:j + 1])
            for name, g in seen.items():
                importance[name][j] = to_numpy(g.square().sum(-1))
                outputs[name] += to_numpy(g.square().sum(0) if diagonal else (g.T @ g).float())
            seen.clear()
            gradient[j] = x.grad[0]  # after the last use of g, which may share its memory
    finally:
        for one in hooks:
            one.remove()
    return {f"{prefix}.{n}": Fisher(importance[n], _shrunk(g, gradient.shape[0] * gradient.shape[1])) for n, g in outputs.items()}


def _shrunk(total: np.ndarray, tokens: int) -> np.ndarray:
    """The mean of g gᵀ over so many tokens, drawn to its diagonal, which stays."""
    if total.ndim == 1:
        return total / tokens
    n = len(total)
    keep = (1 - DIAGONAL) * tokens / (tokens + n)
    return (keep * total + (1 - keep) * np.diag(np.diag(total))) / tokens
