"""Batch norms of a torch model folded into the convolutions and linear layers before them: the same function, fewer layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def fold(model, run: Callable[[Any], Any], batch) -> list[str]:
    """Change a model (eval mode) so that no batch norm is left behind a layer whose output it alone is given; their names.

    ``run(batch)`` shows what follows what. With y = g (x - m) / √(v + ε) + b the layer's weights of each output are multiplied by
    g / √(v + ε), and its bias becomes b + (bias - m) g / √(v + ε); the norm becomes an identity. Norms elsewhere stay.
    """
    import torch

    modules, found = dict(model.named_modules()), norms_after(model, run, batch)
    for layer, norm in found.items():
        _into(modules[layer], modules[norm])
        owner, _, own = norm.rpartition(".")
        setattr(modules[owner], own, torch.nn.Identity())
    return list(found.values())


def norms_after(model, run: Callable[[Any], Any], batch) -> dict[str, str]:
    """Layers whose output only a batch norm is given, with that norm, in the order they are reached."""
    import torch

    layers = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    made: list[tuple[str, Any]] = []
    held: list[Any] = []  # so that an id is one tensor's only
    taken: dict[int, list[str]] = {}
    calls: dict[str, int] = {}

    def see(name, module):
        def hook(_, args, output):
            calls[name] = calls.get(name, 0) + 1
            held.append((args, output))
            for x in args:
                taken.setdefault(id(x), []).append(name)
            if isinstance(module, layers):
                made.append((name, output))
        return hook

    modules = dict(model.named_modules())
    hooks = [m.register_forward_hook(see(n, m)) for n, m in modules.items() if not list(m.children())]
    try:
        with torch.no_grad():
            run(batch)
    finally:
        for one in hooks:
            one.remove()
    found = {}
    for name, output in made:
        users = taken.get(id(output), [])
        if len(users) == 1 == calls[name] == calls[users[0]] and isinstance(modules[users[0]], norms):
            found[name] = users[0]
    return found


def _into(layer, norm) -> None:
    import torch

    with torch.no_grad():
        gain = torch.rsqrt(norm.running_var.double() + norm.eps) * (1.0 if norm.weight is None else norm.weight.double())
        shift = -norm.running_mean.double() + (0.0 if layer.bias is None else layer.bias.double())
        bias = shift * gain + (0.0 if norm.bias is None else norm.bias.double())
        w = layer.weight
        w.copy_(w.double() * gain.reshape(-1, *[1] * (w.ndim - 1)))
        layer.bias = torch.nn.Parameter(bias.to(w.dtype), requires_grad=False)
