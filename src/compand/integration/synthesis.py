"""Calibration inputs for nets with batch norm, made from what the norms remember of their data, where no picture is at hand (ZeroQ)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import InputError

RATE = 0.1  # of Adam, falling to 0 by a cosine


def synthesise(model, shape: Sequence[int], count: int = 64, *, run: Callable[[Any], Any] | None = None,
               bounds: tuple[float, float] = (-1.0, 1.0), steps: int = 100, batch: int = 16, swing: bool = False, seed: int = 0,
               progress: Callable[[int, int, str], None] | None = None) -> list[Any]:
    """Batches of inputs whose statistics at each batch norm of a torch model (eval mode) are those that it keeps: float32 (n, *shape).

    Parameters
    ----------
    shape : of one input, as (channels, h, w)
    run : called with a batch, runs the model; default: the model itself
    bounds : of the values of inputs, as those of black and white pixels
    steps : of Adam, for each batch
    swing : strided convolutions see inputs that are moved by less than their stride, at random in each step (GENIE's swing convolution)

    From noise, gradients of the inputs take (mean - m)² + (σ - √v)² down, its mean over the channels of a norm summed over all norms,
    where m and v are what the norm keeps (Cai et al., ZeroQ, 2020; Jeon et al., GENIE, 2023). Norms must not be folded yet. The same seed
    gives the same inputs on the same machine. Raises `InputError` if there are no norms with statistics.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).eval()
    >>> [tuple(x.shape) for x in synthesise(net, (3, 16, 16), 5, batch=4, steps=4)]
    [(4, 3, 16, 16), (1, 3, 16, 16)]
    """
    import torch

    norms = [m for m in model.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) and m.running_mean is not None]
    if not norms:
        raise InputError(f"{type(model).__name__} has no batch norm whose statistics inputs could be made from; give pictures to fit it to")
    random, lost = torch.Generator().manual_seed(seed), []

    def see(norm, args):
        x = args[0]
        var, mean = torch.var_mean(x, [i for i in range(x.ndim) if i != 1], correction=0)
        sigma, kept = (var + norm.eps).sqrt(), (norm.running_var + norm.eps).sqrt()
        lost.append((mean - norm.running_mean).square().mean() + (sigma - kept).square().mean())

    hooks = [m.register_forward_pre_hook(see) for m in norms]
    if swing:
        strided = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and max(m.stride) > 1]
        hooks += [m.register_forward_pre_hook(lambda m, args: (_moved(args[0], m.stride, random),)) for m in strided]
    low, high = bounds
    fixed = [p for p in model.parameters() if p.requires_grad]
    found = []
    try:
        for p in fixed:
            p.requires_grad_(False)
        for at in range(0, count, batch):
            x = (torch.randn(min(batch, count - at), *shape, generator=random) / 2).requires_grad_()
            optimizer = torch.optim.Adam([x], RATE)
            cooled = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
            for step in range(steps):
                if progress:
                    progress(at * steps + step * len(x), count * steps, "synthesise")
                lost.clear()
                with torch.enable_grad():
                    (run or model)(_within(x, low, high))
                    torch.stack(lost).sum().backward()
                optimizer.step(), cooled.step(), optimizer.zero_grad()
            found.append(_within(x.detach(), low, high))
    finally:
        for hook in hooks:
            hook.remove()
        for p in fixed:
            p.requires_grad_()
    return found


def _within(x, low: float, high: float):
    return (low + high) / 2 + (high - low) / 2 * x.tanh()


def _moved(x, stride: tuple[int, ...], random):
    """x (n, c, h, w) moved by up to a stride less one in each direction; what comes in at the borders is mirrored."""
    import torch

    most = [min(s, side) - 1 for s, side in zip(stride, x.shape[-2:], strict=True)]
    down, across = (int(torch.randint(0, 2 * m + 1, (1,), generator=random)) for m in most)
    padded = torch.nn.functional.pad(x, [most[1], most[1], most[0], most[0]], mode="reflect")
    return padded[..., down:down + x.shape[-2], across:across + x.shape[-1]]
