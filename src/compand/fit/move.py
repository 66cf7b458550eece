"""Codes moved along a gradient: those that would lower a loss are changed a few at a time, by its gradient and its curvature.

What PV-Tuning (Malinovskii et al. 2024) calls the V step, with a curvature: for a change e of weights w (n, d) the loss changes by
Σ gradient · e + ½ Σ_r importance_r e_r H e_rᵀ. Each code, or each few columns of a trellis, goes to where that is least while all others
stay. Scales and size stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..codes import Block, Codes, pack_part, unpack_part
from ..errors import InputError
from ..expression import Chain, Sum
from ..stage import Form, Stage
from .feedback import Walks, scalar_ids, settle
from .hessian import carried, damped, linear


def moved(codes: Codes, gradient, hessian, importance=None, *, damping: float = 0.02) -> Codes:
    """The codes of w (n, ...) with some of them changed, so that the loss is less as far as gradient and curvature tell.

    Parameters
    ----------
    gradient : of the loss at what the codes decode to: (n, d)
    hessian : H (d, d), the mean of xᵀx over inputs x of the layer y = x wᵀ
    importance : of each row (n,), as the mean of g² over gradients g at the outputs; default: 1

    For trellis and scalar stages, sums of trellises, and linear transforms before them; `InputError` for others.

    >>> from compand.fit.feedback import encode
    >>> rng = np.random.default_rng(0)
    >>> w, h = rng.standard_normal((32, 64)).astype(np.float32), np.eye(64)
    >>> codes = encode("hadamard,trellis:2:memory=12", w, h)
    >>> aim = w + 0.3 * rng.standard_normal(w.shape).astype(np.float32)  # the loss is half the squared distance from here
    >>> near = moved(codes, codes.codec.decode(codes) - aim, h)
    >>> before, after = (float(np.square(c.codec.decode(c) - aim).sum()) for c in (codes, near))
    >>> after < 0.9 * before, codes.nbytes == near.nbytes
    (True, True)
    """
    codec, form = codes.codec, codes.form
    gradient = np.asarray(gradient, np.float32).reshape(form.n, form.d)
    weight = np.ones(form.n, np.float32) if importance is None else np.asarray(importance, np.float32)
    if weight.shape != (form.n,) or not np.isfinite(gradient).all() or not np.isfinite(weight).all():
        raise InputError(f"gradient and importance must be finite, and the importance ({form.n},)")
    chain = codec.stage if isinstance(codec.stage, Chain) else None
    transforms = chain.transforms if chain else ()
    stage: Stage = chain.quantizer if chain else codec.stage
    h, inner = carried(hessian, transforms, form), form
    h = damped(h, damping) * max(float(np.trace(h)) / len(h), 1e-30)  # `damped` is in parts of the mean
    for t in transforms:
        if t.layout(inner):
            raise InputError(f"{t} keeps side information of its own; codes after it do not move")
        gradient, inner = (gradient @ linear(t, inner).T).astype(np.float32), t.out(inner)
    prefix, blocks, at = f"{len(transforms)}." if chain else "", [], 0
    for b in codes.blocks:
        layout = codec.layout(form._replace(n=b.rows))
        own = {name.removeprefix(prefix): unpack_part(part, layout[name]) for name, part in b.parts.items()}
        rows = slice(at, at + b.rows)
        fresh = _moved(stage, own, inner._replace(n=b.rows), gradient[rows].copy(), h, weight[rows])
        parts = {prefix + name: pack_part(part.astype(own[name].dtype, copy=False), layout[prefix + name]) for name, part in fresh.items()}
        blocks.append(Block(b.rows, dict(b.parts) | parts))
        at += b.rows
    return replace(codes, blocks=tuple(blocks))


def _moved(stage: Stage, parts: dict[str, Any], form: Form, gradient: np.ndarray, h: np.ndarray,
           weight: np.ndarray) -> dict[str, np.ndarray]:
    """The parts that change, of rows that are coded together."""
    form = form._replace(dtype="float32")
    if isinstance(stage, Sum) and all(map(_walker, stage.items)):
        walk: Any = Walks.of(stage, parts, form)
    elif walker := _walker(stage):
        walk = walker.of(stage, parts, form)
    elif name := scalar_ids(stage, parts, form):
        fresh = {**parts, name: np.array(parts[name])}
        settle(stage, fresh, name, gradient, h, weight)
        return {name: fresh[name]}
    else:
        raise InputError(f"codes of {stage} cannot be moved; those of trellis, int, table, float and sums of trellises can")
    walk.descend(gradient, h, weight)
    return {name: part for name, part in walk.parts().items() if not name.endswith("scale")}


def _walker(stage: Stage) -> Any:
    """The class of a stage's walks, if one can go on from codes that are there."""
    walker = type(stage.walk(np.zeros((1, 4), np.float32))) if hasattr(stage, "walk") else None
    return walker if hasattr(walker, "of") else None
