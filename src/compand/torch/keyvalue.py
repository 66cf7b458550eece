"""Predictions through a few discrete keys, so that what is learnt later does not overwrite what was learnt before."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError


class KeyValue(nn.Module):
    """Frozen features → the nearest of k fixed keys in each of several random projections → the mean of their trainable values.

    Parameters
    ----------
    features : (n, d) array
        Examples, without labels: keys are the k-means centroids of their projections.
    out : int
        Width of values, such as the number of classes.
    heads, k, width : int
        Projections, keys of each, and columns of a projection.

    A row touches ``heads`` values only, so training on one class leaves those of others as they are, in whatever order classes
    come. ``forward(x (n, d))`` → (n, out). Träuble et al., Discrete key-value bottleneck (2023).

    >>> layer = KeyValue(torch.randn(200, 8), out=3, heads=4, k=16, width=4)
    >>> layer(torch.randn(5, 8)).shape
    torch.Size([5, 3])
    """

    keys: Tensor
    projection: Tensor

    def __init__(self, features, out: int, heads: int = 32, k: int = 256, width: int = 8, seed: int = 0):
        super().__init__()
        x = features.detach().cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
        x = np.ascontiguousarray(x, np.float32)
        if x.ndim != 2 or len(x) < k:
            raise InputError(f"keys are learnt from (n, d) features with n >= k={k}, not {list(x.shape)}")
        from ..fit.kmeans import kmeans

        rng = np.random.default_rng(seed)
        projection = rng.standard_normal((heads, x.shape[1], width)).astype(np.float32) / np.float32(x.shape[1] ** 0.5)
        keys = np.stack([kmeans(np.ascontiguousarray(x @ p), k, seed=seed, iterations=10)[0] for p in projection])
        self.register_buffer("projection", torch.from_numpy(projection))
        self.register_buffer("keys", torch.from_numpy(keys))
        self.values = nn.Parameter(torch.zeros(heads, k, out))

    def ids(self, x: Tensor) -> Tensor:
        """The nearest key of each projection: (heads, n) int64."""
        with torch.no_grad():
            return torch.cdist(torch.einsum("nd,hdw->hnw", x.to(self.projection), self.projection), self.keys).argmin(-1)

    def forward(self, x: Tensor) -> Tensor:
        ids = self.ids(x)
        return self.values.gather(1, ids[:, :, None].expand(-1, -1, self.values.shape[2])).mean(0)
