"""Squares of a picture: the lattices they are dealt out by, and those that are missing foretold by the ones around them."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib import resources

import numpy as np

CHUNK = 1 << 14  # squares foretold at once


@lru_cache(64)
def stride(parts: int) -> int:
    """How far the squares of a part move from one row to the next, (column + stride · row) mod parts being the part of a square.

    The least one for which two squares of a part lie farthest apart.

    >>> stride(1), stride(5), stride(16)
    (0, 2, 4)
    """
    def gap(s: int) -> int:
        return min(down * down + min((s * down) % parts, -(s * down) % parts) ** 2 for down in range(1, parts + 1))

    return max(range(parts), key=lambda s: (min(gap(s), parts * parts), -s))


def dealt(down: int, across: int, parts: int) -> np.ndarray:
    """The part (down · across,) that each square of a grid belongs to, row by row."""
    rows = np.arange(down)[:, None] % parts * stride(parts)
    return ((np.arange(across) + rows) % parts).reshape(-1)


def shares(down: int, across: int, parts: int) -> list[int]:
    """How many squares each part holds: the counts of `dealt`, without its array."""
    full, rest = divmod(across, parts)
    total = np.zeros(parts, np.int64)
    for row in range(min(down, parts)):
        own = np.bincount((np.arange(rest) + row * stride(parts)) % parts, minlength=parts)
        total += (full + own) * len(range(row, down, parts))
    return total.tolist()


@cache
def around() -> np.ndarray:
    """(4 · cosines, cosines) int64 in 1/4096: what the cosines of the squares above, below, left and right say of those between them."""
    from ..file import open as open_file

    with open_file(resources.files("compand").joinpath("models", "around.cpd").read_bytes()) as file:
        return file["around"].array().astype(np.int64)


def beside(squares: np.ndarray, down: int, across: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (m, 4) of the squares above, below, left and right of these (m,), and whether they are in the grid; else the square."""
    row, column = np.divmod(squares, across)
    inside = np.stack([row > 0, row < down - 1, column > 0, column < across - 1], 1)
    return np.where(inside, squares[:, None] + np.array([-across, across, -1, 1]), squares[:, None]), inside


def means(values: np.ndarray, gone: np.ndarray, down: int, across: int, flat: tuple[int, ...]) -> np.ndarray:
    """Values (squares, cosines) int64 where missing squares, ``gone`` (squares,), have the mean of cosines number ``flat`` of those of
    the four around that are there, from the rim of a hole inwards, and else 0."""
    out, there = np.where(gone[:, None], 0, values), ~gone
    left = np.flatnonzero(gone) if there.any() else np.zeros(0, np.int64)
    while left.size:
        near, known = beside(left, down, across)
        known &= there[near]
        now = known.any(1)
        near, known = near[now], known[now, :, None]
        mean = (out[near][..., flat] * known).sum(1) // known.sum(1)
        out[left[now, None], flat] = mean
        there[left[now]] = True
        left = left[~now]
    return out


def filled(values: np.ndarray, gone: np.ndarray, down: int, across: int, flat: tuple[int, ...]) -> np.ndarray:
    """As `means`, and then the linear prediction of least squared error from the four around, learnt from photographs."""
    rough = means(values, gone, down, across, flat)
    out, holes = rough.copy(), np.flatnonzero(gone)
    for at in range(0, len(holes), CHUNK):
        some = holes[at:at + CHUNK]
        near, _ = beside(some, down, across)
        out[some] = (rough[near].reshape(len(some), -1) @ around() + 2048) >> 12
    return out
