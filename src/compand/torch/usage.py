"""Losses on how codes are used: even bits, bits drawn by chance, parts that tell different things."""

from __future__ import annotations

import torch

SLOPE = 4.0  # of the logistic curve, in standard deviations of x


def chance(x: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """The probability (n, d) that the sign of x (n, d) with this variance is +: Bernoulli latents (Raiko 2014, eq. 5)."""
    return torch.sigmoid(SLOPE * x / power.sqrt())


def draw(x: torch.Tensor, power: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Signs drawn by `chance`: bool (n, d)."""
    return torch.rand(x.shape, generator=generator).to(x.device) < chance(x, power)


def even_bits(x: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """Each value sure of its sign, each sign as frequent as the other: entropies of single bits, in nats, from -log 2 to log 2.

    The entropy loss of LFQ (Yu 2023, eq. 4) factorises into its bits, so nothing of size 2^d is made.

    >>> even_bits(torch.tensor([[9.0, 9.0], [-9.0, 9.0]]), torch.tensor(1.0)).round(decimals=3)
    tensor(-0.3470)
    """
    p = chance(x, power)
    return _entropy(p).mean() - _entropy(p.mean(0)).mean()


def entangled(y: torch.Tensor, m: int, power: torch.Tensor) -> torch.Tensor:
    """Mean squared inner product of the m parts of rows y (n, d), two by two, in units of their variance (FQGAN, Bai 2024, eq. 5).

    >>> entangled(torch.tensor([[1.0, 0.0, 0.0, 2.0]]), 2, torch.tensor(1.0)).item()
    0.0
    """
    if m < 2:
        return y.new_zeros(())
    d = y.shape[1]
    parts = torch.nn.functional.pad(y, (0, -d % m)).reshape(len(y), m, -1) / (power.sqrt() * (d / m))
    gram = (parts @ parts.mT).square()
    return (gram.sum((1, 2)) - gram.diagonal(dim1=1, dim2=2).sum(1)).mean() / (m * (m - 1))


def _entropy(p: torch.Tensor) -> torch.Tensor:
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (-p).log1p())
