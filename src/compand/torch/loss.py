"""Losses and heads for encoders whose vectors will be searched compressed. Each is a drop-in `torch.nn.Module`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError


class Matryoshka(nn.Module):
    """Any loss of embeddings, on their first m columns for each m of ``dims``: the first columns then stand for the whole.

    Parameters
    ----------
    loss : callable
        Takes embeddings (n, d), and whatever else; e.g. ``lambda a, b: nn.CrossEntropyLoss()(a @ b.T / 0.05, torch.arange(len(a)))``.
    dims : sequence of int
        Widths to serve, such as (32, 64, 128, 384).
    weights : sequence of float
        Of each width; default 1.
    normalize : bool
        Give the cut embeddings length 1 again.

    ``forward(*embeddings, **rest)`` cuts the positional arguments. Kusupati et al., Matryoshka representation learning (2022).

    >>> a = F.normalize(torch.randn(4, 8), dim=1)
    >>> Matryoshka(lambda a, b: (a - b).square().mean(), (2, 8))(a, a).item()
    0.0
    """

    def __init__(self, loss: Callable[..., Tensor], dims: Sequence[int], weights: Sequence[float] | None = None, normalize: bool = True):
        super().__init__()
        self.loss, self.dims, self.normalize = loss, tuple(dims), normalize
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.dims)
        if not self.dims or min(self.dims) < 1 or len(self.weights) != len(self.dims):
            raise InputError(f"dims must be widths of 1 or more, with a weight for each if weights are given; got {dims} and {weights}")

    def forward(self, *embeddings: Tensor, **rest: Any) -> Tensor:
        total = embeddings[0].new_zeros(())
        for m, weight in zip(self.dims, self.weights, strict=True):
            if m > embeddings[0].shape[-1]:
                raise InputError(f"dims has {m}, the embeddings have {embeddings[0].shape[-1]} columns")
            cut = [e[..., :m] for e in embeddings]
            total = total + weight * self.loss(*([F.normalize(e, dim=-1) for e in cut] if self.normalize else cut), **rest)
        return total / sum(self.weights)


class MatryoshkaHead(nn.Module):
    """Logits of ``classes`` from the first m columns for each m of ``dims``: a list of (n, classes).

    ``shared``: one weight matrix, whose first columns serve the narrow ones (MRL-E); else one for each. Kusupati et al. (2022).

    >>> [x.shape for x in MatryoshkaHead((2, 8), 5)(torch.randn(3, 8))]
    [torch.Size([3, 5]), torch.Size([3, 5])]
    """

    def __init__(self, dims: Sequence[int], classes: int, shared: bool = True):
        super().__init__()
        self.dims, self.shared = tuple(dims), shared
        widths = (max(self.dims),) if shared else self.dims
        self.heads = nn.ModuleList(nn.Linear(m, classes) for m in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.shared:
            head = self.heads[0]
            return [F.linear(x[..., :m], head.weight[:, :m], head.bias) for m in self.dims]  # type: ignore[index]
        return [head(x[..., :m]) for m, head in zip(self.dims, self.heads, strict=True)]


class DecoupledSoftmax(nn.Module):
    """-log softmax of each positive against the negatives only: other positives of the same query do not compete.

    ``forward(scores (q, n), positive (q, n) bool)`` → mean over positives. With one positive a query it is the usual softmax loss;
    with more, that one pushes confident positives down in favour of others. Queries without positives count nothing.
    Gupta et al., Dual-encoders for extreme multi-label classification (2024).

    >>> round(DecoupledSoftmax(1.0)(torch.tensor([[5.0, 5.0, -9.0]]), torch.tensor([[True, True, False]])).item(), 4)
    0.0
    """

    def __init__(self, temperature: float = 0.05):
        super().__init__()
        self.temperature = temperature

    def forward(self, scores: Tensor, positive: Tensor) -> Tensor:
        positive = _mask(scores, positive)
        s = scores / self.temperature
        others = torch.logsumexp(s.masked_fill(positive, -torch.inf), dim=1, keepdim=True)
        return _mean(F.softplus(others - s), positive)


class SoftTopK(nn.Module):
    """-log of the soft probability that each positive is among the k best.

    The probabilities are sigmoid(s + t), with the threshold t of each query such that they sum to k; gradients pass through t.
    ``forward(scores (q, n), positive (q, n) bool)`` → mean over positives. Raises `InputError` unless 0 < k < n. Gupta et al. (2024).

    >>> p = SoftTopK(2).probabilities(torch.tensor([[0.9, 0.8, 0.1, 0.0]]))
    >>> round(p.sum().item(), 4), bool((p[0, :2] > 0.9).all())
    (2.0, True)
    """

    def __init__(self, k: int, temperature: float = 0.05):
        super().__init__()
        self.k, self.temperature = k, temperature

    def probabilities(self, scores: Tensor) -> Tensor:
        """(q, n) in (0, 1), each row summing to k."""
        return torch.sigmoid(self._logits(scores))

    def _logits(self, scores: Tensor) -> Tensor:
        if not 0 < self.k < scores.shape[1]:
            raise InputError(f"k={self.k} of {scores.shape[1]} candidates; it must be between")
        s = scores / self.temperature
        with torch.no_grad():
            low, high = -s.amax(1, keepdim=True) - 60, -s.amin(1, keepdim=True) + 60
            for _ in range(60):
                middle = (low + high) / 2
                many = torch.sigmoid(s + middle).sum(1, keepdim=True) > self.k
                low, high = torch.where(many, low, middle), torch.where(many, middle, high)
            t = (low + high) / 2
            slope = torch.sigmoid(s + t)
            slope = (slope * (1 - slope)).sum(1, keepdim=True).clamp_min(1e-12)
        rest = torch.sigmoid(s + t).sum(1, keepdim=True) - self.k
        return s + t - (rest - rest.detach()) / slope  # the value is t; the gradient is that of the equation that defines t

    def forward(self, scores: Tensor, positive: Tensor) -> Tensor:
        positive = _mask(scores, positive)
        return _mean(F.softplus(-self._logits(scores)), positive)


class CentroidTriplet(nn.Module):
    """Nearer, by a margin, to the centroid of one's own class (without oneself) than to the nearest centroid of another.

    ``forward(x (n, d), labels (n,))`` → mean over rows that share their class with another row of the batch, of squared distances;
    0 where there are none, or a single class. Wieczorek et al., On the unreasonable effectiveness of centroids (2021).

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> CentroidTriplet(0.3)(x, torch.tensor([7, 7, 3, 3])).item()
    0.0
    """

    def __init__(self, margin: float = 0.3):
        super().__init__()
        self.margin = margin

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        classes, own = torch.unique(labels, return_inverse=True)
        count = torch.bincount(own, minlength=len(classes)).to(x.dtype)
        sums = torch.zeros(len(classes), x.shape[1], dtype=x.dtype, device=x.device).index_add(0, own, x)
        with_others = count[own] > 1
        if len(classes) < 2 or not bool(with_others.any()):
            return x.sum() * 0
        near = (x - (sums[own] - x) / (count[own] - 1).clamp_min(1)[:, None]).square().sum(1)
        far = torch.cdist(x, sums / count[:, None]).square().scatter(1, own[:, None], torch.inf).amin(1)
        return F.relu(near - far + self.margin)[with_others].mean()


class PartialRanking(nn.Module):
    """Rank hard candidates as a teacher does, by contrast: each against those that the teacher puts below, and against all easy ones.

    ``forward(scores (q, n), teacher (q, n))`` → mean over ranked candidates of -log softmax(score | itself, lower ones, easy ones).
    Candidates are easy, and not ranked, where the teacher's score is below ``least`` or not known (-inf or NaN): only the order of hard
    ones says something. Give the positive the highest teacher score, and this is the contrastive loss plus the ranking. The
    scale of the teacher's scores has no effect. Chen et al., How to make cross encoder a good teacher (CPRD, 2024).

    >>> scores, teacher = torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[3.0, 2.0, -torch.inf]])
    >>> PartialRanking()(scores, teacher).item() < PartialRanking()(scores, teacher[:, [1, 0, 2]]).item()
    True
    """

    def __init__(self, temperature: float = 0.05, least: float = -torch.inf):
        super().__init__()
        self.temperature, self.least = temperature, least

    def forward(self, scores: Tensor, teacher: Tensor) -> Tensor:
        if teacher.shape != scores.shape:
            raise InputError(f"teacher {list(teacher.shape)} must be as scores {list(scores.shape)}")
        hard = (teacher > -torch.inf) & (teacher >= self.least)  # NaN is neither
        order = torch.argsort(teacher.masked_fill(~hard, -torch.inf), dim=1, descending=True, stable=True)
        s = torch.gather(scores / self.temperature, 1, order)
        below = torch.flip(torch.logcumsumexp(torch.flip(s, (1,)), dim=1), (1,))
        return _mean(below - s, torch.gather(hard, 1, order))


class Simplex(nn.Module):
    """Logits against the corners of a regular simplex that never move: encoders trained against it, in whatever order, are compatible.

    Parameters
    ----------
    d : int
        Columns of the embeddings; there are d + 1 corners, all at angles of arccos(-1/d).
    scale : float
        Of cosines.

    Class i is corner i, also for a class that comes later and an encoder that is trained anew; so vectors of a new encoder find
    those of an old one. Pernici et al., Regular polytope networks (2021); Biondi et al., Stationary representations (2024).

    >>> corners = Simplex(3).corners
    >>> corners.shape, [round(v, 4) for v in (corners @ corners.T)[0].tolist()]
    (torch.Size([4, 3]), [1.0, -0.3333, -0.3333, -0.3333])
    """

    corners: Tensor

    def __init__(self, d: int, scale: float = 16.0):
        super().__init__()
        self.scale = scale
        root = (d + 1) ** 0.5
        corners = torch.eye(d, dtype=torch.float64) * (1 + 1 / d) ** 0.5 - (root + 1) / d**1.5
        self.register_buffer("corners", torch.cat([corners, torch.full((1, d), d**-0.5, dtype=torch.float64)]).float())

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (n, d) → logits (n, d + 1) for a cross entropy."""
        return self.scale * F.normalize(x, dim=-1) @ self.corners.T.to(x.dtype)


def _mask(scores: Tensor, positive: Tensor) -> Tensor:
    if positive.shape != scores.shape or scores.ndim != 2:
        raise InputError(f"scores and positive must both be (queries, candidates), not {list(scores.shape)} and {list(positive.shape)}")
    return positive.bool()


def _mean(loss: Tensor, kept: Tensor) -> Tensor:
    """The mean of what is kept; 0, with a gradient of 0, if nothing is."""
    return torch.where(kept, loss, torch.zeros_like(loss)).sum() / kept.sum().clamp_min(1)
