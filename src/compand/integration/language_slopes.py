"""How much a language model minds noise in each of its weights: what bits are worth where, known before any code is made.

Second-order codes of w leave an error e whose product with the Cholesky factor of the Hessian is white (see `compand.fit.feedback`).
So their effect is simulated: noise of that shape goes into one tensor at a time, and the KL divergence from the original is measured. At
rates where the model still works it adds up over tensors and is proportional to the noise, so that one measurement a tensor predicts
every rate, and the sum of the cheapest choice is an exact knapsack (`compand.fit.allocate`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..codec import Codec
from ..errors import InputError
from ..fit.allocate import allocate
from ..fit.hessian import damped
from ..spec import parse
from ..stage import Form
from .language import Language, transformers

NOISE = {1: 0.285, 2: 0.0733, 3: 0.0195, 4: 0.0054}  # of a trellis, for Gaussian values of variance 1
REFERENCE = 2.0 ** -6  # power of the noise that is put in, in parts of the weights'


def noise_of(spec: str, rows: np.ndarray | None = None) -> float:
    """Mean squared error of a spec for Gaussian rows of variance 1 (or those given).

    >>> round(noise_of("hadamard,int:4"), 4), noise_of("hadamard,trellis:3")
    (0.0114, 0.0195)
    """
    stage = parse(spec)
    last = stage.items[-1] if hasattr(stage, "items") else stage
    if rows is None and last.name == "trellis" and (last.factors, last.memory) == (1, 14):
        return NOISE[last.bits]
    x = np.random.default_rng(0).standard_normal((64, 1024), dtype=np.float32) if rows is None else rows
    codec = Codec(spec).fit(x) if stage.state(Form(*x.shape)) else Codec(spec)
    return float(np.square(codec.decode(codec.encode(x)) - x).mean() / np.square(x).mean())


def slopes(language: Language, ids, hessians: Mapping[str, np.ndarray], *, damping: float = 0.02, seed: int = 0,
           progress: Callable[[int, int, str], None] | None = None) -> dict[str, float]:
    """KL divergence (nats a token) for each unit of relative noise power in each weight, by name.

    ``ids`` are the sequences to measure on (a few hundred tokens), ``hessians`` those of the inputs by weight; without one the noise
    is white. The whole model is in memory.
    """
    torch, _ = transformers()
    language.whole()
    rng, found = np.random.default_rng(seed), {}
    parameters = dict(language.model.named_parameters())
    names = [n for n in language.items if n in parameters and parameters[n].ndim == 2]
    with torch.no_grad():
        wanted = [language.likely(language.states(row)) for row in ids]
        for i, name in enumerate(names):
            p = parameters[name]
            kept, w = p.data, p.data.numpy()
            e = rng.standard_normal(w.shape, dtype=np.float32) * np.float32(np.sqrt(REFERENCE * np.square(w).mean()))
            if (h := hessians.get(name)) is not None:
                lower = np.linalg.cholesky(damped(np.asarray(h, np.float64), damping))
                e = e @ np.linalg.inv(lower / np.diag(lower)).astype(np.float32)
            p.data = torch.from_numpy(w + e)
            kl = [float(language.divergence(language.states(row), *one)) for row, one in zip(ids, wanted, strict=True)]
            p.data = kept
            found[name] = max(float(np.mean(kl)), 0.0) / REFERENCE
            if progress:
                progress(i + 1, len(names), name)
    return found


def share(slope: Mapping[str, float], sizes: Mapping[str, tuple[int, int]], budget: float, ladder: Mapping[str, list[str]]) -> tuple[
        dict[str, str], float]:
    """The spec of each weight whose expected divergence is least within ``budget`` bytes, and that divergence.

    ``sizes`` are shapes (n, d), ``ladder`` the specs that each weight may have. Raises `InputError` if none fits.
    """
    names = list(slope)
    if not names:
        raise InputError("there are no weights to share bytes among")
    known: dict[str, float] = {}
    most = max(len(ladder[n]) for n in names)
    costs, losses = np.full((2, len(names), most), np.inf)
    for i, name in enumerate(names):
        n, d = sizes[name]
        for j, spec in enumerate(ladder[name]):
            known[spec] = known.get(spec) or noise_of(spec)
            costs[i, j] = nbytes(spec, n, d)
            losses[i, j] = slope[name] * known[spec]
    choice = allocate(costs, losses, budget)
    return {n: ladder[n][j] for n, j in zip(names, choice, strict=True)}, float(losses[np.arange(len(names)), choice].sum())


def nbytes(spec: str, n: int, d: int) -> float:
    """Bytes of the codes of n rows of d values: of 4,096 rows, in proportion."""
    from ..codes import stored_form
    from ..dtypes import dtype

    few = min(n, 4096)
    total = 0.0
    for part in Codec(spec).layout(Form(few, d)).values():
        kind, shape = stored_form(part)
        total += float(np.prod(shape)) * dtype(kind).itemsize
    return total * n / few
