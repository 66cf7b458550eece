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
    if kind in ("none", "gumbel", "soft") or (not x.requires_grad and kind not in ("noise", "diveq")):
        return y
    return _KINDS[kind](x, y, generator)


def _straight(x, y, generator):
    return _value(y, x - x.detach())


def _rotation(x, y, generator):
    """y = |y|/|x| R x, with the rotation R from x's direction to y's held constant."""
    q = y.detach()
    a, b = x.detach(), q
    na, nb = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    e, f = a / na.clamp_min(TINY), b / nb.clamp_min(TINY)
    r = e + f
    r = r / r.norm(dim=1, keepdim=True).clamp_min(TINY)
    turned = x - 2 * (x * r).sum(1, keepdim=True) * r + 2 * (x * e).sum(1, keepdim=True) * f
    scaled = turned * (nb / na.clamp_min(TINY))
    return _value(y, scaled - scaled.detach())


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
    return _value(y, (x - x.detach()) * (gap <= 2 * gap.square().mean().sqrt()))


def _clip(x, y, generator):
    """Straight inside the range of the reconstruction."""
    inside = (x.detach() <= y.detach().max()) & (x.detach() >= y.detach().min())
    return _value(y, (x - x.detach()) * inside)


def _value(y, zero):
    """y, with the gradient of ``zero``, whose value is 0 exactly."""
    return y + zero


_KINDS = {"straight": _straight, "rotation": _rotation, "noise": _noise, "diveq": _diveq, "trust": _trust, "clip": _clip,
          "lsq": _clip}


def step_gradient(y: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """y = s · level, with LSQ's gradient for s: level - x / s within half a step, level where x was clipped.

    ``scale`` broadcasts to x (n, d); ``error`` is |x - y|. Its size is brought to that of the values' by 1 / sqrt(n · d).
    """
    inside = error <= 0.5001 * scale.detach().abs()
    ratio = torch.where(inside, x / scale.detach().where(scale.detach() != 0, torch.ones_like(scale)), torch.zeros_like(x))
    return _value(y, scale.detach() * ratio - scale * ratio)


def damped(a: torch.Tensor, factor: float) -> torch.Tensor:
    """The same values, exactly, with the gradient times ``factor``."""
    return a.detach() + (a - a.detach()) * factor
