"""More bits for the rows whose loss matters most, picked among all rows of a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..codec import Codec
from ..codes import Block, Codes
from ..errors import InputError
from ..expression import Sum
from ..quantizer.salient import largest
from ..stage import Form

_ROWS = 4096  # whose loss is found at once


def refined(first: Codes, terms: tuple[Any, ...], w: np.ndarray, h: np.ndarray, importance, feed: Callable[..., dict[str, Any]]) -> Codes:
    """Codes ``first`` of w (n, ...) with ``salient`` terms added, each for the rows that lose most: importance · e H eᵀ.

    ``importance`` of rows is (n,) or None, ``h`` a damped Hessian (d, d); feed(stage, rows, h) gives the parts of rows by a stage. Raises
    `InputError` for an importance that does not fit.
    """
    form = first.form
    weight = np.ones(form.n) if importance is None else np.asarray(importance, np.float64).reshape(-1)
    if weight.shape != (form.n,) or not (np.isfinite(weight) & (weight >= 0)).all():
        raise InputError(f"the importance of rows must be {form.n} finite numbers of 0 or more, not {list(np.shape(importance))}")
    rest = w.reshape(form.n, form.d).astype(np.float32)
    rest -= first.codec.decode(first).reshape(form.n, form.d)
    picked = []
    for stage in terms:
        lost = [np.einsum("ij,ij->i", rest[at:at + _ROWS] @ h, rest[at:at + _ROWS]) for at in range(0, form.n, _ROWS)]
        rows = largest(weight * np.maximum(np.concatenate(lost), 0), stage.share)
        some = np.ascontiguousarray(rest[rows])
        parts = feed(stage.grid, some, h) if len(rows) else stage.rows(some)
        rest[rows] -= np.asarray(stage.grid.decode(parts, Form(*some.shape)))
        picked.append((stage, rows, np.asarray(parts["ids"]), np.asarray(parts["scale"])))
    before = first.codec.stage.items if isinstance(first.codec.stage, Sum) else (first.codec.stage,)
    blocks, at = [], 0
    for b in first.blocks:
        own = {f"0.{name}": part for name, part in b.parts.items()} if len(before) == 1 else dict(b.parts)
        for i, (stage, rows, ids, scale) in enumerate(picked, len(before)):
            here = slice(*np.searchsorted(rows, (at, at + b.rows)))
            parts = stage.parts(b.rows, rows[here] - at, ids[here], scale[here])
            own |= {f"{i}.{name}": np.ascontiguousarray(part) for name, part in parts.items()}
        blocks.append(Block(b.rows, own))
        at += b.rows
    return Codes(Codec(Sum((*before, *terms))), tuple(w.shape), first.dtype, tuple(blocks))
