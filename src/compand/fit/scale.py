"""Scales for uniform grids: the step s and zero point z of x_hat = s · (id + z), id in [0, k), chosen by absmax or by error.

Everything works on groups (m, g), one (s, z) a group, in any array library. Values are brought to [-1, 1] first, so that
squares of 1e30 and 1e-30 stay finite. Scales come out rounded as they will be stored, and are judged rounded.
"""

from __future__ import annotations

import numpy as np

from .. import _native
from ..array import array_namespace, exponent, power, total

SCALES = ("bfloat16", "float16", "float32")
RATIOS = {1: (0.7, 0.5), 2: (0.9, 0.7, 0.55), 3: (1.0, 0.87, 0.75), 4: (1.0, 0.92, 0.83), 5: (1.0, 0.92), 6: (1.0, 0.95)}
WIDE = (0.7, 0.55, 0.42, 0.32, 0.24, 0.18, 0.13, 0.1, 0.07, 0.05)  # long groups may hold far outliers
LARGEST = {"bfloat16": 3.38e38, "float16": 65504.0, "float32": 3.4e38, "pow2": 2.0**127}
SMALLEST = {"bfloat16": 2.0**-126, "float16": 2.0**-14, "float32": 2.0**-126, "pow2": 2.0**-126}


def stored(s, dtype: str, up: bool = False):
    """s (float32) rounded to what ``dtype`` can hold (``pow2``: a power of two), sign kept, saturating.

    Magnitudes below the smallest normal number become 0, so does 0. ``up`` never gives less than s (where it is in range).

    >>> import numpy as np
    >>> stored(np.float32([1.001, 1.001, -3]), "bfloat16", up=True).tolist()
    [1.0078125, 1.0078125, -3.0]
    """
    xp = array_namespace(s)
    largest, smallest = LARGEST[dtype], SMALLEST[dtype]
    a = xp.clip(xp.abs(s), max=largest)
    if dtype == "pow2":
        a = xp.clip(a, min=smallest)
        e = exponent(a)
        e = e + xp.astype(a / power(e) > (1 + 2.0**-21 if up else 2.0**0.5), e.dtype)
        r = power(xp.clip(e, -126, 127))
    elif dtype == "float32":
        r = a
    else:
        split = 2.0**16 + 1 if dtype == "bfloat16" else 2.0**13 + 1  # Veltkamp: keeps 24 - 16 (or 13) leading bits
        ulp = 2.0**-7 if dtype == "bfloat16" else 2.0**-10
        down = xp.where(a > 1e30, xp.full_like(a, 2.0**-40), xp.ones_like(a))
        a = a * down
        c = a * split
        r = c - (c - a)
        if up:
            more = r + r * ulp
            c = more * split
            r = xp.where(r < a, c - (c - more), r)
        r = xp.minimum(r, down * largest) / down
    r = xp.where(xp.abs(s) < smallest, xp.zeros_like(r), r)
    return xp.where(s < 0, -r, r)


def quantize(x, s, z, k: int):
    """Ids as floats: round(x / s - z) clipped to [0, k); 0 where s is 0. Shapes broadcast."""
    xp = array_namespace(x)
    return xp.clip(xp.round(x / xp.where(s == 0, xp.ones_like(s), s) - z), 0, k - 1)


def encode_native(x: np.ndarray, group: int | None, k: int, z: float, dtype: str, search: str) -> tuple[np.ndarray, np.ndarray]:
    """`fixed_zero` and `quantize` for the groups of x (n, d) in one pass: ids uint8 (n, d) and scales float32 (n, groups)."""
    group = min(group or x.shape[1], x.shape[1])
    digits = {"bfloat16": 8, "float16": 11, "float32": 24}[dtype]
    return _native.grid_encode(np.ascontiguousarray(x), group, k, z, np.float32(_ratios(k, group)), digits,
                               SMALLEST[dtype], LARGEST[dtype], search == "mse")


def _ratios(k: int, g: int) -> tuple[float, ...]:
    bits = (k - 1).bit_length()
    return RATIOS.get(bits, (1.0,)) + (WIDE if g > 512 and bits < 8 else ())


def _total(v, w):
    return total(v if w is None else v * w)


def fixed_zero(x, k: int, z: float, dtype: str, search: str, weight=None, shift=0.0):
    """Scales (m, 1) for a grid whose zero point is the same for all: ``z = -k/2`` (zero is a level), ``z = -(k-1)/2`` (none is).

    ``absmax`` covers all values, so errors stay within half a step; ``mse`` tries shrunken ranges, the sign that gives the
    extra level to the longer side, and the least-squares step for the ids found. ``shift`` is added to z (noise).
    """
    xp = array_namespace(x)
    top = k - 1 + z  # largest level that both signs have
    a = xp.max(xp.abs(x), axis=1, keepdims=True)
    first = stored(a / top, dtype, up=True)  # 0 for a group of zeros
    a = xp.where(a == 0, xp.ones_like(a), a)
    if search == "absmax":
        return first
    y = x / a
    sign = 1.0
    if z + top != 0 and dtype != "pow2":  # one side has a level more: give it to the longer side
        sign = xp.where(xp.max(x, axis=1, keepdims=True) == a, -xp.ones_like(a), xp.ones_like(a))
    bits = (k - 1).bit_length()
    ratios = _ratios(k, x.shape[1])
    best, least, pick = first, None, None
    tried = [first] + [stored(sign * (a * (r / (-z if bits > 1 else top))), dtype) for r in ratios]
    for turn in range(len(tried) + 2):
        if turn < len(tried):
            s = tried[turn]
        else:
            s = stored(a * (_total(y * pick, weight) / xp.clip(_total(pick * pick, weight), min=1e-30)), dtype)
        unit = s / a
        level = quantize(y, unit, z + shift, k) + (z + shift)
        err = level * unit - y
        err = _total(err * err, weight)
        if least is None:
            least, pick = err, level
        else:
            better = err < least
            best, least, pick = xp.where(better, s, best), xp.where(better, err, least), xp.where(better, level, pick)
    return xp.where(first == 0, first, best)


def free_zero(x, k: int, dtype: str, search: str, weight=None, shift=0.0):
    """Scales and zero points (m, 1), (m, 1) float16-exact, for a grid that may lie anywhere: x_hat = s · (id + z)."""
    xp = array_namespace(x)
    a = xp.max(xp.abs(x), axis=1, keepdims=True)
    a = xp.where(a == 0, xp.ones_like(a), a)
    y = x / a
    low, high = xp.min(y, axis=1, keepdims=True), xp.max(y, axis=1, keepdims=True)

    def grid(low, step, up=False):
        return free_grid(a, low, step, dtype, up)

    middle, span = (low + high) * 0.5, high - low
    best = grid(low, span * ((1.0 + 1.0 / 64) / (k - 1)), up=True)  # room for the rounding of z
    if search == "absmax":
        return best[0], best[2]
    bits = (k - 1).bit_length()
    ratios = (1.0, *(r for r in RATIOS.get(bits, ()) if r < 1)) + (WIDE if x.shape[1] > 512 and bits < 8 else ())
    least = pick = None
    for turn in range(len(ratios) + 3):
        if turn == 0:
            s, unit, z = best
        elif turn <= len(ratios):
            r = ratios[turn - 1]
            s, unit, z = grid(middle - span * (0.5 * r), span * (r / (k - 1)))
        else:  # least squares of y on the ids found
            total = xp.ones_like(a) * x.shape[1] if weight is None else _total(xp.ones_like(y), weight)
            mean_q, mean_y = _total(pick, weight) / total, _total(y, weight) / total
            dq = pick - mean_q
            step = _total(dq * (y - mean_y), weight) / xp.clip(_total(dq * dq, weight), min=1e-30)
            step = xp.where(step > 0, step, best[1])
            s, unit, z = grid(mean_y - step * mean_q, step)
        q = quantize(y, unit, z + shift, k)
        err = (q + (z + shift)) * unit - y
        err = _total(err * err, weight)
        if least is None:
            least, pick = err, q
        else:
            better = err < least
            best = tuple(xp.where(better, new, old) for new, old in zip((s, unit, z), best, strict=True))
            least, pick = xp.where(better, err, least), xp.where(better, q, pick)
    return best[0], best[2]


def free_grid(a, low, step, dtype: str, up: bool = False):
    """Scales, scales / a and zero points of grids that begin at ``low`` and have this step, both in units of a."""
    xp = array_namespace(low)
    step = xp.where(xp.abs(low) > step * 1024.0, xp.abs(low) / 1024.0, step)  # |z| <= 1024, where float16 still resolves half a step
    s = stored(a * step, dtype, up)
    unit = s / a
    return s, unit, _float16(xp.clip(low / xp.where(unit == 0, xp.ones_like(unit), unit), -60000.0, 60000.0))


def _float16(z):
    """z rounded to a float16 value, without the dtype (|z| < 65504)."""
    xp = array_namespace(z)
    c = z * (2.0**13 + 1)
    r = c - (c - z)
    return xp.where(xp.abs(z) < 2.0**-14, xp.zeros_like(z), r)
