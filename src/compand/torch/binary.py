"""Binary codes learnt on embeddings that stay as they are: residual signs, and codes of a new version that find those of an old one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError


class ResidualBinary(nn.Module):
    """A row of d values as (1 + loops) x bits signs, each set of signs coding what the sets before it left over.

    Parameters
    ----------
    d, bits : int
        Columns of rows, signs of a set.
    loops : int
        Sets after the first.

    ``forward(x (n, d))`` → (n, bits): the sum of the sets, set i times 2^-i, of length 1, with the straight-through gradient.
    `signs` gives the codes, (n, 1 + loops, bits) of ±1. Training: any contrastive loss of such rows. Shan et al., Binary
    embedding-based retrieval at Tencent (BEBR, 2023).

    >>> layer = ResidualBinary(8, 16, loops=1)
    >>> layer(torch.randn(3, 8)).shape, layer.signs(torch.randn(3, 8)).shape
    (torch.Size([3, 16]), torch.Size([3, 2, 16]))
    """

    def __init__(self, d: int, bits: int, loops: int = 1):
        super().__init__()
        if min(d, bits) < 1 or loops < 0:
            raise InputError(f"d={d} and bits={bits} must be 1 or more, loops={loops} not negative")
        self.into = nn.ModuleList(nn.Linear(d, bits) for _ in range(1 + loops))
        self.back = nn.ModuleList(nn.Linear(bits, d) for _ in range(loops))
        for layer in self.into:
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _sets(self, x: Tensor) -> list[Tensor]:
        x = F.normalize(x, dim=-1)
        near, out = torch.zeros_like(x), []
        for i, into in enumerate(self.into):
            y = into(x - near)
            sign = torch.where(y >= 0, 1.0, -1.0).to(y.dtype)
            soft = torch.tanh(y * y.shape[-1] ** 0.5)
            out.append(soft + (sign - soft).detach())
            if i < len(self.back):
                near = F.normalize(near + self.back[i](out[-1]), dim=-1)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(torch.stack([s * 2.0**-i for i, s in enumerate(self._sets(x))]).sum(0), dim=-1)

    def signs(self, x: Tensor) -> Tensor:
        """The codes: (n, 1 + loops, bits) int8, ±1."""
        with torch.no_grad():
            return torch.stack(self._sets(x), dim=-2).round().to(torch.int8)


class Compatible(nn.Module):
    """A contrastive loss among rows of a new version, and ``weight`` times that of new queries with documents of the old version.

    ``forward(queries (n, d), documents (n, d), old_documents (n, d))`` → mean: row i of each belongs to row i, all others are negatives.
    The old ones are constants. So new queries search the old index at once. BEBR (2023), after Shen et al., Towards
    backward-compatible representation learning (2020).

    >>> x = F.normalize(torch.randn(4, 8), dim=1)
    >>> Compatible(weight=0.0)(x, x, -x).item() < Compatible()(x, x, -x).item()
    True
    """

    def __init__(self, temperature: float = 0.05, weight: float = 1.0):
        super().__init__()
        self.temperature, self.weight = temperature, weight

    def forward(self, queries: Tensor, documents: Tensor, old_documents: Tensor) -> Tensor:
        if not queries.shape == documents.shape == old_documents.shape:
            raise InputError("queries, documents and old documents must have the same shape, "
                             f"not {[list(a.shape) for a in (queries, documents, old_documents)]}")
        own = torch.arange(len(queries), device=queries.device)
        new = F.cross_entropy(queries @ documents.T / self.temperature, own)
        return new + self.weight * F.cross_entropy(queries @ old_documents.detach().T / self.temperature, own)
