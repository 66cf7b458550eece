"""`descend` for grids whose codes are entries of a table, of four or eight values together: feedback, then scales and codes in turn."""

from __future__ import annotations

from typing import Any

import numpy as np

F32 = np.float32
EIGHT = 8
TINY = F32(1e-30)


def feed(grid: Any, w: np.ndarray, h: np.ndarray) -> list[Any]:
    """Each block of columns aims at its weights less what the blocks after it ask for; inside, each eight columns do."""
    d = w.shape[1]
    lower = np.linalg.cholesky(h)
    error = np.zeros_like(w)
    blocks: list[Any] = []

    def aim(lo: int, hi: int) -> np.ndarray:
        return w[:, lo:hi] - error[:, hi:] @ (lower[hi:, lo:hi] @ np.linalg.inv(lower[lo:hi, lo:hi])).astype(F32)

    for lo in reversed(range(0, d, grid.values)):
        f = grid.fit(aim(lo, lo + grid.values), np.diag(h)[None, lo:lo + grid.values])
        s = grid.step(f)
        for j in reversed(range(grid.values // EIGHT)):
            at = lo + EIGHT * j
            own, cut = s[:, EIGHT * j // grid.sub], slice(at, at + EIGHT)
            weight = np.square(np.diag(lower)[cut]).astype(F32)
            q, f.signs[:, j], u = grid.nearest(aim(at, at + EIGHT), own, weight / weight.mean())
            f.q[:, j * q.shape[1]:(j + 1) * q.shape[1]] = q
            error[:, cut] = own[:, None] * u - w[:, cut]
        blocks.append(f)
    return blocks[::-1]


def sweep(grid: Any, f: Any, w: np.ndarray, e: np.ndarray, g: np.ndarray, h: np.ndarray) -> Any:
    """Better fields of one block a row: w (n, 256), its error e (changed in place), g = e H there, H there. No step makes it worse."""
    q, signs, d, scales = (np.array(p) for p in f)
    u = grid.shape(f)

    def move(cut: slice, change: np.ndarray) -> None:
        e[:, cut] += change
        g[:, :] += change @ h[cut]

    unit = F32(grid.unit)
    for b in reversed(range(grid.values // grid.sub)):
        cut = slice(b * grid.sub, (b + 1) * grid.sub)
        v = u[:, cut]
        one = unit * d
        best = scales[:, b] - ratio(dot(g[:, cut], v), one * dot(v @ h[cut, cut], v))
        new = np.clip(np.rint(best), 0, grid.top).astype(np.int16)
        move(cut, (one * (new - scales[:, b]).astype(F32))[:, None] * v)
        scales[:, b] = new
        s = one * (new.astype(F32) + F32(0.5))
        for j in reversed(range(b * grid.sub // EIGHT, (b + 1) * grid.sub // EIGHT)):
            here = slice(EIGHT * j, EIGHT * (j + 1))
            own = h[here, here]
            y = s[:, None] * u[:, here]
            found, negative, shape = grid.nearest(y - g[:, here] @ np.linalg.inv(own), s, np.diag(own) / np.diag(own).mean())
            change = s[:, None] * shape - y
            better = 2 * dot(g[:, here], change) + dot(change @ own, change) < 0
            change[~better] = 0
            width = found.shape[1]
            q[better, j * width:(j + 1) * width], signs[better, j] = found[better], negative[better]
            u[better, here] = shape[better]
            move(here, change)
    whole = unit * u * np.repeat(scales.astype(F32) + F32(0.5), grid.sub, axis=1)
    new = np.maximum(half(d - ratio(dot(g, whole), dot(whole @ h, whole))), F32(0))
    change = (new - d)[:, None] * whole
    worse = 2 * dot(g, change) + dot(change @ h, change) > 0
    new, change = np.where(worse, d, new), np.where(worse[:, None], F32(0), change)
    move(slice(0, grid.values), change)
    return type(f)(q, signs, new, scales)


def half(x: np.ndarray) -> np.ndarray:
    """x rounded to float16, as float32; what is too large becomes the largest."""
    return np.clip(x, -65504, 65504).astype(np.float16).astype(F32)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of each row of a with that of b."""
    return np.einsum("ij,ij->i", a, b)


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, 0 where b is next to nothing."""
    return np.where(np.abs(b) > TINY, a / np.where(np.abs(b) > TINY, b, F32(1)), F32(0))
