"""Torch nets of convolutions, ReLUs, sums and means as integer nets: weights from their codes, scales of activations from sample inputs."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..codec import Codec
from ..codes import Codes, unpack_part
from ..errors import InputError, UnsupportedError
from ..fit import scale as scales
from ..op.dyadic import dyadic
from ..op.integer import IntegerNet, Node

SAMPLES = 1 << 16  # values of a tensor that its scale is fitted to


@dataclass
class _Tensor:
    """One tensor of the net to be: the fx node it is, what makes it, and its scale."""

    node: Any
    op: str
    inputs: list[int]
    module: str = ""
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    low: float = -np.inf  # of what the activation lets through
    high: float = np.inf
    users: int = 0
    values: list[np.ndarray] = field(default_factory=list)
    scale: float = 0.0
    pixels: int = 1


def export(model, batches: Sequence[Any], codes: Mapping[str, Codes] | None = None, *, step: float, low: int = -128, high: int = 127,
           bits: int = 8) -> IntegerNet:
    """The integer net of a torch model that takes pictures (n, c, h, w) and gives (n, classes).

    Parameters
    ----------
    model : eval mode, batch norms folded (`batch_norm.fold`), traceable by ``torch.fx``
    batches : sample inputs, which scales of activations are fitted to: all of one size
    codes : of weights by name (`module_fit.fit` with ``int`` specs of one scale a row); others become ``int:8``
    step, low, high : inputs are integers from low to high times step
    bits : of activations; what only sums read has 16

    Raises `UnsupportedError` for modules and functions other than convolutions, linear layers, paddings with zeros, ReLU, ReLU6, sums,
    means over all pixels, flattening and dropout, `InputError` for codes that are not integers times a scale of the row.
    """
    import torch

    graph = torch.fx.symbolic_trace(model)
    tensors = _tensors(graph)
    _sample(graph, tensors, batches)
    tensors[0].scale = step
    nodes = []
    for t in tensors[1:]:
        wide = t.op == "conv" and t.users == 1 and any(o.op == "add" and tensors.index(t) in o.inputs for o in tensors)
        last = t is tensors[-1]
        k = 16 if wide or last else bits
        if t.op != "conv" and all(tensors[i].low == 0 for i in t.inputs):
            t.low = 0
        floor = 0 if t.low == 0 else -(1 << (k - 1))
        most = floor + (1 << k) - 1
        t.scale = _scale(np.concatenate(t.values), floor, most, exact=k == 16)
        ceiling = int(min(most, np.rint(t.high / t.scale))) if np.isfinite(t.high) else most
        made = _arrays(t, tensors, graph, codes or {})
        module = graph.get_submodule(t.module)  # the whole net where there is none: it has neither
        stride, groups = getattr(module, "stride", (1,))[0], getattr(module, "groups", 1)
        nodes.append(Node(t.op, tuple(t.inputs), floor, ceiling, made, stride, groups, t.pad))
    return IntegerNet(tuple(nodes), tuple(batches[0].shape[1:]), low, high)


def _tensors(graph) -> list[_Tensor]:
    """The tensors of the net, in order; ReLUs and paddings are part of the convolutions, sums and means beside them."""
    import torch
    from torch import nn
    from torch.nn import functional

    found: list[_Tensor] = []
    where: dict[Any, int] = {}  # fx node → tensor
    pads: dict[Any, tuple] = {}
    clips = {functional.relu: np.inf, torch.relu: np.inf, functional.relu6: 6.0}
    for node in graph.graph.nodes:
        module = graph.get_submodule(node.target) if node.op == "call_module" else None
        source = next((where[a] for a in node.args if a in where), None) if node.args else None
        if node.op == "placeholder":
            if found:
                raise UnsupportedError("integer nets have one input")
            found.append(_Tensor(node, "input", []))
            where[node] = 0
        elif node.op == "output":
            if node.args[0] not in where or where[node.args[0]] != len(found) - 1:
                raise UnsupportedError("integer nets give what their last layer gives")
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            if isinstance(module, nn.Conv2d) and (module.dilation != (1, 1) or module.stride[0] != module.stride[1]
                                                  or module.padding_mode != "zeros" or isinstance(module.padding, str)):
                raise UnsupportedError(f"{node.target}: {module} has dilation, unequal strides or padding that integer nets do not have")
            tall, wide = module.padding if isinstance(module, nn.Conv2d) else (0, 0)
            pad = tuple(a + b for a, b in zip((tall, tall, wide, wide), pads.get(node.args[0], (0,) * 4), strict=True))
            found.append(_Tensor(node, "conv", [source], str(node.target), pad))  # type: ignore[list-item, arg-type]
            where[node] = len(found) - 1
        elif isinstance(module, nn.ZeroPad2d):
            left, right, top, bottom = module.padding
            where[node], pads[node] = source, (top, bottom, left, right)  # type: ignore[assignment]
        elif isinstance(module, (nn.ReLU, nn.ReLU6)) or node.target in clips:
            if len(node.args[0].users) != 1 or not source:
                raise UnsupportedError(f"{node}: a ReLU that is not the only one to read its input")
            found[source].low, found[source].high = 0, 6.0 if isinstance(module, nn.ReLU6) else clips.get(node.target, np.inf)
            found[source].node = node
            where[node] = source
        elif node.target in (operator.add, torch.add, operator.iadd):
            found.append(_Tensor(node, "add", [where[a] for a in node.args if a in where]))
            if len(found[-1].inputs) != 2:
                raise UnsupportedError(f"{node}: sums are of two tensors")
            where[node] = len(found) - 1
        elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            found.append(_Tensor(node, "mean", [source]))  # type: ignore[list-item]
            where[node] = len(found) - 1
        elif isinstance(module, (nn.Identity, nn.Dropout, nn.Flatten)) or node.target in (torch.flatten, "flatten"):
            where[node] = source  # type: ignore[assignment]
        else:
            what = type(module).__name__ if module is not None else str(node.target)
            raise UnsupportedError(f"{node}: integer nets have no {what}; they are made of convolutions, linear layers, zero "
                                   "padding, ReLU, ReLU6, sums and means (fold batch norms first)")
    for t in found:
        for i in t.inputs:
            found[i].users += 1
    return found


def _sample(graph, tensors: list[_Tensor], batches) -> None:
    """Values of each tensor on the batches, evenly spaced."""
    import torch

    homes = {t.node: t for t in tensors[1:]}
    share = max(1, SAMPLES // len(batches))

    class Spy(torch.fx.Interpreter):
        def run_node(self, node):
            y = super().run_node(node)
            if node in homes:
                homes[node].pixels = int(np.prod(y.shape[2:]))
                flat = y.detach().reshape(-1)
                homes[node].values.append(flat[::max(1, len(flat) // share)].float().numpy())
            return y

    with torch.no_grad():
        for batch in batches:
            Spy(graph).run(batch)


def _scale(x: np.ndarray, low: int, high: int, exact: bool) -> float:
    """The step of integers from low to high for values like x: of least squared error, or (``exact``) one that clips nothing."""
    if exact:
        return max(float(np.abs(x).max()) / high, 1e-30)
    low = low or -high - 1  # of values that are never below 0, half of a grid for both signs
    s = scales.fixed_zero(x[None].astype(np.float32), high - low + 1, float(low), "float32", "mse", None, 0.0)
    return max(abs(float(np.asarray(s).reshape(-1)[0])), 1e-30)


def _arrays(t: _Tensor, tensors: list[_Tensor], graph, codes: Mapping[str, Codes]) -> dict[str, np.ndarray]:
    inputs = [tensors[i].scale for i in t.inputs]
    if t.op == "add":
        b, c = dyadic(np.array(inputs) / t.scale)
        least = int(c.min())
        return {"multiplier": (b.astype(np.int64) >> (c.astype(np.int64) - least)).astype(np.int32), "shift": np.uint8([least])}
    if t.op == "mean":
        b, c = dyadic([inputs[0] / t.scale / tensors[t.inputs[0]].pixels])
        return {"multiplier": b, "shift": c}
    module = graph.get_submodule(t.module)
    w = module.weight.detach().float().numpy()
    weight, s = integers(codes.get(f"{t.module}.weight"), w)
    own = s.astype(np.float64) * inputs[0]
    bias = np.zeros(len(w)) if module.bias is None else module.bias.detach().double().numpy()
    least = np.abs(bias) / 2.0 ** 30  # a channel whose weights are next to nothing takes steps in which its bias can be told
    coarse = np.copysign(np.maximum(np.abs(own), least), own)
    less = np.divide(own, coarse, out=np.ones_like(own), where=coarse != own)
    weight = np.rint(weight.reshape(len(w), -1) * less[:, None]).astype(np.int8)
    own = coarse
    steps = np.rint(np.divide(bias, own, out=np.zeros_like(bias), where=own != 0))
    b, c = dyadic(own / t.scale)
    return {"weight": weight.reshape(len(w), -1, *(w.shape[2:] or (1, 1))), "bias": steps.astype(np.int32), "multiplier": b, "shift": c}


def integers(codes: Codes | None, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights w (n, ...) as int8 (n, d) and a float32 scale for each row, from their codes or as ``int:8``.

    >>> ids, scale = integers(None, np.float32([[1, -2, 0.5]]))
    >>> (ids * scale[:, None]).round(1).tolist()
    [[1.0, -2.0, 0.5]]
    """
    if codes is None:
        codes = Codec("int:8:scales=float32").encode(w)
    stage: Any = codes.codec.stage
    form = codes.form
    if stage.name != "int" or stage.per != "row" or not stage.sym or stage.step or stage.noise is not None or stage.z % 1 or stage.k > 256 \
            or (stage.group or form.d) < form.d:
        raise InputError(f"{stage}: integer nets have weights of integers times one scale a row, as int:4 or int:8")
    ids, scale, layout = [], [], codes.codec.layout(form)
    for block in codes.blocks:
        parts = {name: unpack_part(block.parts[name], replace(part, shape=(block.rows, *part.shape[1:]))) for name, part in layout.items()}
        ids.append(parts["ids"].astype(np.int64) + int(stage.z))
        scale.append(np.asarray(parts["scale"]).astype(np.float32).reshape(-1))
    return np.concatenate(ids).astype(np.int8), np.concatenate(scale)
