"""Codes on a grid whose scales are integers too, found against a layer's Hessian: feedback first, then descent on everything.

The loss trace(e H eᵀ) of the outputs is quadratic in each code, scale and minimum while the others stay, so each has a best value among
those the grid allows. `descend` starts from feedback (LDLQ: a block of columns after the other, scales chosen when their block is
reached) and then sweeps: every integer scale and minimum, every code, every float16 of a block in turn. No step can make it worse.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .descend_vectors import dot, half, ratio
from .descend_vectors import feed as vector_feed
from .descend_vectors import sweep as vector_sweep
from .hessian import damped

F32 = np.float32


def descend(grid: Any, w: np.ndarray, hessian: np.ndarray, *, sweeps: int = 3, damping: float = 0.01) -> Any:
    """Fields of the blocks of w (n, d) on a grid (`compand.modality.gguf_grid`), for inputs whose mean xᵀx is ``hessian`` (d, d).

    The blocks of a row are neighbours, as in a file. ``damping`` of the diagonal of H is in parts of its mean.

    >>> from compand.modality.gguf_grid import grid
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((999, 8)) @ rng.standard_normal((8, 256)) + 0.2 * rng.standard_normal((999, 256))
    >>> w, h, g = rng.standard_normal((64, 256)).astype(np.float32), x.T @ x / 999, grid("Q3_K")
    >>> plain, fitted = (np.square((g.decode(f) - w) @ x.T).mean() for f in (g.fit(w, np.diag(h)[None]), descend(g, w, h)))
    >>> bool(fitted < 0.25 * plain)
    True
    """
    w = np.ascontiguousarray(w, F32)
    h = damped(hessian, damping)
    feed, sweep = (vector_feed, vector_sweep) if hasattr(grid, "table") else (_feed, _sweep)
    blocks = feed(grid, w, h)
    h = h.astype(F32)
    for _ in range(sweeps):
        error = np.concatenate([grid.decode(f) for f in blocks], axis=1) - w
        gradient = error @ h
        for i in reversed(range(len(blocks))):
            lo = i * grid.values
            cut = slice(lo, lo + grid.values)
            e = error[:, cut]
            before = e.copy()
            blocks[i] = sweep(grid, blocks[i], w[:, cut], e, gradient[:, cut].copy(), h[cut, cut])
            gradient += (e - before) @ h[cut]
    return type(blocks[0])(*(np.stack(p, axis=1).reshape(-1, *p[0].shape[1:]) for p in zip(*blocks, strict=True)))


def _feed(grid: Any, w: np.ndarray, h: np.ndarray) -> list[Any]:
    """Each block of columns aims at its weights less what the blocks after it ask for; inside, each column does."""
    d = w.shape[1]
    lower = np.linalg.cholesky(h)
    unit = (lower / np.diag(lower)).astype(F32)
    error = np.zeros_like(w)
    blocks: list[Any] = []
    for lo in reversed(range(0, d, grid.values)):
        hi = lo + grid.values
        inside = np.linalg.inv(lower[lo:hi, lo:hi])
        base = w[:, lo:hi] - error[:, hi:] @ unit[hi:, lo:hi]
        aim = w[:, lo:hi] - error[:, hi:] @ (lower[hi:, lo:hi] @ inside).astype(F32)
        f = grid.fit(aim, np.diag(h)[None, lo:hi])
        s, m = grid.affine(f)
        q = f.q
        for j in reversed(range(grid.values)):
            b = j // grid.sub
            t = base[:, j] - error[:, lo + j + 1:hi] @ unit[lo + j + 1:hi, lo + j]
            q[:, j] = grid.nearest(t, s[:, b], m[:, b])
            error[:, lo + j] = s[:, b] * grid.levels[q[:, j]] - m[:, b] - w[:, lo + j]
        blocks.append(f)
    return blocks[::-1]


def _sweep(grid: Any, f: Any, w: np.ndarray, e: np.ndarray, g: np.ndarray, h: np.ndarray) -> Any:
    """Better fields of one block a row: w (n, values), its error e (changed in place), g = e H there, H there."""
    q, d, m, scales, mins = (np.array(p) for p in f)
    sub = grid.sub

    def move(cut: slice, change: np.ndarray) -> None:
        e[:, cut] += change
        g[:, :] += change @ h[cut]

    for b in reversed(range(grid.values // sub)):
        cut = slice(b * sub, (b + 1) * sub)
        own = h[cut, cut]
        if grid.scales:
            u = grid.levels[q[:, cut]]
            best = scales[:, b] - ratio(dot(g[:, cut], u), d * dot(u @ own, u))
            new = np.clip(np.rint(best), *grid.scales).astype(np.int16)
            move(cut, (d * (new - scales[:, b]).astype(F32))[:, None] * u)
            scales[:, b] = new
        if grid.mins:
            best = mins[:, b] + ratio(g[:, cut].sum(axis=1), m * own.sum())
            new = np.clip(np.rint(best), *grid.mins).astype(np.int16)
            move(cut, np.repeat((m * (mins[:, b] - new).astype(F32))[:, None], sub, axis=1))
            mins[:, b] = new
        s, low = d * scales[:, b].astype(F32), m * mins[:, b].astype(F32)
        local, start = g[:, cut].copy(), e[:, cut].copy()
        for j in reversed(range(sub)):
            at = b * sub + j
            q[:, at] = grid.nearest(w[:, at] + e[:, at] - local[:, j] / own[j, j], s, low)
            new = s * grid.levels[q[:, at]] - low - w[:, at]
            local += (new - e[:, at])[:, None] * own[j]
            e[:, at] = new
        change = e[:, cut] - start
        g += change @ h[cut]
    whole = slice(0, grid.values)
    u = grid.levels[q] * np.repeat(scales, sub, axis=1).astype(F32)
    new = half(d - ratio(dot(g, u), dot(u @ h, u)))
    move(whole, (new - d)[:, None] * u)
    d = new
    if grid.offset:
        u = np.repeat(mins, sub, axis=1).astype(F32)
        new = half(m + ratio(dot(g, u), dot(u @ h, u)))
        move(whole, (m - new)[:, None] * u)
        m = new
    return type(f)(q, d, m, scales, mins)
