"""Codebooks of vectors: learnt by k-means, searched without ever holding rows × codewords."""

from __future__ import annotations

import numpy as np

from .. import _native
from ..array import array_namespace, is_numpy, like, to_numpy
from ..fit.kmeans import kmeans

SCORES = 1 << 24     # scores held at a time on a device
CODEWORDS = 1 << 14  # codewords scored at a time
SAMPLE = 512         # rows a codeword is learnt from, at most
KEPT = 4             # best codewords of each such pass that are compared exactly


def nearest(x, codebook: np.ndarray):
    """The id of the codeword nearest to each row of x (n, d): (n,) uint32 (int64 in other libraries), ties to the lowest id."""
    if "torch" in type(x).__module__:
        return _nearest_device(x, codebook)
    ids = _native.nearest(np.ascontiguousarray(to_numpy(x), np.float32), np.ascontiguousarray(codebook))
    return ids if is_numpy(x) else like(ids.astype(np.int64), x)


def _nearest_device(x, codebook: np.ndarray):
    """Scores x·c - |c|²/2 pick a few candidates; those are compared by their distances in float64."""
    import torch

    c = like(codebook, x)
    scale = 1 / max(float(np.abs(codebook).max()), 1e-38)  # squares of scaled codewords stay finite
    step = max(1, SCORES // min(len(codebook), CODEWORDS))
    found = []
    for at in range(0, x.shape[0], step):
        rows, candidates = x[at:at + step], []
        scaled = torch.clamp(rows * scale, -1e30, 1e30)
        for first in range(0, len(codebook), CODEWORDS):
            some = c[first:first + CODEWORDS] * scale
            score = scaled @ some.T - (some * some).sum(1) / 2
            candidates.append(torch.topk(score, min(KEPT, len(some)), dim=1).indices + first)
        ids = torch.sort(torch.cat(candidates, 1), dim=1).values
        best = least = None
        for j in range(ids.shape[1]):
            far = ((rows.double() - c[ids[:, j]].double()) ** 2).sum(1)
            if best is None:
                best, least = ids[:, j], far
            else:
                best, least = torch.where(far < least, ids[:, j], best), torch.minimum(far, least)
        found.append(best)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=x.device)


def learn(x: np.ndarray, k: int, weight: np.ndarray | None = None, seed: int = 0, balanced: bool = False) -> np.ndarray:
    """k codewords of least (weighted) squared error for the rows of x (n, d), (k, d) float32; repeated if rows are fewer.

    ``balanced``: each with about as many rows.
    """
    x = np.ascontiguousarray(x, np.float32)
    if len(x) <= k:
        return np.resize(x, (k, x.shape[1]))
    if len(x) > SAMPLE * k:
        step = -(-len(x) // (SAMPLE * k))
        x, weight = x[::step], None if weight is None else weight[::step]
    top = np.float32(2.0 ** np.frexp(np.abs(x).max())[1]) if x.any() else np.float32(1)
    if weight is not None:
        weight = (weight / weight.max()).astype(np.float32) if weight.any() else None
    return kmeans(x / top, k, weight=weight, seed=seed, balanced=balanced)[0] * top


def rows_weight(weight, shape: tuple[int, int], dims: slice, count: int) -> np.ndarray | None:
    """Weights of vectors that are ``dims`` of each row, ``count`` of them a row: (n · count,) float64."""
    if weight is None:
        return None
    w = np.broadcast_to(to_numpy(weight).astype(np.float64), shape)[:, dims]
    missing = -w.shape[1] % count
    if missing:
        w = np.pad(w, ((0, 0), (0, missing)))
    return np.ascontiguousarray(w.reshape(shape[0], count, -1).mean(2)).reshape(-1)


def take(codebook: np.ndarray, ids):
    """Codewords of ids (any shape) → ids.shape + (d,) float32, in the library of ids."""
    if is_numpy(ids):
        return codebook[ids]
    xp = array_namespace(ids)
    flat = xp.astype(xp.reshape(ids, (-1,)), xp.int64)
    return xp.reshape(xp.take(like(codebook, ids), flat, axis=0), (*ids.shape, codebook.shape[1]))
