"""One training batch through an expression: what comes out, the loss, and what is to be learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import mse_loss

from ..array import host, like, to_numpy
from ..errors import SpecError
from ..expression import Chain, Sum
from ..quantizer.dynamic import Dynamic
from ..quantizer.fsq import FSQ
from ..quantizer.int import Int
from ..quantizer.pq import PQ
from ..quantizer.sign import Sign
from ..quantizer.vq import VQ
from ..stage import Form, Stage
from . import codebook as books
from . import exponent, usage
from .assign import entropies, soft
from .estimator import damped, estimate, masked, step_gradient, valued

if TYPE_CHECKING:
    from .layer import Quantize

ROWS = 4096  # of a batch that moving statistics other than codebooks' are refitted to
REFIT = 8    # steps from one such fit to the next, after as many at the start; four times as many after its square, eight after its cube
ROUNDS = 4   # of prices a batch, with balanced assignment
COMMIT = 0.25  # the weight of the commitment to codewords that has none
NEAR = 1e-4  # of the variance: the least error that temperatures are in units of (none is made where each row has its codeword)


class Step:
    """One pass of a training batch through the expression."""

    def __init__(self, layer: Quantize, state, arrays, rows):
        self.layer, self.recipe = layer, layer.recipe
        self.parts: dict[str, torch.Tensor] = {}
        self.loss, self.power = rows.new_zeros(()), layer.power.clone()
        stage = layer.current
        learnt = layer.recipe.update == "gradient" or layer.recipe.through
        self.still = stage.with_arrays(arrays) if state else stage
        self.live = stage.with_arrays(state) if state and learnt else self.still  # differentiable

    def exponents(self, rows: torch.Tensor) -> None:
        """Adds to the loss what has the slope of the error in each learnt exponent, see `exponent.slopes`."""
        if not self.layer._exponents:
            return
        x = to_numpy(rows.detach()[::max(1, len(rows) // ROWS)])
        for name, slope in exponent.slopes(self.still, self.layer._exponents, x):
            a = getattr(self.layer, name)
            self.loss = self.loss + valued(self.loss.new_zeros(()), slope / float(self.layer.power) * a)

    def at(self, root: Stage, path: str) -> Stage:
        for i in (int(word) for word in path.split(".") if word):
            root = root.items[i]
        return root

    def node(self, stage: Stage, path: str, x: torch.Tensor) -> torch.Tensor:
        """x as it comes out, with gradients for x and what is learnt."""
        if isinstance(stage, Chain):
            return self._chain(stage, path, x, self.node)
        coded = any(leaf == path or leaf.startswith(join(path, "")) for leaf in self.layer._leaves)
        y = self.raw(stage, path, x)
        self._charge(x, y, COMMIT * coded if self.recipe.commit is None else self.recipe.commit)
        if self.recipe.anneal and x.requires_grad:
            return masked(x, y, self._near(path, x.detach(), y.detach()))
        kind = self.recipe.estimator
        if kind == "auto":
            kind = "rotation" if coded else "straight"
        return estimate(kind, x, y, self.layer._generator)

    def raw(self, stage: Stage, path: str, x: torch.Tensor) -> torch.Tensor:
        """What the codes of x stand for; gradients reach only what is learnt."""
        if isinstance(stage, Chain):
            return self._chain(stage, path, x, self.raw)
        if not isinstance(stage, Sum):
            return self._leaf(path, x)
        total = None
        for i, term in enumerate(stage.items[:self._terms(len(stage.items))]):
            value = self.raw(term, join(path, str(i)), x)
            x = x - value.detach()
            total = value if total is None else total + value
        return total

    def _terms(self, most: int) -> int:
        return int(self.layer._rng.integers(1, most + 1)) if self.recipe.prefix else most

    def _chain(self, stage, path, x, inside):
        forms, sides = [Form(*x.shape)], []
        for i, t in enumerate(stage.transforms):
            own = join(path, str(i))
            if t.state(forms[-1]):
                self._refit(own, t, x)
            x, side = self.at(self.live, own).forward(x)
            self.parts |= {join(own, name): a.detach() for name, a in side.items()}
            sides.append(side)
            forms.append(t.out(forms[-1]))
        y = inside(stage.quantizer, join(path, str(len(stage.transforms))), x)
        for i in reversed(range(len(stage.transforms))):
            y = self.at(self.live, join(path, str(i))).inverse(y, sides[i], forms[i])
        return y

    # -- the leaves ----------------------------------------------------------------------------------------------------
    def _leaf(self, path, x):
        rows, form, recipe = x.detach(), Form(*x.shape), self.recipe
        still, live = self.at(self.still, path), self.at(self.live, path)
        parts, y = still.quantize(native(rows)) if isinstance(still, FSQ) else (still.encode(native(rows)), None)
        if path in self.layer._leaves:
            self._codewords(path, still, rows, parts)
        elif still.state(form):
            self._refit(path, still, rows)
        parts, some = tensors(parts, rows), {}
        if still.progressive and recipe.prefix:
            some["terms"] = self._terms(len(still.bits))
            parts = {name: a for name, a in parts.items() if not name[0].isdigit() or int(name.partition(".")[0]) < some["terms"]}
        if recipe.estimator == "bernoulli" and isinstance(still, Sign):
            parts["ids"] = usage.draw(rows, self.power, self.layer._generator).to(parts["ids"].dtype)
        self.parts |= {join(path, name): p for name, p in parts.items()}
        if recipe.estimator in ("gumbel", "soft") and path in self.layer._leaves:
            return self._soft(path, x, parts)
        pow2 = path in self.layer._points
        if y is None or live is not still:
            y = (still if pow2 else live).decode(parts, form, **some)
        y = like(y, rows) if isinstance(y, np.ndarray) else y
        if isinstance(still, Int) and still.per != "row" and (pow2 or (recipe.estimator == "lsq" and y.requires_grad)):
            y = self._learned_step(path, live, rows, y)
        if recipe.estimator == "bernoulli" and isinstance(still, Sign):
            y = valued(y, still.decode(parts | {"ids": usage.chance(x, self.power)}, form))
        self._charge_use(path, still, x, y)
        if y.requires_grad and recipe.codebook:
            self.loss = self.loss + recipe.codebook * mse_loss(y, rows) / self.power
        return y

    def _codewords(self, path, still, rows, parts):
        """Notes which vectors chose which codewords, for `codebook`; balances the choice first."""
        x = to_numpy(rows)
        if self.recipe.balance:
            parts["ids"] = books.balanced(still, x, self.layer.statistics(path).price, self.recipe.balance, ROUNDS)
        self.layer._pending.append(("codebook", path, *books.seen(still, x, parts)))
        if isinstance(still, Dynamic) and self.recipe.update != "frozen":
            power = self.layer.power.reshape(1).numpy(force=True).copy()
            self.layer._pending.append(("state", path, {"power_": power}, 1.0))

    def _charge_use(self, path, still, x, y):
        """Losses on how codes are used: even bits and codewords, parts that tell different things."""
        recipe = self.recipe
        if recipe.entropy and isinstance(still, Sign):
            self.loss = self.loss + recipe.entropy * usage.even_bits(x, self.power)
        if recipe.entropy and isinstance(still, VQ):
            own, mean = entropies(*self._scaled(path, still, x, y.detach()))
            self.loss = self.loss + recipe.entropy * (own - mean)
        if recipe.disentangle and isinstance(still, PQ):
            self.loss = self.loss + recipe.disentangle * usage.entangled(y + (x - x.detach()), still.m, self.power)

    def _words(self, path, x):
        words = self.at(self.live, path).codebook_
        return words if isinstance(words, torch.Tensor) else like(words, x)

    def _scaled(self, path, leaf, x, y):
        """Vectors of x, codewords, and the mean squared error of a vector times the temperature."""
        v = leaf._cut(x) if isinstance(leaf, VQ) else x.reshape(len(x), leaf.m, -1)
        with torch.no_grad():
            error = torch.maximum(mse_loss(x, y), NEAR * self.power) * v.shape[-1]
        return v, self._words(path, x), error * self.layer.temperature.clamp(-3, 3).exp()

    def _soft(self, path, x, parts):
        """Codewords drawn (gumbel) or nearest, with the gradient of the mean codeword."""
        leaf, recipe, form = self.at(self.still, path), self.recipe, Form(*x.shape)
        if not isinstance(leaf, (VQ, PQ)) or (isinstance(leaf, PQ) and form.d % leaf.m):
            raise SpecError(f"estimator={recipe.estimator} is for vq, and pq of equally wide parts, not {leaf} of {form.d} values")
        v, words, scale = self._scaled(path, leaf, x, leaf.decode(parts, form))
        seed = int(self.layer._rng.integers(1 << 40)) if recipe.estimator == "gumbel" else None
        many = ((v[:, j], words[j]) for j in range(leaf.m)) if isinstance(leaf, PQ) else ((v, words),)
        found = [soft(own, book, scale, None if seed is None else seed + (j << 40)) for j, (own, book) in enumerate(many)]
        mean, ids = (torch.stack(a, 1) for a in zip(*found, strict=True))
        if seed is None:
            ids = parts["ids"]
        self.parts[join(path, "ids")] = ids = ids.reshape(parts["ids"].shape)
        y = leaf.decode({"ids": ids}, form)
        self._charge_use(path, leaf, x, y)
        mean = mean.reshape(len(x), -1)[:, :x.shape[1]]
        if mean.requires_grad:
            self.loss = self.loss + recipe.codebook * mse_loss(mean, x.detach()) / self.power
        return valued(y, mean)

    def _learned_step(self, path, live, x, y):
        """LSQ's gradient for the step, or for its exponent, which rounding passes straight (TQT)."""
        factor = (x.numel() * max(live.k // 2 - 1, 1)) ** -0.5
        if path in self.layer._points:
            e = getattr(self.layer, self.layer._points[path])
            scale = torch.exp2(valued(e.detach().round(), e))
        else:
            scale, y = live.scale_, y.detach()
        return step_gradient(y, x, damped(scale, factor).expand(x.shape[1]), (x - y).abs())

    def _near(self, path, x, y):
        """Where x lies within `anneal` steps of the border between its level and the next."""
        leaf = self.at(self.still, path)
        parts = {k: self.parts[p] for k in leaf.layout(Form(*x.shape)) if (p := join(path, k)) in self.parts}
        k = leaf.layout(Form(*x.shape)).get("ids")
        if k is None or k.k is None or parts["ids"].shape != x.shape:
            raise SpecError(f"anneal is for grids of values, such as int or ternary, not {leaf}")
        ids = parts["ids"].long()
        near = [leaf.decode(parts | {"ids": (ids + way).clamp(0, k.k - 1)}, Form(*x.shape)) for way in (1, -1)]
        step = torch.maximum(*((a - y).abs() for a in near))
        return ((x - y).abs() - step / 2).abs() <= self.recipe.anneal * step

    # -- statistics ----------------------------------------------------------------------------------------------------
    def _refit(self, path, stage, x):
        """Statistics follow the data: at each of the first steps, then at every few, then at every so many."""
        done = self.layer._steps
        every = 1 if done < REFIT else REFIT if done < REFIT ** 2 else 4 * REFIT if done < REFIT ** 3 else 8 * REFIT
        if self.recipe.update not in ("ema", "kmeans") or done % every:
            return
        arrays = stage.fit(books.gather(to_numpy(x), ROWS)).arrays()
        self.layer._pending.append(("state", path, arrays, 1 - self.recipe.decay ** every))

    def _charge(self, x, y, commit: float):
        """The commitment of x to y, in units of the variance of x, whose moving average follows."""
        with torch.no_grad():
            power = books.reduce(np.asarray(books.spread(to_numpy(x[::max(1, len(x) // ROWS)]))), mean=True)
            self.layer.power.lerp_(self.layer.power.new_tensor(max(float(power), 1e-30)), 1 - self.recipe.decay)
        if x.requires_grad and commit:
            self.loss = self.loss + commit * mse_loss(x, y.detach()) / self.power


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
