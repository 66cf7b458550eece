"""Low-rank branches beside a quantized weight: LoRA that is quantized with it, that stays beside it, or that fades away."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

Kind = Literal["merged", "beside", "fading"]


class Branch(nn.Module):
    """A product up · down (n, d) of rank r that trains with a weight W (n, d) quantized by Q.

    ============  =================================================================================================
    ``merged``    W is held and Q(W + up · down) computes: LoRA that vanishes into the codes (EfficientDM, He 2024, eq. 6)
    ``beside``    Q is held and Q(W) + up · down computes, from the split that alternates between a quantized part and a
                  singular value decomposition of what it leaves (LQ-LoRA, Guo 2024, algorithm 1)
    ``fading``    Q(W) + up · down computes and both train; `fade` shrinks the weakest directions to nothing until Q(W)
                  is left (QVGen, Huang 2025, section 3.3: rank decay)
    ============  =================================================================================================

    >>> branch = Branch("fading", 2, torch.eye(3), lambda w: w.round())
    >>> branch.fade(1.0); branch.rank
    0
    """

    def __init__(self, kind: Kind, rank: int, weight: torch.Tensor, quantize: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.kind = kind
        rank = min(rank, *weight.shape)
        if kind == "merged":
            up, down = weight.new_zeros(len(weight), rank), torch.randn(rank, weight.shape[1]).to(weight) / math.sqrt(weight.shape[1])
        elif kind == "fading":
            up, down = truncated(weight - quantize(weight), rank)
        else:
            up, down = split(weight, rank, quantize)
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)
        self.register_buffer("gain", weight.new_ones(rank))
        self.register_buffer("phase", torch.zeros((), dtype=torch.int64))

    @property
    def rank(self) -> int:
        """Directions that still count."""
        return int((self.gain > 0).sum())

    def before(self, rows: torch.Tensor) -> torch.Tensor:
        """The weight (n, d) that is quantized."""
        return rows.detach() + self.up @ self.down if self.kind == "merged" else rows

    def after(self, y: torch.Tensor) -> torch.Tensor:
        """The quantized weight and what stands beside it."""
        return y if self.kind == "merged" else y + (self.up * self.gain) @ self.down

    @torch.no_grad()
    def fade(self, progress: float) -> None:
        """Fades the branch to this share of its way: in phases, each of which takes the weaker half of what is left to nothing.

        At the start of a phase the directions are those of the singular value decomposition; within it the weaker ones follow
        a cosine from 1 to 0.
        """
        phases = len(self.gain).bit_length()
        at = min(max(progress, 0.0), 1.0) * phases
        while self.phase <= min(int(at), phases):
            left = len(self.gain) >> int(self.phase)  # directions of this phase
            up, down = truncated((self.up[:, :left] * (self.gain[:left] > 0)) @ self.down[:left], left) if left else (None, None)
            self.gain.zero_()
            if left:
                self.up[:, :left], self.down[:left] = up, down
                self.gain[:left] = 1
            self.phase += 1
        left = len(self.gain) >> (int(self.phase) - 1)
        self.gain[left // 2:left] = 0.5 * (1 + math.cos(math.pi * (at - int(at)))) if progress < 1 else 0.0


def truncated(a: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """up (n, r) and down (r, d) whose product is the best of this rank for a (n, d)."""
    u, s, v = torch.linalg.svd(a.float(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(a), (root[:, None] * v[:rank]).to(a)


def split(weight: torch.Tensor, rank: int, quantize: Callable, rounds: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """up, down such that quantize(W - up · down) + up · down is near W: LQ-LoRA, algorithm 1; stops where the error grows."""
    best, least, product = None, math.inf, torch.zeros_like(weight)
    for _ in range(rounds):
        q = quantize(weight - product)
        up, down = truncated(weight - q, rank)
        error = float((weight - q - up @ down).square().sum())
        if not error < least:
            break
        best, least, product = (up, down), error, up @ down
    return best if best is not None else truncated(weight, rank)
