"""Attention scores whose query and key weights are quantized as one product, so that they do not make each other oscillate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..array import to_numpy
from ..codes import Codes
from ..errors import InputError
from .layer import Quantize
from .recipe import Recipe


class QueryKey(nn.Module):
    """Scores of attention, (W_q x)ᵀ (W_k y) / √width of each head, with the product W_qᵀ W_k of a head quantized instead of its factors.

    Where W_q and W_k are rounded apart, a weight of one that jumps between two levels changes the gradient of the other, which jumps in
    turn. Here both stay as they are, train as ever, and only what they make together is rounded (query-key
    reparameterization, OFQ, Liu 2023, section 3.4). Biases are part of the product.

    Parameters
    ----------
    query, key : nn.Linear
        From d features to heads · width; their weights are copied.
    heads : int
    spec : str
        For the rows of the products, (heads · (d + 1), d + 1): more values than the factors have where width < d / 2.
    recipe : Recipe
        As in `compand.torch.prepare`; by default straight-through with the fitted scale learnt.

    ``forward(x (..., n, d), y (..., m, d) = x)`` → scores (..., heads, n, m). `compand.torch.convert` fixes it, bit for bit; `save` and
    `load` know it. Raises `InputError` unless both linear maps have the same shape and heads divide it.

    >>> query, key = nn.Linear(8, 8), nn.Linear(8, 8)
    >>> x = torch.randn(2, 5, 8)
    >>> scores = QueryKey(query, key, heads=2, spec="int:8")(x)
    >>> plain = torch.einsum("bnhw,bmhw->bhnm", *(f(x).reshape(2, 5, 2, 4) for f in (query, key))) / 2
    >>> scores.shape, bool((scores - plain).abs().max() < 0.1)
    (torch.Size([2, 2, 5, 5]), True)
    """

    codes: Codes | None = None
    beside = None

    def __init__(self, query: nn.Linear, key: nn.Linear, heads: int, spec: str = "int:4:group=32", recipe: Recipe | None = None):
        super().__init__()
        if query.weight.shape != key.weight.shape or query.out_features % heads:
            raise InputError(f"query {list(query.weight.shape)} and key {list(key.weight.shape)} must have one shape, whose rows are a "
                             f"multiple of heads={heads}")
        self.heads, self.width = heads, query.out_features // heads
        self.query, self.key = (nn.Parameter(_with_bias(f).reshape(heads, self.width, -1)) for f in (query, key))
        self.weight: nn.Parameter | None = None
        plain = Recipe(estimator="straight", update="gradient", commit=0.0, codebook=0.0)
        self.quantize: Quantize | None = Quantize(spec, query.in_features + 1, recipe or plain)
        self.quantize.watch = False
        self.quantize.fit(self.source().detach())

    def source(self) -> Tensor:
        """The products of all heads, one below the other: (heads · (d + 1), d + 1)."""
        return torch.einsum("hwi,hwj->hij", self.query, self.key).flatten(0, 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        y = x if y is None else y
        product = self.weight if self.weight is not None else self.quantize(self.source()).y  # type: ignore[misc]
        x, y = (torch.cat([a, a.new_ones(*a.shape[:-1], 1)], -1) for a in (x, y))
        product = product.reshape(self.heads, x.shape[-1], x.shape[-1])
        left = torch.einsum("...ni,hij->...hnj", x, product)
        return left @ y.unsqueeze(-3).mT / math.sqrt(self.width)

    @torch.no_grad()
    def convert(self) -> None:
        """Fixes the products as their codes decode to, and lets go of the factors."""
        if self.weight is None:
            assert self.quantize is not None
            self.codes = self.quantize.export().encode(to_numpy(self.source().float()))
            y = torch.from_numpy(self.codes.codec.decode(self.codes))
            self.weight = nn.Parameter(y.to(self.query), requires_grad=False)
            del self.query, self.key, self.quantize
            self.quantize = None


def _with_bias(f: nn.Linear) -> Tensor:
    bias = f.weight.new_zeros(f.out_features) if f.bias is None else f.bias
    return torch.cat([f.weight, bias[:, None]], 1).detach().clone()
