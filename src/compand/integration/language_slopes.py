"""How much a language model minds noise in each of its weights: what bits are worth where, known before any code is made.

Second-order codes of w leave an error e whose product with the Cholesky factor of the Hessian is white (see `compand.fit.feedback`), in
each row in proportion to the row, as each has its scale.
So their effect is simulated: noise of that shape goes into one tensor at a time, and the KL divergence from the original is measured. At
rates where the model still works it adds up over tensors and is proportional to the noise, so that one measurement a tensor predicts
every rate, and the sum of the cheapest choice is an exact knapsack (`compand.fit.allocate`). Rows of embedding and head are
measured with the noise of 2 bits too, and a matrix that is both with the damping that it is coded with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import pairwise, product
from typing import Any

import numpy as np

from ..array import to_numpy
from ..codec import Codec
from ..errors import InputError
from ..expression import Sum
from ..fit.allocate import allocate
from ..fit.hessian import damped
from ..quantizer.salient import Salient
from ..spec import parse
from ..stage import Form
from ..symbols import row_bytes
from .language import Language, transformers
from .language_fit import norm_of

CLASSES = (0.02, 0.06, 0.15, 0.3, 1.0)  # ends of classes of rows, in parts of all: the rows that matter most first
REFERENCE = 2.0 ** -6  # power of the noise that is put in, in parts of the weights'
COARSE = 2.0 ** -4  # the same for rows of embedding and head, a second time: of about 2 bits a value


@cache
def noise_of(spec: str, d: int = 1024) -> float:
    """Mean squared error of a spec for Gaussian rows of d values of variance 1.

    >>> round(noise_of("hadamard,int:4"), 4), round(noise_of("hadamard,int:4", 64), 4)
    (0.0116, 0.0083)
    """
    x = np.random.default_rng(0).standard_normal((max(32, 16 * -(-2048 // d)), d), dtype=np.float32)
    codec = Codec(spec)
    codec = codec.fit(x) if codec.stage.state(Form(*x.shape)) else codec
    return float(np.square(codec.decode(codec.encode(x)) - x).mean() / np.square(x).mean())


def slopes(language: Language, ids, hessians: Mapping[str, np.ndarray], *, importance: Mapping[str, np.ndarray] | None = None,
           measured: int | None = None, damping: float = 0.02, seed: int = 0,
           progress: Callable[[int, int, str], None] | None = None) -> dict[str, np.ndarray]:
    """KL divergence (nats a token) for each unit of relative noise power in each weight, by name: float64 (1,), or (classes, 2) of rows.

    ``ids`` are the sequences to measure on (a few hundred tokens), ``hessians`` those of the inputs by weight; without one the noise
    is white. Of weights whose rows have an ``importance`` (n,), each of `CLASSES` of rows is measured, the most important first, with noise
    of `REFERENCE` and of `COARSE`. The others
    are measured on the first ``measured`` sequences only: words that matter least are seldom met in so few. The whole model is in memory.
    """
    torch, _ = transformers()
    language.whole()
    rng, found = np.random.default_rng(seed), {}
    parameters = dict(language.model.named_parameters())
    names = [n for n in language.items if n in parameters and parameters[n].ndim == 2]
    with torch.no_grad():
        before = Before(language, ids)
        said = list(before.states(0))
        wanted = [language.likely(h) for h in said]
        step = max(1, len(ids) * ids.shape[1] * language.head.weight.shape[0] >> 27)  # positions whose whole distributions are compared
        whole = [language.logits(h[::step]).log_softmax(-1) for h in said] if importance else []
        for i, name in enumerate(names):
            p = parameters[name]
            kept, w = p.data, to_numpy(p.data)
            e = noise(rng, w, shape_of(language, name, p, hessians.get(name), damping)) * np.float32(REFERENCE ** 0.5)
            each = []
            by_row = bool(importance) and name in importance
            for rows, power in product(classes(importance[name]), (REFERENCE, COARSE)) if by_row else [(slice(None), REFERENCE)]:
                noisy = w.copy()
                noisy[rows] += e[rows] * np.float32((power / REFERENCE) ** 0.5)
                p.data = language.there(noisy)
                if by_row:  # noise in the rows of unlikely tokens gives them probability
                    now = before.states(before.layer(name))
                    kl = [divergence(q, language.logits(h[::step])) for h, q in zip(now, whole, strict=True)]
                else:
                    now = before.states(before.layer(name), measured)
                    kl = [float(language.divergence(h, *one)) for h, one in zip(now, wanted, strict=False)]
                each.append(max(float(np.mean(kl)), 0.0) / power)
            p.data = kept
            found[name] = np.array(each).reshape(-1, 2) if by_row else np.array(each)
            if progress:
                progress(i + 1, len(names), name)
    return found


def shape_of(language: Language, name: str, parameter, hessian, damping: float) -> np.ndarray | None:
    """What second-order codes turn white noise of rows into: float32 (d, d), or None without a Hessian."""
    if hessian is None:
        return None
    both = language.tied and parameter is language.head.weight
    lower = np.linalg.cholesky(damped(np.asarray(hessian, np.float64), max(damping, 0.1) if both else damping))
    return np.linalg.inv(lower / np.diag(lower)).astype(np.float32)


def noise(rng: np.random.Generator, w: np.ndarray, shape: np.ndarray | None) -> np.ndarray:
    """Noise as strong as each row of w, before it is shaped."""
    e = rng.standard_normal(w.shape, dtype=np.float32) * np.sqrt(np.square(w).mean(1, keepdims=True))
    return e if shape is None else e @ shape


def together(language: Language, ids, hessians: Mapping[str, np.ndarray], specs: Mapping[str, str], *,
             importance: Mapping[str, np.ndarray] | None = None, damping: float = 0.02, seed: int = 1) -> float:
    """The KL divergence (nats a token) of noise in all weights at once, in each as strong as its spec leaves it.

    Where much is lost this is more than the sum that `share` reckons with: what one weight loses makes the others' losses worse.
    """
    torch, _ = transformers()
    rng, parameters = np.random.default_rng(seed), dict(language.model.named_parameters())
    step = max(1, len(ids) * ids.shape[1] * language.head.weight.shape[0] >> 27)
    with torch.no_grad():
        whole = [language.logits(language.states(row)[::step]).log_softmax(-1) for row in ids]
        kept = {n: parameters[n].data for n in specs}
        try:
            for n, spec in specs.items():
                w = to_numpy(kept[n])
                e = noise(rng, w, shape_of(language, n, parameters[n], hessians.get(n), damping))
                by_row = importance is not None and n in importance
                power = levels(spec, w.shape[1], len(CLASSES) if by_row else 1)
                for rows, p in zip(classes(importance[n]) if by_row else [slice(None)], power, strict=True):  # type: ignore[index]
                    e[rows] *= np.float32(p ** 0.5)
                parameters[n].data = language.there(w + e)
            kl = [divergence(p, language.logits(language.states(row)[::step])) for row, p in zip(ids, whole, strict=True)]
        finally:
            for n, w in kept.items():
                parameters[n].data = w
    return float(np.mean(kl))


class Before:
    """What goes into each layer of a `whole` model for some sequences, so that a change in a layer costs what follows it only."""

    def __init__(self, language: Language, ids):
        self.language, self.ids = language, ids
        self.arguments = language.arguments(ids[:1])
        self.names = [f"{language.names[id(layer)]}." for layer in language.layers]
        self.inputs = [[language.embedding(row[None]) for row in ids]]
        for layer, more in zip(language.layers, self.arguments, strict=True):
            self.inputs.append([_first(layer(h, **more)) for h in self.inputs[-1]])

    def layer(self, name: str) -> int:
        """The number of the layer that a tensor belongs to; 0 for those that are in none."""
        return next((i for i, prefix in enumerate(self.names) if name.startswith(prefix)), 0)

    def states(self, first: int, sequences: int | None = None) -> Iterator[Any]:
        """What the head reads for each sequence, or the first of them, made anew from a layer on (0: from the embedding on)."""
        norm = norm_of(self.language)
        for row, h in zip(self.ids[:sequences], self.inputs[first][:sequences], strict=True):
            h = self.language.embedding(row[None]) if first == 0 else h
            for layer, more in zip(self.language.layers[first:], self.arguments[first:], strict=True):
                h = _first(layer(h, **more))
            yield (h if norm is None else norm(h))[0]


def divergence(wanted, logits) -> float:
    """Mean KL in nats over the whole vocabulary, of log probabilities (positions, vocabulary) from those of logits."""
    return float((wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1).mean())


def _first(y):
    return y[0] if isinstance(y, tuple) else y


def classes(importance: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of the rows of each class of `CLASSES`."""
    order = np.argsort(-np.asarray(importance), kind="stable")
    ends = [0, *(round(c * len(order)) for c in CLASSES)]
    for lo, hi in pairwise(ends):
        yield order[lo:hi]


def lost(spec: str, d: int, slope: np.ndarray) -> float:
    """The divergence to expect of a spec for rows of d values, by their `slopes`; ``salient`` terms spare the classes that they take.

    >>> bool(lost("hadamard,int:3", 64, np.ones(5)) > 3 * lost("(hadamard,int:3)+salient:0.15:4", 64, np.array([3, 1, 1, 0, 0])))
    True
    >>> rise = np.array([[1, 4]])
    >>> [round(lost(s, 1024, rise) / lost(s, 1024, rise[:, 0]), 1) for s in ("hadamard,trellis:2", "hadamard,trellis:4")]
    [4.7, 1.0]
    """
    left = levels(spec, d, len(slope))
    if slope.ndim == 2:  # a power of the noise between the two that were measured, and beyond
        low, high = np.maximum(slope, 1e-12).T
        slope = low * np.maximum(high / low, 1.0) ** (np.log(np.maximum(left / REFERENCE, 1.0)) / np.log(COARSE / REFERENCE))
    return float(slope @ left)


def levels(spec: str, d: int, number: int) -> np.ndarray:
    """The relative power of the noise that a spec leaves in each of a number of `CLASSES` of rows of d values: float64 (number,)."""
    stage = parse(spec)
    items = stage.items if isinstance(stage, Sum) else (stage,)
    extra = [s for s in items if isinstance(s, Salient)]
    base = [s for s in items if not isinstance(s, Salient)]
    left = np.full(number, noise_of(str(Sum(tuple(base)) if len(base) > 1 else base[0]), d))
    for s in extra:
        if number == 1:  # which rows matter is not known
            left *= 1 - s.share + s.share * noise_of(str(s.grid), d)
        else:
            left[:int(np.searchsorted(CLASSES, s.share + 1e-9, side="right"))] *= noise_of(str(s.grid), d)
    return left


def share(slope: Mapping[str, np.ndarray], sizes: Mapping[str, tuple[int, int]], budget: float | None,
          ladder: Mapping[str, list[str]], *, divergence: float | None = None,
          cost: Callable[[str, int, int], float] | None = None) -> tuple[dict[str, str], float]:
    """The spec of each weight whose expected divergence is least within ``budget`` bytes, and that divergence.

    ``sizes`` are shapes (n, d), ``ladder`` the specs that each weight may have. With ``divergence`` instead of a budget: the fewest bytes
    at that divergence. ``cost`` of n rows of d values in a spec may be something else than bytes. Raises `InputError` if none fits.
    """
    names = list(slope)
    if not names:
        raise InputError("there are no weights to share bytes among")
    most = max(len(ladder[n]) for n in names)
    costs, losses = np.full((2, len(names), most), np.inf)
    for i, name in enumerate(names):
        n, d = sizes[name]
        for j, spec in enumerate(ladder[name]):
            costs[i, j], losses[i, j] = (cost or nbytes)(spec, n, d), lost(spec, d, slope[name])
    choice = allocate(costs, losses, budget, distortion=divergence)
    return {n: ladder[n][j] for n, j in zip(names, choice, strict=True)}, float(losses[np.arange(len(names)), choice].sum())


def nbytes(spec: str, n: int, d: int) -> float:
    """Bytes of the codes of n rows of d values: of 4,096 rows, in proportion."""
    from ..codes import stored_form
    from ..dtypes import dtype

    few, stage = min(n, 4096), parse(spec)
    total = 0.0
    for path, part in Codec(stage).layout(Form(few, d)).items():
        kind, shape = stored_form(part)
        if shape == (-1,) and isinstance(stage, Sum) and isinstance(s := stage.items[int(path.partition(".")[0])], Salient):
            shape = (round(s.share * few), row_bytes(d, s.grid.k) if path.endswith("ids") else 1)
        total += float(np.prod(shape)) * dtype(kind).itemsize
    return total * n / few
