"""Codebooks that follow the data: moving averages of the rows that chose each codeword, and new life for those nobody chooses."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from .. import _native
from ..array import to_numpy
from ..errors import SpecError
from ..fit.balance import Prices, evict
from ..quantizer.dynamic import Dynamic
from ..quantizer.pq import PQ
from ..quantizer.vq import VQ
from ..stage import Stage

SETTLED = 1024  # rows whose mean and spread are trusted half
HASTE = 2.0     # of the window of moving means, as codewords lag or do not
LONGEST = 1024  # batches that it reaches back over, at most, so that it can shrink again
SOME = 4096     # codewords moved at a time
BORN = 2.0      # rows that a codeword just put on a row is the mean of


def has_codebook(stage: Stage) -> bool:
    """Whether the fitted array of this stage is a table of vectors that rows choose from."""
    return isinstance(stage, (VQ, PQ, Dynamic))


def seen(stage: Stage, x: np.ndarray, parts: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vectors (v, size) float32 that stage codes in rows x (n, d), which of all its codewords each chose, (v,) uint32, and its
    squared error, (v,) float32."""
    if isinstance(stage, Dynamic):
        v = stage.runs(x, to_numpy(parts["grain"]))
    else:
        v = stage._cut(x) if isinstance(stage, VQ) else stage._padded(x).reshape(len(x) * stage.m, -1)
    ids = chosen(stage, parts, x.shape[1])
    gap = v - np.asarray(stage.codebook_, np.float32).reshape(-1, v.shape[1])[ids]
    return v, ids, np.einsum("ij,ij->i", gap, gap)


def chosen(stage: Stage, parts: dict, d: int) -> np.ndarray:
    """Which of all the codewords of stage the vectors of rows of d values chose: (v,) uint32."""
    ids = (stage.ids(parts, d) if isinstance(stage, Dynamic) else to_numpy(parts["ids"])).astype(np.uint32)
    if isinstance(stage, PQ):
        ids += np.arange(stage.m, dtype=np.uint32) * np.uint32(stage.k)
    return ids.reshape(-1)


def apart(words: np.ndarray, rng: np.random.Generator) -> None:
    """Moves repeated codewords (k, size) off each other, in place, about as far as different ones lie: if frozen, they never would."""
    unique, inverse = np.unique(words, axis=0, return_inverse=True)
    if len(unique) in (1, len(words)):
        return
    far = np.empty(len(unique))
    for one, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        far[one] = _native.nearest_distances(np.ascontiguousarray(unique[one]), np.ascontiguousarray(unique[other]))[1]
    again = np.setdiff1d(np.arange(len(words)), np.unique(inverse.reshape(-1), return_index=True)[1])
    step = np.sqrt(far[inverse.reshape(-1)[again]] / words.shape[1])
    words[again] += (step[:, None] * rng.standard_normal((len(again), words.shape[1]))).astype(np.float32)


def balanced(stage: Stage, x: np.ndarray, prices: torch.Tensor, capacity: float, rounds: int) -> np.ndarray:
    """Ids (n, m) uint32 of rows x (n, d), no codeword with more than so many even shares of them (rounded up).

    ``prices`` (3, m, k) float64 are those of `compand.fit.balance.Prices`; they go on from here, the same in all processes. What they
    leave too full is emptied by `evict`.
    """
    if isinstance(stage, Dynamic):
        raise SpecError(f"balance is for vq and pq, not {stage}")
    v = stage._cut(x) if isinstance(stage, VQ) else stage._padded(x)
    words = np.asarray(stage.codebook_, np.float32)
    words = words.reshape(prices.shape[1], -1, words.shape[-1])
    cut, found = v.reshape(-1, len(words), words.shape[2]), []
    for j, own in enumerate(words):
        dual = Prices(*prices[:, j].numpy(force=True).copy(), capacity, reduce)
        begun = bool(dual.price.any())
        own_rows = np.ascontiguousarray(cut[:, j])
        ids = dual.assign(own_rows, own, rounds if begun else 8 * rounds)[0]
        found.append(evict(own_rows, own, ids, int(np.ceil(capacity * len(own_rows) / len(own)))))
        if dual.step is not None:
            prices[:, j] = torch.from_numpy(np.stack([dual.price, dual.step, dual.last]))
    return np.stack(found, 1).reshape(len(x), -1)


def statistics(seen, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums (k, size), counts (k,) and squared errors (k,), float64, of the vectors of each id, over all processes."""
    found = _native.cluster_sums(np.ascontiguousarray(seen.vectors), seen.ids, k, None, seen.far)
    sums, counts, errors = (reduce(a) for a in found)
    return sums, counts, errors


def spread(x: np.ndarray) -> float:
    """The mean over columns of the variance of rows x (n, d) float32; the same on any number of threads.

    >>> spread(np.float32([[1, 5], [3, 5]]))
    0.5
    """
    x = x - x[:1]
    sums, _, squares = _native.cluster_sums(x, np.zeros(len(x), np.uint32), 1, None, np.einsum("ij,ij->i", x, x))
    return max(float(squares[0] - np.square(sums).sum() / len(x)), 0.0) / x.size


def together() -> bool:
    """Whether several processes train."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def reduce(a: np.ndarray, mean: bool = False) -> np.ndarray:
    """The sum (or mean) of this array over all processes."""
    if not together():
        return a
    t = torch.from_numpy(np.array(a))
    dist.all_reduce(t)
    return (t / dist.get_world_size() if mean else t).numpy()


def gather(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, evenly spaced, of each process, in the order of processes; the same number from each."""
    rows = np.ascontiguousarray(rows[::max(1, -(-len(rows) // most))])
    if not together():
        return rows
    least = torch.tensor(len(rows))
    dist.all_reduce(least, dist.ReduceOp.MIN)
    t = torch.from_numpy(rows[:int(least)].copy())
    found = [torch.empty_like(t) for _ in range(dist.get_world_size())]
    dist.all_gather(found, t)
    return torch.cat(found).numpy()


def refresh(words: np.ndarray, mass: np.ndarray, step: np.ndarray, sums: np.ndarray, counts: np.ndarray, window: float,
            least: float) -> float:
    """Moves codewords (k, size) to the means of the rows of the last ``window`` batches, in place; the next window.

    ``mass`` (k,) are the rows that each is the mean of, ``step`` (k, size) where the rows of its last batch lay from it: van den Oord
    (2017), appendix A.1. The window is as long as the data allow: where rows lie on the same side of a codeword batch after batch,
    codewords lag and it shrinks, down to ``least``; where they lie now here, now there, what is left is noise, and it
    grows (adaptive smoothing, Trigg & Leach 1967). So codewords keep up with an encoder that learns fast, and become means of
    many rows when it settles.
    """
    chosen = np.flatnonzero(counts)
    gap = sums[chosen] / counts[chosen, None] - words[chosen]
    new, old = (gap * np.sqrt(counts[chosen])[:, None]).astype(np.float32), step[chosen]
    both = old.any(1)
    scale = np.sqrt(np.square(new[both], dtype=np.float64).sum() * np.square(old, dtype=np.float64).sum())
    if scale > 0:
        lag = float((new * old).sum(dtype=np.float64)) / scale
        window = min(max(least, window * np.exp(-HASTE * lag)), max(least, LONGEST))
    step[chosen] = new
    mass *= 1 - 1 / window
    mass += counts
    words[chosen] += ((counts[chosen] / mass[chosen])[:, None] * gap).astype(np.float32)
    return window


def follow(words: np.ndarray, frame: np.ndarray, v: np.ndarray) -> None:
    """Moves codewords (k, size), used or not, as the vectors v (n, size) of the batch have moved and spread; both in place.

    ``frame`` (2, size) float64 holds moving means and variances, zeros before the first batch. Without this, codewords that are
    chosen rarely fall behind an encoder that learns: the affine parameterisation of Huh et al. (2023), by statistics.
    """
    sums = reduce(np.concatenate([[[len(v)] * v.shape[1]], [v.sum(0, dtype=np.float64)], [np.square(v, dtype=np.float64).sum(0)]]))
    mean = sums[1] / sums[0]
    new = np.stack([mean, np.maximum(sums[2] / sums[0] - mean * mean, 0)])
    if frame[1].any():
        new = frame + sums[0] / (sums[0] + SETTLED) * (new - frame)
        scale = np.where(frame[1] > 0, np.sqrt(np.clip(new[1] / np.where(frame[1] > 0, frame[1], 1), 0.25, 4.0)), 1)
        for at in range(0, len(words), SOME):  # float64 of all of a large codebook would be most of the memory
            words[at:at + SOME] = (words[at:at + SOME] - frame[0]) * scale + new[0]
    frame[:] = new


def bend(covariance: np.ndarray, v: np.ndarray) -> None:
    """Moves a moving covariance (size, size) float64, zeros before the first batch, by the vectors v (n, size) of a batch, in place."""
    v = v.astype(np.float64)
    sums = reduce(np.concatenate([[np.full(v.shape[1], len(v))], [v.sum(0)], v.T @ v]))
    mean = sums[1] / sums[0]
    new = sums[2:] / sums[0] - mean * mean[:, None]
    covariance += (sums[0, 0] / (sums[0, 0] + SETTLED) if covariance.any() else 1.0) * (new - covariance)


def revive(words: np.ndarray, use: np.ndarray, error: np.ndarray, rows: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Moves codewords that are used less than ``share`` of an even use, and save little error, to rows; which ones.

    A codeword that few rows choose may still be worth its place, when those rows are far from the others: only those whose
    rows make less than ``share`` of an even part of the error as well are moved (utility, Patane & Russo 2001). The rows are
    drawn by their distance from their codeword, between by number (distance⁰) and by error (distance², k-means++, Arthur 2007): so
    both the many and the far get codewords. The use and error of those moved become even.
    """
    even, fair = use.mean(), error.mean()
    dead = np.flatnonzero((use < share * even) & (error <= share * fair))
    if len(dead) and len(rows):
        dead = dead[np.argsort(use[dead], kind="stable")][:len(rows)]
        far = np.sqrt(_native.nearest_distances(np.ascontiguousarray(rows), np.ascontiguousarray(words))[1].astype(np.float64))
        order = np.argsort(-np.log1p(-rng.random(len(rows))) / np.maximum(far, 1e-30), kind="stable")
        words[dead] = rows[order[:len(dead)]]
        use[dead], error[dead] = even, fair
        return dead
    return dead[:0]
