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
from .branch import Branch, Kind
from .layer import Quantize
from .query_key import QueryKey
from .recipe import Recipe

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
PLAIN = Recipe(estimator="straight", update="gradient", commit=0.0, codebook=0.0)


class _Weight(nn.Module):
    """A weight as it will be stored, seen by whoever reads it."""

    def __init__(self, spec: str, weight: torch.Tensor, recipe: Recipe, branch: Kind | None, rank: int):
        super().__init__()
        rows = weight.detach().reshape(len(weight), -1)
        self.quantize = Quantize(spec, rows.shape[1], recipe)
        self.quantize.watch = False
        self.quantize.fit(rows)
        self.branch = None
        if branch:
            self.quantize.eval()
            self.branch = Branch(branch, rank, rows, lambda w: self.quantize(w).y)
            self.quantize.train(self.training)
            self.register_buffer("held", None)
            if branch == "beside":
                self.held = rows - self.branch.up.detach() @ self.branch.down.detach()

    def source(self, weight):
        """The rows (n, d) that are quantized."""
        rows = weight.reshape(len(weight), -1)
        if self.branch is None:
            return rows
        return self.branch.before(rows if self.held is None else self.held)

    def forward(self, weight):
        y = self.quantize(self.source(weight)).y
        return (y if self.branch is None else self.branch.after(y)).reshape(weight.shape)


class _Input:
    """Quantizes what a layer is given, token by token."""

    def __init__(self, quantize: Quantize):
        self.quantize = quantize

    def __call__(self, module, args):
        return (self.quantize(args[0]).y, *args[1:])


def prepare(model: nn.Module, weights: str = "int:4:group=32", *, activations: str | None = None, recipe: Recipe = PLAIN,
            where: Callable[[str, nn.Module], bool] | None = None, branch: Kind | None = None, rank: int = 8) -> nn.Module:
    """Makes the layers of ``model`` compute with weights (and inputs) as they will be stored; trained as before. In place.

    Parameters
    ----------
    weights, activations : str
        Specs for the rows of each weight (out, in · kernel) and for the inputs (tokens, in) of linear layers (None: as they are).
        BitNet b1.58 is ``ternary:rule=absmean`` and ``int:8:search=absmax``; QuEST ``hadamard,int:4`` with ``estimator="trust"``;
        LSQ ``int:4:per=tensor`` with ``estimator="lsq"``; double rounding ``nested:2x4x8`` with ``prefix=True``, then `switch`.
    recipe : Recipe
        How gradients pass; what is fitted is learnt with the optimizer, so give it ``model.parameters()`` after `prepare`.
    where : callable (name, module) → bool
        Which layers; by default every linear, convolution and embedding layer.
    branch, rank :
        A product of low rank that trains with each weight, see `compand.torch.branch.Branch`: ``merged`` (quantization-aware LoRA),
        ``beside`` (LQ-LoRA), ``fading`` (call ``fade(model, progress)`` as training goes on).

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
        parametrize.register_parametrization(m, "weight", _Weight(weights, m.weight, recipe, branch, rank), unsafe=True)
        m.parametrizations.weight.original.requires_grad_(branch not in ("merged", "beside"))
        if activations and isinstance(m, nn.Linear):
            m.quantize_input = Quantize(activations, m.in_features, recipe)
            m.quantize_input.watch = False
            m.register_forward_pre_hook(_Input(m.quantize_input))
    return model


def fade(model: nn.Module, progress: float) -> nn.Module:
    """Fades the branches of ``prepare(..., branch="fading")`` to this share, 0 to 1, of their way. In place; see `Branch.fade`."""
    for m in model.modules():
        if isinstance(m, Branch) and m.kind == "fading":
            m.fade(progress)
    return model


def switch(model: nn.Module, terms: int | None) -> nn.Module:
    """Weights from the first so many terms of their codes (None: all): a sum, or the bits of `nested`. In place.

    Works on a model that `prepare` made (in evaluation) and on one that `convert` or `load` made.
    """
    for m in model.modules():
        if parametrize.is_parametrized(m, "weight") and isinstance(m.parametrizations.weight[0], _Weight):
            m.parametrizations.weight[0].quantize.terms = terms
        elif isinstance(getattr(m, "codes", None), Codes):
            m.weight.data.copy_(_weight(m, m.codes.codec.decode(m.codes, terms=terms)))
    return model


def _weight(m: nn.Module, rows) -> torch.Tensor:
    """Decoded rows, and the product that stands beside them, as the weight of a layer."""
    y = torch.from_numpy(rows)
    if (beside := getattr(m, "beside", None)) is not None:
        y = y + beside[0] @ beside[1]
    return y.reshape(m.weight.shape).to(m.weight)


@torch.no_grad()
def convert(model: nn.Module) -> nn.Module:
    """Fixes what `prepare` prepared: each weight becomes what its codes decode to, and `codes` of the layer holds them. In place.

    Raises `InputError` while a fading branch is still there.
    """
    for name, m in model.named_modules():
        if isinstance(m, Branch) and m.kind == "fading" and m.rank:
            raise InputError(f"{name}: {m.rank} directions of the fading branch are left; train on with fade(model, progress) up to 1.0")
    for m in list(model.modules()):
        if isinstance(m, QueryKey):
            m.convert()
        if not parametrize.is_parametrized(m, "weight"):
            continue
        own = m.parametrizations.weight
        stored, source = own[0], own.original
        codes = stored.quantize.export().encode(to_numpy(stored.source(source).float()))
        beside = stored.branch if stored.branch is not None and stored.branch.kind == "beside" else None
        parametrize.remove_parametrizations(m, "weight", leave_parametrized=False)
        m.weight = nn.Parameter(torch.empty_like(source), requires_grad=False)
        m.codes, m.beside = codes, None if beside is None else (beside.up.detach(), beside.down.detach())
        m.weight.copy_(_weight(m, codes.codec.decode(codes)))
    return model.eval()


def save(model: nn.Module, path: str | os.PathLike, *, overwrite: bool = False) -> int:
    """Writes a converted model to a .cpd file: codes where there are codes, everything else without loss. The bytes written."""
    coded = {f"{name}.weight".lstrip("."): m for name, m in model.named_modules() if isinstance(getattr(m, "codes", None), Codes)}
    if not coded:
        raise InputError("this model has no codes; convert(model) makes them")
    with Writer(path, overwrite=overwrite) as out:
        for name, a in model.state_dict().items():
            if name not in coded:
                out.write(name, to_numpy(a), Codec("planes,rans" if a.is_floating_point() else "bytes,lzma"))
                continue
            m = coded[name]
            out.write_codes(name, m.codes, attrs={"shape": list(a.shape)})
            for part, b in zip(("up", "down"), m.beside or (), strict=False):
                out.write(f"{name}.{part}", to_numpy(b), Codec("planes,rans"))
    return os.path.getsize(path)


@torch.no_grad()
def load(model: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Fills a plain model of the same shape with what `save` wrote. Raises `CompandError` for a damaged file."""
    for m in model.modules():
        if isinstance(m, QueryKey):
            m.convert()
    modules, state = dict(model.named_modules()), {}
    with open_file(path) as file:
        for name, entry in file.items():
            owner, _, last = name.rpartition(".")
            if last in ("up", "down") and owner in file:
                continue
            if "shape" not in entry.attrs:
                state[name] = torch.from_numpy(entry.array())
                continue
            m = modules.get(owner)
            if m is None or list(entry.attrs["shape"]) != list(m.weight.shape):
                raise InputError(f"{name} {entry.attrs['shape']} has no place in this model; give one of the shape that was saved")
            beside = [torch.from_numpy(file[f"{name}.{part}"].array()) for part in ("up", "down") if f"{name}.{part}" in file]
            m.codes, m.beside = entry.codes(), tuple(beside) or None
            state[name] = _weight(m, m.codes.codec.decode(m.codes))
    model.load_state_dict(state)
    return model.eval()
