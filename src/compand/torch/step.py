"""One training batch through an expression: what comes out, the loss, and what is to be learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..array import host, like, to_numpy
from ..errors import SpecError
from ..expression import Chain, Sum
from ..quantizer.int import Int
from ..quantizer.sign import Sign
from ..quantizer.vq import VQ
from ..stage import Form, Stage, replace
from . import codebook as books
from .estimator import damped, estimate, step_gradient
from .soft import assign

if TYPE_CHECKING:
    from .layer import Quantize

ROWS = 4096  # of a batch that moving statistics other than codebooks' are refitted to


class Step:
    """One pass of a training batch through the expression."""

    def __init__(self, layer: Quantize, state, arrays, rows):
        self.layer, self.recipe = layer, layer.recipe
        self.parts: dict[str, torch.Tensor] = {}
        self.loss, self.power = rows.new_zeros(()), layer.power.clone()
        live = state if layer.recipe.update == "gradient" or layer.recipe.through else arrays
        self.live = layer.stage.with_arrays(live) if state else layer.stage  # differentiable
        self.still = layer.stage.with_arrays(arrays) if state else layer.stage

    def at(self, root: Stage, path: str) -> Stage:
        for i in (int(word) for word in path.split(".") if word):
            root = root.items[i]
        return root

    def node(self, stage: Stage, path: str, x: torch.Tensor) -> torch.Tensor:
        """x as it comes out, with gradients for x and what is learnt."""
        if not isinstance(stage, Chain):
            y = self.raw(stage, path, x)
            self._charge(x, y)
            return estimate(self.recipe.estimator, x, y, self.layer._generator)
        return self._chain(stage, path, x, self.node)

    def raw(self, stage: Stage, path: str, x: torch.Tensor) -> torch.Tensor:
        """What the codes of x stand for; gradients reach only what is learnt."""
        if isinstance(stage, Chain):
            return self._chain(stage, path, x, self.raw)
        if not isinstance(stage, Sum):
            return self._leaf(path, x)
        last = len(stage.items)
        if self.recipe.prefix:
            last = int(self.layer._rng.integers(1, last + 1))
        total = None
        for i, term in enumerate(stage.items[:last]):
            value = self.raw(term, join(path, str(i)), x)
            x = x - value.detach()
            total = value if total is None else total + value
        return total

    def _chain(self, stage, path, x, inside):
        forms, sides = [Form(*x.shape)], []
        for i, t in enumerate(stage.transforms):
            own = join(path, str(i))
            if self.recipe.update == "ema" and t.state(forms[-1]):
                self._refit(own, t, x)
            x, side = self.at(self.live, own).forward(x)
            self.parts |= {join(own, name): a.detach() for name, a in side.items()}
            sides.append(side)
            forms.append(t.out(forms[-1]))
        y = inside(stage.quantizer, join(path, str(len(stage.transforms))), x)
        for i in reversed(range(len(stage.transforms))):
            y = self.at(self.live, join(path, str(i))).inverse(y, sides[i], forms[i])
        return y

    def _leaf(self, path, x):
        rows = x.detach()
        still = self.at(self.still, path)
        parts = still.encode(native(rows))
        if path in self.layer._leaves:
            seen = books.vectors(still, to_numpy(rows)), books.chosen(still, to_numpy(parts["ids"]))
            self.layer._pending.append(("codebook", path, *seen))
        elif self.recipe.update == "ema" and still.state(Form(*x.shape)):
            self._refit(path, still, rows)
        parts = tensors(parts, rows)
        self.parts |= {join(path, name): p for name, p in parts.items()}
        if self.recipe.estimator in ("gumbel", "soft") and path in self.layer._leaves:
            return self._soft(path, x, parts)
        y = self.at(self.live, path).decode(parts, Form(*x.shape))
        if self.recipe.estimator == "lsq" and y.requires_grad and isinstance(still, Int):
            y = self._learned_step(path, rows, parts, y)
        if self.recipe.entropy and isinstance(still, Sign):
            self._even_bits(x)
        if y.requires_grad:
            self.loss = self.loss + self.recipe.codebook * (rows - y).square().mean() / self.power
        return y

    def _soft(self, path, x, parts):
        """Codewords drawn (gumbel) or nearest, with the gradient of the mean codeword."""
        leaf, recipe = self.at(self.live, path), self.recipe
        if not isinstance(leaf, VQ):
            raise SpecError(f"estimator={recipe.estimator} is for vq, not {leaf}")
        words = leaf.codebook_ if isinstance(leaf.codebook_, torch.Tensor) else like(leaf.codebook_, x)
        v = leaf._cut(x)
        with torch.no_grad():
            error = (v - words[parts["ids"].reshape(-1)]).square().sum(1).mean().clamp_min(1e-30)
        seed = int(self.layer._rng.integers(1 << 40)) if recipe.estimator == "gumbel" else None
        mean, ids = assign(v, words, error * self.layer.temperature.exp(), seed)
        self.parts[join(path, "ids")] = ids.reshape(parts["ids"].shape)
        y = leaf.decode({"ids": ids.detach().reshape(parts["ids"].shape)}, Form(*x.shape)).detach()
        mean = mean.reshape(len(x), -1)[:, :x.shape[1]]
        if mean.requires_grad:
            self.loss = self.loss + recipe.codebook * (x.detach() - mean).square().mean() / self.power
        return y + (mean - mean.detach())

    def _learned_step(self, path, x, parts, y):
        live = self.at(self.live, path)
        factor = (x.numel() * max(live.k // 2 - 1, 1)) ** -0.5
        live = replace(live, scale_=damped(live.scale_, factor))
        y = live.decode(parts, Form(*x.shape))
        return step_gradient(y, x, live.scale_, (x - y).detach().abs())

    def _even_bits(self, x):
        """Each value sure of its sign, each sign as frequent as the other: entropies of single bits, in nats."""
        p = torch.sigmoid(4 * x / self.power.sqrt())
        self.loss = self.loss + self.recipe.entropy * (_entropy(p).mean() - _entropy(p.mean(0)).mean())

    def _refit(self, path, stage, x):
        self.layer._pending.append(("state", path, stage.fit(to_numpy(x[:ROWS]))))

    def _charge(self, x, y):
        """The commitment of x to y, in units of the variance of x, whose moving average follows."""
        with torch.no_grad():
            power = books.reduce(to_numpy(x.var(0, unbiased=False).mean()), mean=True)
            self.layer.power.lerp_(like(power, x).clamp_min(1e-30), 1 - self.recipe.decay)
        if x.requires_grad:
            self.loss = self.loss + self.recipe.commit * (x - y.detach()).square().mean() / self.power


def _entropy(p: torch.Tensor) -> torch.Tensor:
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (-p).log1p())


def join(path: str, name: str) -> str:
    """The path of a part or a stage below this path."""
    return f"{path}.{name}" if path else name


def native(rows: torch.Tensor):
    """Rows as the core takes them: a NumPy view where the values lie in this machine's memory."""
    here = host(rows)
    return rows if here is None else here


def tensors(parts: dict, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Parts of codes as tensors beside rows; symbols as torch knows them."""
    return {name: like(p, rows) if isinstance(p, np.ndarray) else p for name, p in parts.items()}
