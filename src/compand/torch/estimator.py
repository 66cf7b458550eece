"""Gradient estimators: what is differentiated in place of the jump from x to its reconstruction y."""

from __future__ import annotations

import torch

TINY = 1e-12


def estimate(kind: str, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """An array near y (n, d) whose gradient reaches x (n, d) as ``kind`` says; its value is y, except for noise and diveq.

    >>> x = torch.tensor([[0.4, 2.0]], requires_grad=True)
    >>> out = estimate("straight", x, x.detach().round())
    >>> out.sum().backward(); out.tolist(), x.grad.tolist()
    ([[0.0, 2.0]], [[1.0, 1.0]])
    """
    if kind in ("none", "gumbel", "soft", "bernoulli") or (not x.requires_grad and kind not in ("noise", "diveq")):
        return y
    return _KINDS[kind](x, y, generator)


class _Straight(torch.autograd.Function):
    """y, and the same gradient for x and y."""

    @staticmethod
    def forward(ctx, x, y):
        return y.view_as(y)

    @staticmethod
    def backward(ctx, g):
        return g, g


class _Masked(torch.autograd.Function):
    """y; the gradient of x is that of y where ``open`` holds."""

    @staticmethod
    def forward(ctx, x, y, open_):
        ctx.save_for_backward(open_)
        return y.view_as(y)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], g, None


class _Rotation(torch.autograd.Function):
    """y = |y|/|x| R x, with the rotation R from x's direction e to y's direction f held constant.

    R = I - 2 r rᵀ + 2 f eᵀ with r the direction of e + f (Fifty 2024, eq. 4); the gradient of x is |y|/|x| Rᵀ g.
    """

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        return y.view_as(y)

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        nx, ny = (torch.linalg.vector_norm(a, dim=1, keepdim=True) for a in (x, y))
        f = y / ny.clamp_min_(TINY)
        along = (g * f).sum(1, keepdim=True).mul_(2)
        e = x / nx.clamp_min_(TINY)
        f += e                                                                  # r, not of length 1 yet
        length = torch.linalg.vector_norm(f, dim=1, keepdim=True).clamp_min_(TINY).square_()
        across = (g * f).sum(1, keepdim=True).mul_(-2).div_(length)
        return (e.mul_(along).add_(g).addcmul_(f, across)).mul_(ny.div_(nx)), g


def _noise(x, y, generator):
    """x plus an error of the right length in a random direction: differentiable in x and in the codewords."""
    v = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return x + (x - y).norm(dim=1, keepdim=True) * v / v.norm(dim=1, keepdim=True).clamp_min(TINY)


def _diveq(x, y, generator, sigma: float = 0.03):
    """Like noise, but the direction is that of the error, jittered."""
    gap = (y - x).detach()
    v = gap + sigma * gap.norm(dim=1, keepdim=True) * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return x + (y - x).norm(dim=1, keepdim=True) * v / v.norm(dim=1, keepdim=True).clamp_min(TINY)


def _trust(x, y, generator):
    """Straight where the error is within twice its own root mean square: values beyond the grid get no gradient."""
    gap = (x - y).detach().abs()
    return masked(x, y, gap <= 2 * gap.square().mean().sqrt())


def _clip(x, y, generator):
    """Straight inside the range of the reconstruction."""
    return masked(x, y, (x.detach() <= y.detach().max()) & (x.detach() >= y.detach().min()))


def masked(x: torch.Tensor, y: torch.Tensor, open_: torch.Tensor) -> torch.Tensor:
    """y, whose gradient reaches x where ``open_`` holds."""
    return _Masked.apply(x, y, open_)


_KINDS = {"straight": lambda x, y, _: _Straight.apply(x, y), "rotation": lambda x, y, _: _Rotation.apply(x, y), "noise": _noise,
          "diveq": _diveq, "trust": _trust, "clip": _clip, "lsq": _clip}


def valued(y: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
    """The value of y, exactly, with the gradient of ``path``, an array of the same shape."""
    return _Straight.apply(path, y.detach())


def step_gradient(y: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """y = s · level, with LSQ's gradient for s: level - x / s within half a step, level where x was clipped (Esser 2019, eq. 3).

    ``scale`` broadcasts to x (n, d); ``error`` is |x - y|.
    """
    with torch.no_grad():
        inside = error <= 0.5001 * scale.abs()
        level = (y - torch.where(inside, x, torch.zeros_like(x))) / scale.where(scale != 0, torch.ones_like(scale))
    return valued(y, scale * level)


def damped(a: torch.Tensor, factor: float) -> torch.Tensor:
    """The same values, exactly, with the gradient times ``factor``."""
    return valued(a, a * factor)
