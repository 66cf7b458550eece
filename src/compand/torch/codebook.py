"""Codebooks that follow the data: moving averages of the rows that chose each codeword, and new life for those nobody chooses."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from .. import _native
from ..array import to_numpy
from ..quantizer.pq import PQ
from ..quantizer.vq import VQ
from ..stage import Stage


def has_codebook(stage: Stage) -> bool:
    """Whether the fitted array of this stage is a table of vectors that rows choose from."""
    return isinstance(stage, (VQ, PQ))


def vectors(stage: Stage, x: np.ndarray) -> np.ndarray:
    """The vectors (v, size) float32 that stage codes in rows x (n, d)."""
    return stage._cut(x) if isinstance(stage, VQ) else stage._padded(x).reshape(len(x) * stage.m, -1)


def chosen(stage: Stage, ids: np.ndarray) -> np.ndarray:
    """Which codeword of all the codebooks of stage each vector chose: ids (n, m) → (n · m,) uint32."""
    ids = ids.astype(np.uint32)
    if isinstance(stage, PQ):
        ids += np.arange(stage.m, dtype=np.uint32) * np.uint32(stage.k)
    return ids.reshape(-1)


def statistics(v: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums (k, size) and counts (k,) float64 of the vectors of each id, over all processes."""
    sums, counts, _ = _native.cluster_sums(np.ascontiguousarray(v), ids, k, None, None)
    return reduce(sums), reduce(counts)


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


def refresh(words: np.ndarray, use: np.ndarray, sums: np.ndarray, counts: np.ndarray, decay: float) -> None:
    """Moves codewords (k, size) towards the means of their rows and updates their use (k,), both in place.

    With S and N the moving sums and counts, the codeword is S / N: van den Oord (2017), appendix A.1.
    """
    use *= decay
    use += (1 - decay) * counts
    chosen = np.flatnonzero(counts)
    rate = ((1 - decay) * counts[chosen] / use[chosen])[:, None]
    words[chosen] += (rate * (sums[chosen] / counts[chosen, None] - words[chosen])).astype(np.float32)


def revive(words: np.ndarray, use: np.ndarray, rows: np.ndarray, share: float, rng: np.random.Generator) -> int:
    """Moves codewords used less than ``share`` of an even use to rows drawn by chance; how many. Use becomes twice that share."""
    even = use.mean()
    dead = np.flatnonzero(use < share * even)
    if len(dead) and len(rows):
        dead = dead[np.argsort(use[dead], kind="stable")][:len(rows)]
        words[dead] = rows[rng.choice(len(rows), len(dead), replace=False)]
        use[dead] = even
    return len(dead)


def as_rows(x: torch.Tensor) -> np.ndarray:
    """Detached rows as a NumPy view."""
    return to_numpy(x.detach())
