"""Scales and zero points by the half-quadratic method: outliers are let go, so that the many small values are met closely.

Minimizes the sum of |x - x_hat|^p, p = 3/4, which is no one's squared error. A variable e stands for the errors: it is the errors shrunken
towards 0 by the proximal step of the norm, and scale and zero point are the least squares of x - e; the pull between the two grows. HQQ
(Badri and Shaji 2023), which moves the zero point alone and takes p = 0.7; roots of roots have the same bits on every machine.
"""

from __future__ import annotations

from ..array import array_namespace
from .scale import _total, fixed_zero, free_grid, free_zero, quantize, stored

TURNS, PULL, GROWTH = 20, 10.0, 1.05


def half_quadratic(x, k: int, z: float | None, dtype: str, weight=None, shift=0.0):
    """Scales and zero points (m, 1) of groups x (m, g), as `scale.fixed_zero` (z given) and `scale.free_zero` (None) give them.

    Never worse in |e|^(3/4) than what those find by absmax and by squared error, where it begins. ``weight`` multiplies the errors.
    """
    xp = array_namespace(x)
    a = xp.max(xp.abs(x), axis=1, keepdims=True)
    a = xp.where(a == 0, xp.ones_like(a), a)
    y = x / a
    total = _total(xp.ones_like(y), weight)

    def judged(s, zero):
        unit = s / a
        q = quantize(y, unit, zero + shift, k)
        e = y - (q + (zero + shift)) * unit
        return s, zero, q, e, _total(_root(xp.abs(e)) ** 3, weight)

    def start(search):
        if z is None:
            return judged(*free_zero(x, k, dtype, search, weight, shift))
        return judged(s := fixed_zero(x, k, z, dtype, search, weight, shift), xp.full_like(s, z))

    def better(new, old):
        take = new[-1] < old[-1]
        return tuple(xp.where(take, n, o) for n, o in zip(new, old, strict=True))

    best = now = better(start("mse"), start("absmax"))
    pull = PULL
    for _ in range(TURNS):
        s, zero, q, e, _ = now
        unit = xp.abs(s / a)
        u = xp.abs(e) / xp.where(unit == 0, xp.ones_like(unit), unit)
        kept = xp.clip(u - 1 / (pull * _root(xp.clip(u, min=1e-12))), min=0.0) * unit  # the proximal step of |u|^(3/4)
        target = y - xp.where(e < 0, -kept, kept)
        if z is not None:
            level = q + (zero + shift)
            s = stored(a * (_total(level * target, weight) / xp.clip(_total(level * level, weight), min=1e-30)), dtype)
        else:
            q = q + shift
            mean_q, mean_y = _total(q, weight) / total, _total(target, weight) / total
            dq = q - mean_q
            step = _total(dq * (target - mean_y), weight) / xp.clip(_total(dq * dq, weight), min=1e-30)
            step = xp.where(step > 0, step, unit)
            s, _, zero = free_grid(a, mean_y - step * mean_q, step, dtype)
        now = judged(s, zero)
        best, pull = better(now, best), pull * GROWTH
    return best[0], (best[1] if z is None else z)


def _root(v):
    """v^(1/4)."""
    xp = array_namespace(v)
    return xp.sqrt(xp.sqrt(v))
