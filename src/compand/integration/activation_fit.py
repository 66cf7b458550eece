"""Linear layers of a torch model put on codes of their inputs: W8A8, W4A8, W4A4 and the remedies for outliers, each a spec.

==================================================  ===================================================================================
inputs                                              what the field calls it
==================================================  ===================================================================================
``int:8:search=absmax``                             dynamic, one scale a token
``int:8:per=tensor``                                static, one scale a tensor
``smooth:0.5,int:8``                                smooth scaling (SmoothQuant)
``scale:absmax:column,int:4:per=tensor``            scales of channels moved into the weights (RepQ, RepQuant, MergeQuant)
``hadamard,int:4``                                  rotation (QuaRot)
``permute,int:4:group=64``                          channels re-arranged by magnitude (RPTQ, Atom)
``int:4:per=tensor:noise=1``                        noisy bias (NoisyQuant)
==================================================  ===================================================================================

Transforms of columns move to the weights, which are coded after them. Static scales may depend on a condition, as the timestep of a
diffusion transformer, and the first tokens of sequences may stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..codec import Codec
from ..errors import InputError
from ..expression import Chain
from ..fit import feedback
from ..fit.hessian import Hessian
from ..spec import parse
from ..stage import Form
from .module_fit import order
from .module_memory import Memory

SAMPLE = 1 << 14  # rows that inputs are known by
FINE = 64         # levels of weights above which errors are not worth feeding back


def quantize(model, run: Callable[[Any], Any], batches: Sequence[Any], choose: Callable[[str, Any], tuple[str, str] | None], *,
             conditions: Sequence[int] | None = None, first: int = 0, damping: float = 0.02, correct: bool = True,
             progress: Callable[[int, int, str], None] | None = None) -> list[str]:
    """Replace linear layers of a torch model by `compand.torch.CodedInputs`; their names.

    Parameters
    ----------
    run : called with a batch, runs the model (eval mode, no gradients)
    choose : (module name, module) → the specs of inputs and of weights, or None to leave the layer
    conditions : of each batch, from 0 on: layers get a table of input scales, one set a condition; `compand.torch.activation.condition`
        says which is used
    first : tokens at the start of each sequence whose inputs are not coded, and not looked at for scales
    correct : biases make up for the mean of what is lost

    Every layer is fitted to what the layers before it give on their codes. Raises `InputError` if there is nothing to do, and for
    transforms of inputs that are not linear.
    """
    import torch

    from ..torch.activation import condition

    if conditions is not None and (len(conditions) != len(batches) or set(conditions) != set(range(max(conditions, default=-1) + 1))):
        raise InputError(f"conditions must name one of 0, 1, ... for each of {len(batches)} batches, and leave none out")
    at, done = {id(b): c for b, c in zip(batches, conditions or [0] * len(batches), strict=True)}, list[str]()

    def under(batch):
        if done:
            condition(model, at[id(batch)])
        return run(batch)

    wanted = {n: specs for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and (specs := choose(n, m)) is not None}
    modules = dict(model.named_modules())
    with torch.no_grad():
        groups = order(model, run, batches[0], list(wanted)) if wanted else []
        if not groups:
            raise InputError(f"{type(model).__name__}: no linear layer that is reached was chosen")
        with Memory(model, under, batches, [n for g in groups for n in g]) as memory:
            for i, group in enumerate(groups):
                if progress:
                    progress(i, len(groups), group[0])
                x = memory.inputs(group[0], SAMPLE, first)
                if conditions is not None:
                    each = [[piece for piece, c in zip(x, conditions, strict=True) if c == i] for i in range(max(conditions) + 1)]
                    x = [np.concatenate(pieces) for pieces in each]
                sample = np.concatenate(x) if conditions is None else x
                for name in group:
                    owner, _, own = name.rpartition(".")
                    setattr(modules[owner], own, coded(modules[name], sample, *wanted[name], first=first, damping=damping, correct=correct))
                    done.append(name)
                memory.finished(group)
        if progress:
            progress(len(groups), len(groups), "")
    return done


def coded(linear, x: np.ndarray | list[np.ndarray], inputs: str, spec: str, *, first: int = 0, damping: float = 0.02,
          correct: bool = True):
    """A linear layer on codes, fitted to sample inputs x (m, d), or to those of each condition."""
    import torch

    from ..torch.activation import CodedInputs

    w = linear.weight.detach().float().numpy()
    table, x = ([x], x) if isinstance(x, np.ndarray) else (x, np.concatenate(x))
    codec: Any = Codec(inputs)
    if codec.stage.state(codec.form(x.shape, "float32")):
        codec = codec.fit(x, weight=np.square(w, dtype=np.float64).mean(axis=0, keepdims=True).astype(np.float32))
    turned, shift = in_domain(codec, w)
    codecs = [codec] if len(table) == 1 else [_refitted(codec, inputs, piece) for piece in table]
    heard = Hessian(turned.shape[1])
    for one, piece in zip(codecs, table, strict=True):
        quantizer = one.stage.quantizer if isinstance(one.stage, Chain) else one.stage
        y = _turned(one, piece)
        heard.add(np.asarray(quantizer.decode(quantizer.encode(y), Form(*y.shape)), np.float32))
    plain: Any = Codec(spec)
    if plain.stage.name == "int" and plain.stage.k > FINE:
        codes = (plain.fit(turned) if plain.stage.per != "row" else plain).encode(turned)
    else:
        codes = feedback.encode(plain, turned, heard.matrix, damping=damping)
    layer = CodedInputs(codecs, codes, linear.bias, first=first)
    offset = w.astype(np.float64) @ x.mean(axis=0, dtype=np.float64) if correct else shift
    if correct:
        layer.bias, own, said = None, layer.bias, []
        for layer.at, piece in enumerate(table):
            said.append(layer(torch.from_numpy(piece)).double().sum(0).numpy())
        offset = offset - sum(said) / len(x)
        layer.bias, layer.at = own, 0
    if layer.bias is not None or np.any(shift):
        moved = (0.0 if layer.bias is None else layer.bias.double().numpy()) + offset
        layer.bias = torch.nn.Parameter(torch.from_numpy(np.asarray(moved, np.float32)), requires_grad=False)
    return layer


def _turned(codec: Codec, x: np.ndarray) -> np.ndarray:
    """What the transforms of a codec make of x: float32 (m, d')."""
    stage: Any = codec.stage
    for t in stage.transforms if isinstance(stage, Chain) else ():
        x = np.asarray(t.forward(x)[0], np.float32)
    return x


def _refitted(codec: Codec, inputs: str, x: np.ndarray) -> Codec:
    """The codec with its transforms as they are and its quantizer fitted to x."""
    stage, fresh = codec.stage, parse(inputs)
    last: Any = Codec(fresh.quantizer if isinstance(fresh, Chain) else fresh)
    y = _turned(codec, x)
    last = last.fit(y) if last.stage.state(Form(*y.shape)) else last
    return Codec(Chain((*stage.transforms, last.stage))) if isinstance(stage, Chain) else last


def in_domain(codec: Codec, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights w (n, d) for what the transforms of a codec make of inputs, and what they add to outputs: (n, d') and (n,).

    x wᵀ = T(x) turnedᵀ + shift. Raises `InputError` where T is not linear, but for a shift.

    >>> codec = Codec("center,hadamard,int:8").fit(np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32))
    >>> w = np.eye(8, dtype=np.float32)
    >>> turned, shift = in_domain(codec, w)
    >>> x, center, hadamard = np.ones((1, 8), np.float32), *codec.stage.transforms
    >>> bool(np.allclose(hadamard.forward(center.forward(x)[0])[0] @ turned.T + shift, x @ w.T, atol=1e-5))
    True
    """
    stage: Any = codec.stage
    transforms = stage.transforms if isinstance(stage, Chain) else ()
    forms = [Form(1, w.shape[1])]
    for t in transforms:
        if t.layout(forms[-1]):
            raise InputError(f"{t} keeps side information; inputs of layers go through transforms of whole columns")
        forms.append(t.out(forms[-1]))
    width = forms[-1].d
    probe = np.concatenate([np.zeros((1, width)), np.eye(width), -2 * np.eye(width)]).astype(np.float32)
    for t, form in zip(reversed(transforms), reversed(forms[:-1]), strict=True):
        probe = np.asarray(t.inverse(probe, {}, form._replace(n=len(probe))), np.float32)
    zero = probe[0].astype(np.float64)
    back = probe[1:width + 1] - zero
    if np.abs(probe[width + 1:] - zero + 2 * back).max(initial=0) > 1e-3 * max(np.abs(back).max(initial=0), 1e-30):
        raise InputError(f"{stage}: its transforms are not linear; curves (compand) are for what is not multiplied by weights of a layer")
    return (w @ back.T).astype(np.float32), w.astype(np.float64) @ zero
