"""What noise in each weight costs, from gradients instead of trials: one backward pass says it of all weights at once.

The Hessian of KL(original || changed) at the original is the Fisher information, the covariance of the gradient of log p(y) for tokens y
that the model itself draws. White noise of power v in a weight costs v / 2 times its trace: HAWQ-V2's sensitivity (Dong et al. 2020), for
the divergence instead of a training loss. Noise of the shape that second-order codes leave is weighed by the gradients in that shape.

``relevance`` is cheaper still: how much a weight takes part in what is said, Σ |w · gradient| (the z-rule of LRP through a linear layer, as
in LRP-QViT, Ranjan and Savakis 2024). It ranks weights and has no unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..array import to_numpy
from .language import Language, transformers
from .language_slopes import classes, shape_of

DRAWS = 2  # texts of tokens that the model draws for each sequence


def slopes(language: Language, ids, hessians: Mapping[str, np.ndarray], *, importance: Mapping[str, np.ndarray] | None = None,
           relevance: bool = False, damping: float = 0.02, seed: int = 0,
           progress: Callable[[int, int, str], None] | None = None) -> dict[str, np.ndarray]:
    """As `compand.integration.language_slopes.slopes`, of a `whole` model: nats a token for each unit of relative noise power.

    Rows with an ``importance`` have one slope a class, for small noise and large alike. ``relevance`` instead of the Fisher information is
    scaled so that its mean over weights is 1.
    """
    torch, _ = transformers()
    parameters = dict(language.model.named_parameters())
    names = [n for n in language.items if n in parameters and parameters[n].ndim == 2]
    shapes = {n: shape_of(language, n, parameters[n], hessians.get(n), damping) for n in names}
    total = {n: np.zeros(parameters[n].shape[0]) for n in names}
    for n in names:
        parameters[n].requires_grad_(True)
    random = torch.Generator(language.device).manual_seed(seed)
    try:
        for i, row in enumerate(ids):
            for _ in range(DRAWS):
                logs = language.logits(language.states(row)).log_softmax(-1)
                drawn = torch.multinomial(logs.detach().exp(), 1, generator=random)
                grads = torch.autograd.grad(logs.gather(1, drawn).sum(), [parameters[n] for n in names], allow_unused=True)
                for n, g in zip(names, grads, strict=True):
                    if g is None:
                        continue
                    w, g = to_numpy(parameters[n]), to_numpy(g)
                    if relevance:
                        total[n] += np.abs(w * g).sum(1)
                    else:  # E of (noise · gradient)² for noise of power mean(w²) in each row
                        total[n] += np.square(w).mean(1) * np.square(g if shapes[n] is None else g @ shapes[n].T).sum(1) / 2
            if progress:
                progress(i + 1, len(ids), "gradients")
    finally:
        for n in names:
            parameters[n].requires_grad_(False)
    count = len(ids) * DRAWS * ids.shape[1]
    found = {}
    for n in names:
        if importance and n in importance:
            each = np.array([total[n][rows].sum() for rows in classes(importance[n])])
            found[n] = np.stack([each, each], 1) / count
        else:
            found[n] = np.array([total[n].sum() / count])
    if relevance:
        unit = np.mean([x[..., 0].sum() if x.ndim == 2 else x.sum() for x in found.values()])
        found = {n: x / max(unit, 1e-300) for n, x in found.items()}
    return found
