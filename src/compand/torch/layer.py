"""The quantizer as a layer: any spec of the core, trained, and exported as the very codec that will store it."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..array import like, to_numpy
from ..codec import Codec
from ..dtypes import dtype
from ..errors import FitError, InputError
from ..expression import Chain, progressive
from ..quantizer.int import Int
from ..stage import Form, Stage
from . import codebook as books
from . import exponent, health
from .estimator import valued
from .recipe import Recipe
from .running import Running, Seen
from .step import Step, join, native, tensors
from .through import Through

SAMPLE = 1 << 16    # rows of a process that the first fit looks at


class Output(NamedTuple):
    """What a step gives: y as x, the parts of the codes (symbols and scales) by path, the loss to add."""

    y: torch.Tensor
    parts: dict[str, torch.Tensor]
    loss: torch.Tensor

    @property
    def ids(self) -> torch.Tensor:
        """The symbols (rows, m), of all terms side by side; numbers above 2^63 are negative."""
        found = [self._number(path) for path in self.parts if path.rpartition(".")[2] == "ids"]
        if not found:
            raise InputError(f"the ids of these codes are not one array; their parts are {', '.join(self.parts)}")
        return found[0] if len(found) == 1 else torch.cat([p.reshape(len(p), -1).long() for p in found], 1)

    def _number(self, path: str) -> torch.Tensor:
        """The part at this path, with its ``high`` half if it has one."""
        high = self.parts.get(join(path.rpartition(".")[0], "high"))
        return self.parts[path] if high is None else self.parts[path].long() | high.long() << 32


class Quantize(nn.Module):
    """Quantize vectors of ``dim`` features with any spec that the core knows, trained with a `Recipe`.

    Parameters
    ----------
    spec : str or Stage
        ``vq:1024``, ``vq:1024+vq:1024`` (residual), ``pq:4x8``, ``center,scale:std:column,fsq:8x8x8``, ``hadamard,int:4``...
    dim : int
        Features of a vector; input is (..., dim), or has them at ``axis``.
    recipe : Recipe
        Its fields may be given as keywords instead: ``Quantize("vq:512", 8, update="gradient")``.

    ``terms`` (None: all) stops a sum or the bits of `nested` after so many terms in evaluation, as ``decode(codes, terms=)`` of
    the codec does. In training the first batch fits the codec (k-means for codebooks), statistics follow the data, and output
    carries gradient and loss. The ids a step returns decode to what it returned: what was learnt from a batch is used from the
    next one on. ``layer.eval()`` ends the training (codewords become means of many rows); then nothing changes, and the output is
    `export()`'s decode, bit for bit.

    Raises `FitError` in evaluation before anything was learnt, `InputError` for another number of features.

    >>> q = Quantize("vq:4", 2)
    >>> out = q(torch.tensor([[0., 0], [0, 1], [5, 5], [5, 6]]))
    >>> out.ids.shape, bool((q.decode(out.parts) == out.y).all()), q.export().spec
    (torch.Size([4, 1]), True, 'vq:4')
    """

    def __init__(self, spec: str | Stage, dim: int, recipe: Recipe | None = None, *, axis: int = -1, seed: int = 0, **choices):
        super().__init__()
        if recipe and choices:
            raise InputError(f"give a recipe or its fields ({', '.join(choices)}), not both")
        self.stage, self.dim, self.axis = Codec(spec).stage, dim, axis
        self.recipe = recipe or Recipe(**choices)
        self._rng = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._pending: list[tuple] = []
        self._steps, self.watch, self.terms = 0, True, None
        self._felt, self._loudest = 0.0, 0.0  # gradient that reached y, last and largest
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.register_buffer("power", torch.ones(()))  # moving mean of the squared distance of a value from its mean
        learnt = self.recipe.update == "gradient"
        self._own("temperature", torch.tensor(float(np.log(max(self.recipe.temperature, 1e-6)))),  # its logarithm
                  learnt and self.recipe.estimator in ("gumbel", "soft"))
        self._exponents: dict[str, str] = {}
        for path, curve in exponent.found(self.stage) if self.recipe.exponent else ():
            self._exponents[path] = name = "exponent_" + _plain(path)
            self._own(name, torch.tensor(0.5 if curve.amount is None else float(curve.amount)), True)
        self._names: dict[str, str] = {}
        self._points: dict[str, str] = {}  # learned binary points by path
        self._declared = self.stage.state(Form(1, dim))
        for path, part in self._declared.items():
            narrow = part.dtype in ("bfloat16", "float16")
            a = like(np.zeros(part.shape, np.float32 if narrow else np.dtype(part.dtype)), self.power)
            self._names[path] = name = "state_" + path.replace(".", "_")
            free = a.is_floating_point() and not path.endswith("power_")  # the power of x follows x
            self._own(name, a, learnt and free and not (self.recipe.through and path.rpartition(".")[2] == "codebook_"))
            leaf = _at(self.stage, path)
            if learnt and isinstance(leaf, Int) and leaf.pow2 and path.rpartition(".")[2] == "scale_":
                where = path.rpartition(".")[0]
                self._points[where] = point = "point_" + _plain(where)
                self._own(point, torch.zeros(part.shape), True)
        self._leaves = dict(_leaves(self.stage, dim))
        self.running = nn.ModuleDict({_plain(path): Running(leaf, d, self.recipe) for path, (leaf, d) in self._leaves.items()})
        for path, (leaf, _) in self._leaves.items():
            if self.recipe.through:
                self.add_module("through_" + _plain(path), Through(leaf, dim, self.recipe))

    def _own(self, name: str, a: torch.Tensor, learnt: bool) -> None:
        if learnt:
            self.register_parameter(name, nn.Parameter(a))
        else:
            self.register_buffer(name, a)

    # -- what is fitted ------------------------------------------------------------------------------------------------
    @property
    def current(self) -> Stage:
        """The expression with the exponents learnt so far, not fitted."""
        return exponent.replaced(self.stage, {path: float(getattr(self, name).detach()) for path, name in self._exponents.items()})

    def _state(self) -> dict[str, torch.Tensor]:
        """Fitted arrays by path, as they will be stored; those of codebooks that are a function of frozen codewords are computed."""
        found = {path: getattr(self, name) for path, name in self._names.items()}
        for path, name in self._points.items():
            found[join(path, "scale_")] = getattr(self, name).detach().round().clamp(-128, 127).to(torch.int8)
        if self.recipe.through:
            for path in self._leaves:
                key = join(path, "codebook_")
                found[key] = getattr(self, "through_" + _plain(path))(found[key], self.statistics(path).shape)
        for path, part in self._declared.items():
            if part.dtype in ("bfloat16", "float16"):
                found[path] = valued(found[path].to(getattr(torch, part.dtype)).float(), found[path])
        return found

    def statistics(self, path: str) -> Running:
        """Of the codebook at this path."""
        return self.running[_plain(path)]  # type: ignore[return-value]

    def _arrays(self, state) -> dict[str, np.ndarray]:
        return {path: to_numpy(a) for path, a in state.items()}

    def export(self) -> Codec:
        """The core codec with what was learnt: a copy, that later training does not touch. Call `eval` first: it ends the training."""
        if not self.fitted:
            raise FitError(f"{self.stage}: nothing was learnt yet; train, or call fit(x)")
        declared = {path: np.array(a, dtype(self._declared[path].dtype)) for path, a in self._arrays(self._state()).items()}
        return Codec(self.current.with_arrays(declared) if declared else self.current)

    @torch.no_grad()
    def fit(self, x: torch.Tensor) -> Quantize:
        """Fits the codec to x (..., dim), k-means and all, as the first training batch does by itself."""
        rows = books.gather(to_numpy(self._rows(x).float()), SAMPLE)
        fitted = self.current.fit(rows)
        for path, a in fitted.arrays().items():
            getattr(self, self._names[path]).copy_(like(np.asarray(a, np.float32) if a.dtype.kind in "fV" else a, self.power))
        for path, name in self._points.items():
            getattr(self, name).copy_(getattr(self, self._names[join(path, "scale_")]).float())
        self.power.copy_(torch.tensor(float(np.var(rows, axis=0).mean())).clamp_min(1e-30))
        self.fitted.fill_(True)
        parts = fitted.encode(rows) if self._leaves else {}
        for path, (_, d) in self._leaves.items():
            own = {name.rpartition(".")[2]: p for name, p in parts.items() if name.rpartition(".")[0] == path}
            self.statistics(path).begin(books.chosen(_at(fitted, join(path, "codebook_")), own, d))
            if self.recipe.through:
                getattr(self, "through_" + _plain(path)).frame.zero_()
                own = getattr(self, self._names[join(path, "codebook_")])
                words = to_numpy(own).copy()
                for book in words.reshape(self.statistics(path).m, -1, words.shape[-1]):
                    books.apart(book, self._rng)
                own.copy_(torch.from_numpy(words))
        return self

    # -- the three verbs -----------------------------------------------------------------------------------------------
    def forward(self, x: torch.Tensor) -> Output:
        """x (..., dim) → y as x, parts, loss (0 in evaluation)."""
        rows = self._rows(x)
        if not self.training:
            parts = self.encode(x)
            return Output(self.decode(parts, x), parts, rows.new_zeros(()))
        with torch.autocast(x.device.type, enabled=False):
            rows = rows.float()
            self._refuse(rows)
            if not self.fitted:
                self.fit(x)
            self._learn()
            state = self._state()
            step = Step(self, state, self._arrays(state), rows)
            y = step.node(self.stage, "", rows)
            step.exponents(rows)
            self._watch(rows, step.parts, y)
            if self.recipe.columns:
                y = y * (torch.arange(self.dim, device=y.device) < int(self._rng.integers(1, self.dim + 1)))
        return Output(self._shaped(y.to(x.dtype), x), step.parts, step.loss)

    def _refuse(self, rows):
        """Raises `InputError`, in all processes, where one of them has no rows, or NaN or infinite values."""
        bad = not bool(torch.isfinite(rows.sum())) and not bool(torch.isfinite(rows).all())  # a sum of finite values may overflow
        faults = books.reduce(np.array([float(bad), float(not len(rows))]))
        if faults[0]:
            raise InputError("NaN or infinite values reached the quantizer; look at the layers before it")
        if faults[1]:
            raise InputError("no rows reached the quantizer in training; drop empty batches, in all processes at once")

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parts of the codes of x (..., dim): symbols and scales by path."""
        rows = self._rows(x).float()
        return tensors(self._fitted_stage(rows).encode(native(rows)), rows)

    @torch.no_grad()
    def decode(self, parts: dict[str, torch.Tensor], like_x: torch.Tensor | None = None) -> torch.Tensor:
        """What `encode`'s parts stand for: (rows, dim), or in the shape and dtype of like_x."""
        first = next(iter(parts.values()))
        form, some = Form(len(first), self.dim), {}
        stage = self._fitted_stage(first)
        if progressive(stage):
            some["terms"] = min(self.terms or 1 << 30, _terms(stage, parts))
        y = stage.decode({path: to_numpy(p) for path, p in parts.items()} if first.device.type == "cpu" else parts, form, **some)
        y = like(y, self.power) if isinstance(y, np.ndarray) else y
        return y if like_x is None else self._shaped(y.to(like_x.dtype), like_x)

    def train(self, mode: bool = True) -> Quantize:
        """As any module; at the end of training codewords become the means of many recent rows, where those are better.

        Nothing is exchanged here, so that one of several processes may evaluate alone: where several train, codewords stay."""
        if self.training and not mode and not books.together():
            self._learn()
            for path in self._leaves:
                if self.statistics(path).moves:
                    self._moved(path, self.statistics(path).finish)
        return super().train(mode)

    # -- inside --------------------------------------------------------------------------------------------------------
    def _fitted_stage(self, rows) -> Stage:
        if not self.fitted and self._names:
            raise FitError(f"{self.stage}: nothing was learnt yet; train, or call fit(x)")
        state = self._state()
        return self.current.with_arrays(self._arrays(state)) if state else self.current

    def _rows(self, x):
        if x.shape[self.axis] != self.dim:
            raise InputError(f"x has {x.shape[self.axis]} features at axis {self.axis}, this layer was made for {self.dim}")
        return x.movedim(self.axis, -1).reshape(-1, self.dim)

    def _shaped(self, rows, x):
        return rows.reshape(x.movedim(self.axis, -1).shape).movedim(-1, self.axis)

    @torch.no_grad()
    def _learn(self):
        """Takes in what the last training batch taught."""
        for kind, path, *seen in self._pending:
            if kind == "codebook":
                self._moved(path, lambda words, path=path, seen=seen: self.statistics(path).learn(words, Seen(*seen), self._rng))
                if self.recipe.through and not (frame := getattr(self, "through_" + _plain(path)).frame).any():
                    frame.copy_(self.statistics(path).shape)
            else:
                arrays, rate = seen
                for name, a in arrays.items():
                    own = getattr(self, self._names[join(path, name)])
                    if own.is_floating_point():
                        own.lerp_(like(np.asarray(a, np.float32), own), rate)
        self._pending.clear()

    def _moved(self, path, move):
        """Lets ``move`` change the codewords (m·k, size) at this path in place."""
        own = getattr(self, self._names[join(path, "codebook_")])
        words = to_numpy(own)
        move(words.reshape(-1, words.shape[-1]))
        if own.device.type != "cpu":  # on this machine the array above is a view
            own.copy_(torch.from_numpy(words))

    @property
    def use(self) -> dict[str, health.Use]:
        """How the codewords of each codebook are used, by path (one product codebook counts as one), a moving average."""
        return {path: health.of_use(to_numpy(self.statistics(path).use)) for path in self._leaves}

    @torch.no_grad()
    def report(self, x: torch.Tensor) -> health.Health:
        """The health of the layer on x (..., dim): use, information, error, dimensions, repeated codewords, a decoder that listens."""
        rows = self._rows(x).float()
        parts = self.encode(x)
        y = self.decode(parts)
        error = float((y - rows).square().mean() / rows.var(0, unbiased=False).mean().clamp_min(1e-30))
        return self._health(rows, parts, y, error)

    def _health(self, rows, parts, y, error: float) -> health.Health:
        words = [health.twins(to_numpy(a)) for path, a in self._state().items() if path.rpartition(".")[2] == "codebook_"]
        filled, carried = (health.dimensions(rows), health.carried(rows, y)) if self.dim <= 256 else (self.dim, self.dim)
        heard = self._felt / self._loudest if self._loudest else 1.0
        return health.Health(self.use, health.information(parts), error, filled, self.dim, carried, max(words, default=0.0), heard)

    def _watch(self, rows, parts, y):
        """Every so many steps: warns, once, of what `health` finds."""
        self._steps += 1
        if not self.watch or self._steps % health.WATCH or len(rows) < 2:
            return
        if y.requires_grad:
            y.register_hook(self._feel)
        faults = self._health(rows, parts, y, 0.0).faults(bool(self.recipe.revive), self.recipe.commit)
        if faults:
            self.watch = False
            warnings.warn(f"{self.stage}: " + "; ".join(faults), health.CollapseWarning, stacklevel=4)

    def _feel(self, gradient):
        """Notes the gradient that reached y."""
        self._felt = float(gradient.square().mean().sqrt() * self.power.sqrt())
        self._loudest = max(self._loudest, self._felt)

    def extra_repr(self) -> str:
        return f"{str(self.stage)!r}, dim={self.dim}, {self.recipe}"


def _leaves(stage: Stage, d: int, path: str = ""):
    """The stages whose fitted array is a codebook, and the columns of their rows, by path."""
    items = getattr(stage, "items", None)
    if items is None:
        if books.has_codebook(stage):
            yield path, (stage, d)
        return
    for i, item in enumerate(items):
        yield from _leaves(item, d, join(path, str(i)))
        d = item.out(Form(1, d)).d if item.kind == "transform" else d


def _at(stage: Stage, path: str) -> Stage:
    """The stage that this part or fitted array belongs to."""
    for word in path.split(".")[:-1]:
        if not hasattr(stage, "items"):
            break
        stage = stage.items[int(word)]
    return stage


def _terms(stage: Stage, parts) -> int:
    """How many terms of a progressive expression these parts hold."""
    inner = f"{len(stage.transforms)}." if isinstance(stage, Chain) else ""
    first = (path[len(inner):].partition(".")[0] for path in parts if path.startswith(inner))
    return len({word for word in first if word.isdigit()})


def _plain(path: str) -> str:
    return path.replace(".", "_") or "root"
