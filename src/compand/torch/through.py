"""Codebooks that are a learnt function of frozen codewords."""

from __future__ import annotations

import torch
from torch import nn

from ..stage import Form, Stage
from .recipe import Recipe


class Through(nn.Module):
    """A codebook as a learnt function of frozen codewords: SimVQ (linear), VQGAN-LC (mlp), LR²VQ (identity plus low rank)."""

    def __init__(self, leaf: Stage, dim: int, recipe: Recipe):
        super().__init__()
        size = leaf.state(Form(1, dim))["codebook_"].shape[-1]
        if recipe.through == "mlp":
            self.f = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))
            nn.init.zeros_(self.f[2].weight)
            nn.init.zeros_(self.f[2].bias)
        elif recipe.rank:
            self.f = nn.Sequential(nn.Linear(size, recipe.rank, bias=False), nn.Linear(recipe.rank, size))
            nn.init.zeros_(self.f[1].weight)
            nn.init.zeros_(self.f[1].bias)
        else:
            self.f = nn.Linear(size, size)
            nn.init.zeros_(self.f.weight)
            nn.init.zeros_(self.f.bias)

    def forward(self, frozen: torch.Tensor) -> torch.Tensor:
        """Codewords (..., size) → codewords, the same at first."""
        return frozen + self.f(frozen.detach())
