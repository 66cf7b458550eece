"""Soft assignment to codewords, without ever holding rows × codewords: Gumbel-softmax and differentiable k-means."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

SCORES = 1 << 22  # scores held at a time, forward and backward


def assign(x: torch.Tensor, words: torch.Tensor, scale: torch.Tensor, seed: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean codeword (n, d) under softmax(-|x - c|² / scale), and ids (n,) drawn from it (the likeliest if seed is None).

    x (n, d), words (k, d), scale () > 0; differentiable in all three. Chunks of rows are computed again in the backward pass.

    Jang, Gumbel-softmax (2017); Cho, eDKM (2023).

    >>> y, ids = assign(torch.tensor([[0.1], [2.0]]), torch.tensor([[0.0], [2.0]]), torch.tensor(0.01), None)
    >>> ids.tolist(), [round(v, 3) for v in y[:, 0].tolist()]
    ([0, 1], [0.0, 2.0])
    """
    step, found = max(1, SCORES // len(words)), []
    for i, at in enumerate(range(0, len(x), step)):
        found.append(checkpoint(_chunk, x[at:at + step], words, scale, None if seed is None else seed + i, use_reentrant=False))
    y, ids = zip(*found, strict=True) if found else ((x,), (x.new_zeros(0, dtype=torch.int64),))
    return torch.cat(y), torch.cat(ids)


def _chunk(x, words, scale, seed):
    score = (2 * x @ words.T - words.square().sum(1)) / scale
    if seed is not None:
        generator = torch.Generator().manual_seed(seed % (1 << 62))
        score = score - torch.empty(score.shape).exponential_(generator=generator).clamp_min_(1e-30).log().to(x.device)
    return torch.softmax(score, 1) @ words, score.argmax(1)
