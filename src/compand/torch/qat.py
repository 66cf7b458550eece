"""Quantization-aware training: `prepare` a model, train it as ever, `convert` it to codes that compute the same numbers."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..array import to_numpy
from ..codec import Codec
from ..codes import Codes
from ..errors import InputError
from ..file import open as open_file
from ..writer import Writer
from .layer import Quantize
from .recipe import Recipe

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
PLAIN = Recipe(estimator="straight", update="gradient", commit=0.0, codebook=0.0)


class _Weight(nn.Module):
    """A weight as it will be stored, seen by whoever reads it."""

    def __init__(self, spec: str, weight: torch.Tensor, recipe: Recipe):
        super().__init__()
        self.quantize = Quantize(spec, weight[0].numel(), recipe)
        self.quantize.fit(weight.detach().reshape(len(weight), -1))

    def forward(self, weight):
        return self.quantize(weight.reshape(len(weight), -1)).y.reshape(weight.shape)


class _Input:
    """Quantizes what a layer is given, token by token."""

    def __init__(self, quantize: Quantize):
        self.quantize = quantize

    def __call__(self, module, args):
        return (self.quantize(args[0]).y, *args[1:])


def prepare(model: nn.Module, weights: str = "int:4:group=32", *, activations: str | None = None, recipe: Recipe = PLAIN,
            where: Callable[[str, nn.Module], bool] | None = None) -> nn.Module:
    """Makes the layers of ``model`` compute with weights (and inputs) as they will be stored; trained as before. In place.

    Parameters
    ----------
    weights, activations : str
        Specs for the rows of each weight (out, in · kernel) and for the inputs (tokens, in) of linear layers (None: as they are).
        BitNet b1.58 is ``ternary:rule=absmean`` and ``int:8:search=absmax``; QuEST ``hadamard,int:4`` with ``estimator="trust"``;
        LSQ ``int:4:per=tensor`` with ``estimator="lsq"``.
    recipe : Recipe
        How gradients pass; what is fitted is learnt with the optimizer, so give it ``model.parameters()`` after `prepare`.
    where : callable (name, module) → bool
        Which layers; by default every linear, convolution and embedding layer.

    Raises `InputError` if no layer is chosen. Jacob (2018); Wang, BitNet (2023); Panferov, QuEST (2025).

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> x = torch.randn(3, 8)
    >>> prepared = prepare(model, "int:4").eval()(x)
    >>> bool((convert(model)(x) == prepared).all())
    True
    """
    chosen = [(name, m) for name, m in model.named_modules() if isinstance(m, LAYERS) and (where is None or where(name, m))]
    if not chosen:
        raise InputError("no layer of this model was chosen: where= takes the name and the module and says yes or no")
    for _, m in chosen:
        parametrize.register_parametrization(m, "weight", _Weight(weights, m.weight, recipe))
        if activations and isinstance(m, nn.Linear):
            m.quantize_input = Quantize(activations, m.in_features, recipe)
            m.register_forward_pre_hook(_Input(m.quantize_input))
    return model


def convert(model: nn.Module) -> nn.Module:
    """Fixes what `prepare` prepared: each weight becomes what its codes decode to, and `codes` of the layer holds them. In place."""
    for m in list(model.modules()):
        if not parametrize.is_parametrized(m, "weight"):
            continue
        own = m.parametrizations.weight
        codec, source = own[0].quantize.export(), own.original.detach()
        codes = codec.encode(to_numpy(source.reshape(len(source), -1).float()))
        weight = torch.from_numpy(codec.decode(codes)).reshape(source.shape).to(source)
        parametrize.remove_parametrizations(m, "weight", leave_parametrized=False)
        m.weight = nn.Parameter(weight, requires_grad=False)
        m.codes = codes
    return model.eval()


def save(model: nn.Module, path: str | os.PathLike, *, overwrite: bool = False) -> int:
    """Writes a converted model to a .cpd file: codes where there are codes, everything else without loss. The bytes written."""
    codes = {f"{name}.weight".lstrip("."): m.codes for name, m in model.named_modules() if isinstance(getattr(m, "codes", None), Codes)}
    if not codes:
        raise InputError("this model has no codes; convert(model) makes them")
    with Writer(path, overwrite=overwrite) as out:
        for name, a in model.state_dict().items():
            if name in codes:
                out.write_codes(name, codes[name], attrs={"shape": list(a.shape)})
            else:
                out.write(name, to_numpy(a), Codec("planes,rans" if a.is_floating_point() else "bytes,lzma"))
    return os.path.getsize(path)


def load(model: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Fills a plain model of the same shape with what `save` wrote. Raises `CompandError` for a damaged file."""
    state = {}
    with open_file(path) as file:
        for name, entry in file.items():
            a = torch.from_numpy(entry.array())
            state[name] = a.reshape(entry.attrs["shape"]) if "shape" in entry.attrs else a
    model.load_state_dict(state)
    return model.eval()
