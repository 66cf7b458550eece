"""Soft assignment to codewords, without ever holding rows × codewords: Gumbel-softmax, differentiable k-means, entropy of use."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

SCORES = 1 << 22  # scores held at a time, forward and backward


def soft(x: torch.Tensor, words: torch.Tensor, scale: torch.Tensor, seed: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean codeword (n, d) under softmax(-|x - c|² / scale), and ids (n,) drawn from it (the likeliest if seed is None).

    x (n, d), words (k, d), scale () > 0; differentiable in all three. Chunks of rows are computed again in the backward pass.

    Jang, Gumbel-softmax (2017), eq. 2; Cho, DKM (2022), eq. 2 and 3, and eDKM (2023), which shares and shards the big matrix that is
    never made here.

    >>> y, ids = soft(torch.tensor([[0.1], [2.0]]), torch.tensor([[0.0], [2.0]]), torch.tensor(0.01), None)
    >>> ids.tolist(), [round(v, 3) for v in y[:, 0].tolist()]
    ([0, 1], [0.0, 2.0])
    """
    step, found = max(1, SCORES // len(words)), []
    for i, at in enumerate(range(0, len(x), step)):
        found.append(checkpoint(_chunk, x[at:at + step], words, scale, None if seed is None else seed + i, use_reentrant=False))
    y, ids = zip(*found, strict=True) if found else ((x,), (x.new_zeros(0, dtype=torch.int64),))
    return torch.cat(y), torch.cat(ids)


def entropies(x: torch.Tensor, words: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean entropy of a row's soft assignment, and entropy of the mean assignment, in nats; x (n, d), words (k, d), scale () > 0.

    The first minus the second is the usage entropy loss of MAGVIT-v2 (Yu 2023, eq. 4) for a codebook; both are at most log k.

    >>> own, mean = entropies(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [2.0]]), torch.tensor(0.01))
    >>> round(own.item(), 3), round(mean.item(), 3)
    (0.0, 0.693)
    """
    step, own, mass = max(1, SCORES // len(words)), x.new_zeros(()), x.new_zeros(len(words))
    for at in range(0, len(x), step):
        some, share = checkpoint(_spread, x[at:at + step], words, scale, use_reentrant=False)
        own, mass = own + some, mass + share
    p = mass / max(len(x), 1)
    return own / max(len(x), 1), -(p * p.clamp_min(1e-30).log()).sum()


def _spread(x, words, scale):
    log = torch.log_softmax(_scores(x, words, scale), 1)
    p = log.exp()
    return -(p * log).sum(), p.sum(0)


def _scores(x, words, scale):
    return (2 * x @ words.T - words.square().sum(1)) / scale


def _chunk(x, words, scale, seed):
    score = _scores(x, words, scale)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed % (1 << 62))
        score = score - torch.empty(score.shape).exponential_(generator=generator).clamp_min_(1e-30).log().to(x.device)
    return torch.softmax(score, 1) @ words, score.argmax(1)
