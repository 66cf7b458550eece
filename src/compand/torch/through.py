"""Codebooks that are a learnt function of frozen codewords."""

from __future__ import annotations

import torch
from torch import nn

from ..stage import Form, Stage
from .recipe import Recipe


class Through(nn.Module):
    """A codebook as a learnt function of frozen codewords: SimVQ (linear), VQGAN-LC (mlp), LR²VQ (identity plus low rank).

    The function works on codewords in units of the vectors they stand for: less their mean, times the inverse root of their covariance,
    and back by the mean and root that vectors have now. An optimizer moves weights by its learning rate whatever their gradient, so a
    map could not follow latents whose spread grows tenfold in a few hundred steps, as those of a new encoder do, nor learn
    that they lie near a line: with the spread of each feature alone, codewords of photographs stayed off it, at 160 times the error of
    k-means.
    """

    frame: torch.Tensor

    def __init__(self, leaf: Stage, dim: int, recipe: Recipe):
        super().__init__()
        self.m, size = getattr(leaf, "m", 1), leaf.state(Form(1, dim))["codebook_"].shape[-1]
        self.register_buffer("frame", torch.zeros(self.m, 1 + size, size))  # mean and covariance when the codewords were frozen
        if recipe.through == "mlp":
            layers = [nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size)]
        elif recipe.rank:
            layers = [nn.Linear(size, recipe.rank, bias=False), nn.Linear(recipe.rank, size)]
        else:
            layers = [nn.Linear(size, size)]
        self.f = nn.Sequential(*layers)
        nn.init.zeros_(layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, frozen: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
        """Codewords, m codebooks of which are frozen, → codewords as frozen, the same at first; ``now`` as `frame`, (m, 1 + size, size)."""
        if not self.frame[:, 1:].any():
            return frozen + self.f(frozen)
        unit = frozen.reshape(self.m, -1, frozen.shape[-1]) - self.frame[:, :1]
        unit = torch.linalg.solve_triangular(_root(self.frame), unit.mT, upper=False).mT
        return (now[:, :1].float() + (unit + self.f(unit)) @ _root(now).mT).reshape(frozen.shape)


def _root(frame: torch.Tensor) -> torch.Tensor:
    """The lower triangular root of covariances (m, size, size), with a millionth of their mean variance in every direction."""
    covariance = frame[:, 1:].double()
    mean = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)[:, None, None]
    return torch.linalg.cholesky(covariance + 1e-6 * mean * torch.eye(covariance.shape[1]).to(covariance)).float()
