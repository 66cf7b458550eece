"""Product codes trained with the encoder, every codeword used equally often."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import InputError


class BalancedProduct(nn.Module):
    """Rows cut into ``parts``, each replaced by one of k codewords that learn with the encoder.

    Parameters
    ----------
    d, parts, k : int
        Columns of rows, a multiple of parts; codewords of a part.
    sharpness : float
        Of the balanced assignment in training, over the spread of distances; more is harder to balance.

    ``forward(x (n, d))`` → quantized rows (n, d), with the straight-through gradient, and the squared error of codewords that
    learn (and pull the rows), a scalar. In training each codeword of a part is given about n / k rows of the batch, by Sinkhorn's
    iterations: codewords that stand in each other's way move apart. In evaluation each row takes its nearest codeword. `ids` are those.
    Zhan et al., Learning discrete representations via constrained clustering (RepCONC, 2022); Sinkhorn 1967.

    >>> y, error = BalancedProduct(8, 2, 4)(torch.randn(32, 8))
    >>> y.shape, error.ndim
    (torch.Size([32, 8]), 0)
    """

    def __init__(self, d: int, parts: int, k: int = 256, sharpness: float = 20.0):
        super().__init__()
        if parts < 1 or d % parts or k < 2:
            raise InputError(f"d={d} must be a multiple of parts={parts}, and k={k} at least 2")
        self.parts, self.k, self.sharpness = parts, k, sharpness
        self.codewords = nn.Parameter(torch.randn(parts, k, d // parts) * d**-0.5)

    def start(self, x: Tensor) -> None:
        """Codewords from rows (n >= k, d) by k-means of each part."""
        from ..fit.kmeans import kmeans

        pieces = x.detach().float().cpu().reshape(len(x), self.parts, -1)
        with torch.no_grad():
            for p in range(self.parts):
                own, _ = kmeans(pieces[:, p].contiguous().numpy(), self.k)
                self.codewords[p] = torch.from_numpy(own).to(self.codewords)

    def _distances(self, x: Tensor) -> Tensor:
        pieces = x.reshape(len(x), self.parts, -1).transpose(0, 1)  # (parts, n, width)
        return torch.cdist(pieces, self.codewords).square()

    def _balanced(self, distances: Tensor) -> Tensor:
        spread = distances.std(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        log = -self.sharpness * distances / spread
        for _ in range(20):  # rows and columns in turn sum to 1 and to n / k
            log = log - log.logsumexp(1, keepdim=True)
            log = log - log.logsumexp(2, keepdim=True)
        return log.argmax(-1)

    def ids(self, x: Tensor) -> Tensor:
        """The nearest codeword of each part: (n, parts) int64."""
        with torch.no_grad():
            return self._distances(x).argmin(-1).T

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            distances = self._distances(x)
            own = self._balanced(distances) if self.training else distances.argmin(-1)
        y = torch.cat([self.codewords[p][own[p]] for p in range(self.parts)], dim=1)
        error = (y - x).square().sum(1).mean()
        return x + (y - x).detach() if not self.training else y + (x - x.detach()), error
