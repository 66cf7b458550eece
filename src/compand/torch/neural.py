"""Training of `neural` codes: codewords and the networks that bend them, step by step, on what the encoder chooses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..array import to_numpy
from ..codec import Codec
from ..errors import FitError, InputError
from ..expression import Chain
from ..quantizer.neural import Neural

NAMES = ("codewords_", "enter_", "context_", "bias_", "leave_")
_SLOWER = 0.05  # codewords are good already; what bends them starts from nothing


def train_neural(codec: Codec, x, *, epochs: float = 4, batch: int = 512, rate: float = 3e-3, tries: int = 4, seed: int = 0,
                 tell: Callable[[int, float], None] | None = None) -> Codec:
    """A fitted codec whose quantizer is ``neural``, trained on rows x (n, d): less squared error in the same bytes.

    Parameters
    ----------
    epochs, batch, rate
        Passes over x, rows of a step, Adam's largest step (it falls to nothing along a cosine).
    tries : int
        Nearest codewords that are tried, bent, for each row of a batch; the best of them learns.
    tell : function
        Called after each batch with its number and the squared error of the last step over that of x.

    Each step learns on the rest that the steps before leave, as they are at that time. Raises `InputError` for a codec without ``neural``
    at its end, `FitError` if it is not fitted. Huijben et al. 2024 (QINCo), without its gradients from later steps to earlier ones.
    """
    stage = codec.stage
    neural = stage.quantizer if isinstance(stage, Chain) else stage
    if not isinstance(neural, Neural):
        raise InputError(f"{codec.spec} has no neural code at its end; use for example klt:192,neural:24")
    if neural.codewords_ is None:
        raise FitError(f"{codec.spec} is not fitted; call fit(x) first")
    rows = np.ascontiguousarray(to_numpy(x), np.float32)
    flow = stage.forward(rows)[0] if isinstance(stage, Chain) else rows
    y = torch.from_numpy(np.ascontiguousarray(flow / np.float32(neural.unit_[0])))
    scale = float(y.square().mean().sqrt().clamp_min(1e-30))  # training sees values of about 1
    y = y / scale
    weights = {name: torch.from_numpy(getattr(neural, name).astype(np.float32)).clone() for name in NAMES}
    weights["codewords_"] /= scale
    weights["leave_"] /= scale
    weights["enter_"] *= scale
    weights["context_"] *= scale
    sizes = _sizes(weights["codewords_"], y[:2048])  # what a step can change is learnt in units of what is left before it
    for name in ("codewords_", "leave_"):
        weights[name] /= sizes
    parameters = {name: w.requires_grad_() for name, w in weights.items()}
    optimizer = torch.optim.Adam([{"params": [w], "times": _SLOWER if name == "codewords_" else 1} for name, w in parameters.items()],
                                 lr=rate, betas=(0.9, 0.98))
    random = torch.Generator().manual_seed(seed)
    batches = max(1, round(epochs * len(y) / batch))
    order, at = torch.randperm(len(y), generator=random), 0
    for done in range(batches):
        if at + batch > len(y):
            order, at = torch.randperm(len(y), generator=random), 0
        own, at = y[order[at:at + batch]], at + batch
        for group in optimizer.param_groups:
            group["lr"] = rate * group["times"] * min(1.0, (done + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done / batches))
        optimizer.zero_grad(set_to_none=True)
        error = _loss(parameters, sizes, own, tries)
        optimizer.step()
        if tell:
            tell(done, error)
    found = {name: w.detach() for name, w in parameters.items()}
    found["codewords_"] = found["codewords_"] * sizes * scale
    found["enter_"], found["context_"] = found["enter_"] / scale, found["context_"] / scale
    found["leave_"] = found["leave_"] * sizes * scale
    arrays = {name: np.clip(w.numpy(), -65504, 65504).astype(np.float16) for name, w in found.items()}
    trained = replace(neural, **arrays).with_gains(flow)
    return Codec(Chain((*stage.items[:len(stage.transforms)], trained, *stage.items[len(stage.transforms) + 1:]))
                 if isinstance(stage, Chain) else trained)


def _sizes(words: Tensor, x: Tensor) -> Tensor:
    """Root mean square of what is left of x before each step, without networks: (steps, 1, 1)."""
    out = torch.ones(len(words), 1, 1)
    for m, own in enumerate(words):
        out[m] = x.square().mean().sqrt().clamp_min(1e-6)
        x = x - own[(own.square().sum(1) - 2 * x @ own.T).argmin(1)]
    return out


def _loss(w: dict[str, Tensor], sizes: Tensor, x: Tensor, tries: int) -> float:
    """Adds the gradients of all steps' squared errors; the last one's over that of x."""
    near = torch.zeros_like(x)
    for m, size in enumerate(sizes):
        step = {"words": w["codewords_"][m] * size, "leave": w["leave_"][m] * size}
        step |= {name: w[name + "_"][m] for name in ("enter", "context", "bias")}
        words = step["words"]
        with torch.no_grad():
            far = words.square().sum(1) - 2 * (x - near) @ words.T
            tried = far.topk(min(tries, len(words)), dim=1, largest=False).indices
            if m and tries > 1:
                best = (x[:, None] - near[:, None] - _bent(step, near[:, None], tried)).square().sum(2).argmin(1, keepdim=True)
                tried = tried.gather(1, best)
            tried = tried[:, 0]
        after = near + (_bent(step, near, tried) if m else words[tried])
        loss = (x - after).square().sum(1).mean() / x.shape[1] / size[0, 0] ** 2
        loss.backward()
        near = after.detach()
    return float((x - near).square().sum() / x.square().sum().clamp_min(1e-30))


def _bent(step: dict[str, Tensor], near: Tensor, ids: Tensor) -> Tensor:
    """What codewords ids (..., ) add to rows near (..., d)."""
    entered = step["words"] @ step["enter"] + step["bias"]
    inner = torch.relu(entered[ids] + near @ step["context"])
    return step["words"][ids] + inner @ step["leave"]
