"""The quantizer as a layer: any spec of the core, trained, and exported as the very codec that will store it."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..array import like, to_numpy
from ..codec import Codec
from ..errors import FitError, InputError
from ..stage import Form, Stage
from . import codebook as books
from .recipe import Recipe
from .step import Step, join, native, tensors
from .through import Through

SAMPLE = 1 << 16     # rows of a process that the first fit looks at
REVIVALS = 1 << 12  # rows of a process that unused codewords may move to
WATCH = 100          # steps between looks at the health of a layer


class CollapseWarning(UserWarning):
    """Codewords or dimensions that should be used are not; the text says what to change."""


class Use(NamedTuple):
    """How evenly the codewords of a codebook are used: exp(entropy) of the use, share of codewords used, dead ones."""

    perplexity: float
    used: float
    dead: int


class Output(NamedTuple):
    """What a step gives: y as x, the parts of the codes (symbols and scales) by path, the loss to add."""

    y: torch.Tensor
    parts: dict[str, torch.Tensor]
    loss: torch.Tensor

    @property
    def ids(self) -> torch.Tensor:
        """The symbols (rows, m), of all terms side by side."""
        found = [p for path, p in self.parts.items() if path.rpartition(".")[2] == "ids"]
        return found[0] if len(found) == 1 else torch.cat([p.reshape(len(p), -1).long() for p in found], 1)


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

    In training the first batch fits the codec (k-means for codebooks), statistics follow the data, and output carries gradient and
    loss. The ids a step returns decode to what it returned: what was learnt from a batch is used from the next one on. In
    evaluation nothing changes, and the output is `export()`'s decode, bit for bit.

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
        self._steps, self._warned = 0, False
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.register_buffer("power", torch.ones(()))  # moving mean of the squared distance of a value from its mean
        learnt = self.recipe.update == "gradient"
        hot = torch.tensor(float(np.log(max(self.recipe.temperature, 1e-6))))  # its logarithm
        if learnt and self.recipe.estimator in ("gumbel", "soft"):
            self.temperature = nn.Parameter(hot)
        else:
            self.register_buffer("temperature", hot)
        self._names: dict[str, str] = {}
        for path, part in self.stage.state(Form(1, dim)).items():
            a = like(np.zeros(part.shape, np.dtype(part.dtype) if part.dtype != "bfloat16" else np.float32), self.power)
            name = "state_" + path.replace(".", "_")
            self._names[path] = name
            if learnt and a.is_floating_point():
                self.register_parameter(name, nn.Parameter(a))
            else:
                self.register_buffer(name, a)
        self._leaves = dict(_leaves(self.stage))
        for path, leaf in self._leaves.items():
            k = leaf.k * getattr(leaf, "m", 1)
            self.register_buffer(_use(path), torch.zeros(k, dtype=torch.float64))
            if self.recipe.through:
                self.add_module("through_" + _plain(path), Through(leaf, dim, self.recipe))

    # -- what is fitted ------------------------------------------------------------------------------------------------
    def _state(self) -> dict[str, torch.Tensor]:
        """Fitted arrays by path; those of codebooks that are a function of frozen codewords are computed."""
        found = {path: getattr(self, name) for path, name in self._names.items()}
        if self.recipe.through:
            for path in self._leaves:
                key = join(path, "codebook_")
                found[key] = getattr(self, "through_" + _plain(path))(found[key])
        return found

    def _arrays(self, state) -> dict[str, np.ndarray]:
        return {path: to_numpy(a) for path, a in state.items()}

    def export(self) -> Codec:
        """The core codec with what was learnt: a copy, that later training does not touch."""
        if not self.fitted:
            raise FitError(f"{self.stage}: nothing was learnt yet; train, or call fit(x)")
        form, declared = Form(1, self.dim), {}
        for path, a in self._arrays(self._state()).items():
            from ..dtypes import dtype

            declared[path] = np.array(a, dtype(self.stage.state(form)[path].dtype))
        return Codec(self.stage.with_arrays(declared) if declared else self.stage)

    @torch.no_grad()
    def fit(self, x: torch.Tensor) -> Quantize:
        """Fits the codec to x (..., dim), k-means and all, as the first training batch does by itself."""
        rows = books.gather(to_numpy(self._rows(x).float()), SAMPLE)
        fitted = self.stage.fit(rows)
        for path, a in fitted.arrays().items():
            getattr(self, self._names[path]).copy_(like(np.asarray(a, np.float32) if a.dtype.kind in "fV" else a, self.power))
        self.power.copy_(torch.tensor(float(np.var(rows, axis=0).mean())).clamp_min(1e-30))
        self.fitted.fill_(True)
        parts = fitted.encode(rows)
        for path, leaf in self._leaves.items():
            ids, use = books.chosen(leaf, parts[join(path, "ids")]), getattr(self, _use(path))
            use.copy_(torch.from_numpy(np.bincount(ids, minlength=len(use)).astype(np.float64)))
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
            if not bool(torch.isfinite(rows).all()):
                raise InputError("NaN or infinite values reached the quantizer; look at the layers before it")
            if not self.fitted:
                self.fit(x)
            self._learn()
            state = self._state()
            step = Step(self, state, self._arrays(state), rows)
            y = step.node(self.stage, "", rows)
            self._watch(rows)
        return Output(self._shaped(y.to(x.dtype), x), step.parts, step.loss)

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parts of the codes of x (..., dim): symbols and scales by path."""
        rows = self._rows(x).float()
        return tensors(self._fitted_stage(rows).encode(native(rows)), rows)

    @torch.no_grad()
    def decode(self, parts: dict[str, torch.Tensor], like_x: torch.Tensor | None = None) -> torch.Tensor:
        """What `encode`'s parts stand for: (rows, dim), or in the shape and dtype of like_x."""
        first = next(iter(parts.values()))
        form = Form(len(first), self.dim)
        stage = self._fitted_stage(first)
        y = stage.decode({path: to_numpy(p) for path, p in parts.items()} if first.device.type == "cpu" else parts, form)
        y = like(y, self.power) if isinstance(y, np.ndarray) else y
        return y if like_x is None else self._shaped(y.to(like_x.dtype), like_x)

    # -- inside --------------------------------------------------------------------------------------------------------
    def _fitted_stage(self, rows) -> Stage:
        if not self.fitted and self._names:
            raise FitError(f"{self.stage}: nothing was learnt yet; train, or call fit(x)")
        state = self._state()
        return self.stage.with_arrays(self._arrays(state)) if state else self.stage

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
                v, ids = seen
                use, words = to_numpy(getattr(self, _use(path))), None
                sums, counts = books.statistics(v, ids, len(use))
                if self.recipe.update == "ema":
                    words = to_numpy(getattr(self, self._names[join(path, "codebook_")]))
                    flat = words.reshape(len(use), -1)
                    books.refresh(flat, use, sums, counts, self.recipe.decay)
                else:
                    use *= self.recipe.decay
                    use += (1 - self.recipe.decay) * counts
                if self.recipe.revive and not self.recipe.through and self.recipe.update != "frozen":
                    self._revive(path, use, v)
                self._put(_use(path), use)
                if words is not None:
                    self._put(self._names[join(path, "codebook_")], words)
            elif self.recipe.update == "ema":
                (fitted,) = seen
                for name, a in fitted.arrays().items():
                    own = getattr(self, self._names[join(path, name)])
                    if own.is_floating_point():
                        own.lerp_(like(books.reduce(np.asarray(a, np.float32), mean=True), own), 1 - self.recipe.decay)
        self._pending.clear()

    def _put(self, name, a: np.ndarray):
        own = getattr(self, name)
        if own.device.type != "cpu":  # on this machine the arrays above are views
            own.copy_(torch.from_numpy(a))

    def _revive(self, path, use, v):
        name = self._names[join(path, "codebook_")]
        words = to_numpy(getattr(self, name))
        parts = len(use) // self._leaves[path].k
        flat = words.reshape(parts, self._leaves[path].k, -1)
        for j in range(parts):
            own = use[j * flat.shape[1]:(j + 1) * flat.shape[1]]
            rows = v.reshape(-1, parts, v.shape[1])[:, j] if parts > 1 else v
            books.revive(flat[j], own, books.gather(rows, REVIVALS), self.recipe.revive, self._rng)
        self._put(name, words)

    @property
    def use(self) -> dict[str, Use]:
        """How the codewords of each codebook are used, by path (one product codebook counts as one), a moving average."""
        found = {}
        for path in self._leaves:
            use = to_numpy(getattr(self, _use(path)))
            p = use / max(use.sum(), 1e-300)
            log = np.log(np.where(p > 0, p, 1))
            dead = int((use < 0.01 * use.mean()).sum())
            found[path] = Use(float(np.exp(-(p * log).sum())), 1 - dead / len(use), dead)
        return found

    def _watch(self, rows):
        """Every so many steps: warns, once, of unused codewords and of features that carry nothing."""
        self._steps += 1
        if self._steps % WATCH or self._warned or not self._leaves:
            return
        for path, use in self.use.items():
            if use.used < 0.25:
                cure = "set revive=0.1" if not self.recipe.revive else "larger batches, fewer codewords or update='ema'"
                self._warn(f"{path or self.stage}: {use.used:.0%} of the codewords are used (perplexity {use.perplexity:.0f}); {cure}")
        filled = self.dimensions(rows)
        if filled < self.dim / 4:
            self._warn(f"{self.stage}: x varies in {filled} of its {self.dim} dimensions; a smaller commit ({self.recipe.commit} now), "
                       "a normalisation before the layer, or a smaller dim")

    def _warn(self, text: str):
        self._warned = True
        warnings.warn(text, CollapseWarning, stacklevel=4)

    @staticmethod
    @torch.no_grad()
    def dimensions(x: torch.Tensor) -> int:
        """In how many directions rows x (n, d) vary by more than a hundredth of the widest one's standard deviation."""
        values = torch.linalg.eigvalsh(torch.cov(x.detach().double().T).reshape(x.shape[1], -1))
        return int((values > 1e-4 * values.max()).sum())

    def extra_repr(self) -> str:
        return f"{str(self.stage)!r}, dim={self.dim}, {self.recipe}"


def _leaves(stage: Stage, path: str = ""):
    """The stages whose fitted array is a codebook, by path."""
    items = getattr(stage, "items", None)
    if items is None:
        if books.has_codebook(stage):
            yield path, stage
        return
    for i, item in enumerate(items):
        yield from _leaves(item, join(path, str(i)))


def _plain(path: str) -> str:
    return path.replace(".", "_") or "root"


def _use(path: str) -> str:
    return "use_" + _plain(path)
