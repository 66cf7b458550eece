"""The scales and norms of a coded language model, tuned together so that it says what the original says. Codes stay as they are.

Every linear layer gets a factor for each output row, which is multiplied into the scales that its codes store; weights of norms are
tuned too. The loss is the KL divergence from the original's next-token distribution, over the tokens that it finds likely (the end-to-end
phase of QuIP#, Tseng et al. 2024, and of EfficientQAT, Chen et al. 2024). Both models are in memory; nothing else changes: same size,
same speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..codec import Codec
from ..codes import Block, Codes
from ..dtypes import dtype
from ..errors import InputError
from ..file import open as open_file
from ..modality import pack
from .language import Language, transformers


def rescaled(codes: Codes, factors: np.ndarray) -> Codes:
    """The codes of w (n, d) → the codes of w with its rows times ``factors`` (n,), by changing their scales only.

    Raises `InputError` if the codec keeps no scales of rows or groups, or they are not proportional to what is decoded.

    >>> w = np.float32([[1, 2, -4, 3]] * 2)
    >>> codes = rescaled(Codec("int:8").encode(w), np.float32([1, 2]))
    >>> codes.codec.decode(codes)[:, 2].round(1).tolist()
    [-4.0, -8.0]
    """
    form = codes.form
    layout = codes.codec.layout(form._replace(n=1))
    names = [name for name, p in layout.items() if name.rpartition(".")[2] == "scale" and "float" in (p.dtype or "") and p.shape[0] == 1]
    if not names:
        raise InputError(f"{codes.codec.spec} stores no scales of rows that could be tuned")
    factors, blocks, at = np.asarray(factors, np.float32).reshape(-1), [], 0
    for b in codes.blocks:
        f = factors[at:at + b.rows].reshape(-1, *[1] * (b.parts[names[0]].ndim - 1))
        fresh = {name: (b.parts[name].astype(np.float32) * f).astype(b.parts[name].dtype) for name in names}
        blocks.append(Block(b.rows, dict(b.parts) | fresh))
        at += b.rows
    changed = replace(codes, blocks=tuple(blocks))
    few = min(form.n, 16)
    before, after = (c.codec.decode(c.rows(0, few)).reshape(-1, form.d)[:few].astype(np.float32) for c in (codes, changed))
    if np.abs(after - before * factors[:few, None]).max() > 0.02 * max(np.abs(after).max(), 1e-30):
        raise InputError(f"{codes.codec.spec} does not decode in proportion to its scales; they cannot be tuned")
    return changed


def tune(model, coded, out, text: str, *, steps: int = 100, length: int = 256, rate: float = 1e-3, seed: int = 0, overwrite: bool = False,
         progress: Callable[[int, int, float], None] | None = None) -> dict[str, Any]:
    """Write the .cpd file ``coded`` of a model folder to ``out`` with tuned scales and norms.

    Parameters
    ----------
    text : sequences of ``length`` tokens of it are taken in turn, one a step
    rate : of Adam, falling to zero as a cosine
    progress : called with (step, steps, loss)

    Returns ``loss`` before and after (nats a token, on the first and last tenth of the steps), ``seconds``.
    """
    import time

    torch, _ = transformers()
    from .language import as_folder

    start = time.perf_counter()
    with open_file(Path(coded)) as file:
        codes = {n: file[n].codes() for n in file.names if file[n].kind == "array"}
    teacher = Language(model)
    try:
        ids = teacher.tokens(text, length, steps)
        teacher.whole()
        with torch.no_grad():
            targets = [teacher.likely(teacher.states(row)) for row in ids]
        for module in (teacher.embedding, teacher.layers, teacher.head):
            teacher.drop(module)
        with as_folder(coded) as folder:
            student = Language(folder)
        try:
            factors, norms, losses = _fit(torch, student, ids, targets, steps, rate, seed, progress)
            kept = {n: x.detach().numpy() for n, x in norms.items()}
        finally:
            student.close()
        done: dict[str, Codes] = {}
        for name, c in codes.items():
            if name in factors:
                done[name] = rescaled(c, factors[name].detach().numpy())
            elif name in kept:
                done[name] = Codec("raw").encode(kept[name].astype(dtype(c.dtype)))
            else:
                done[name] = c
        pack(teacher.source, out, spec=lambda name, shape, kind: done.get(name), overwrite=overwrite, check=False)
    finally:
        teacher.close()
    tenth = max(1, len(losses) // 10)
    return {"loss_before": float(np.mean(losses[:tenth])), "loss_after": float(np.mean(losses[-tenth:])), "steps": len(losses),
            "seconds": time.perf_counter() - start}


def _fit(torch, student: Language, ids, targets, steps: int, rate: float, seed: int, progress):
    student.whole()
    model = student.model
    factors, norms = {}, {}
    hooks = []
    for name, module in model.named_modules():
        full = f"{name}.weight"
        if isinstance(module, torch.nn.Linear) and module is not student.head and full in student.items:
            f = factors[full] = torch.ones(module.weight.shape[0], requires_grad=True)
            bias = module.bias
            hooks.append(module.register_forward_hook(lambda m, x, y, f=f, b=bias: y * f if b is None else (y - b) * f + b))
        elif "norm" in type(module).__name__.lower() and getattr(module, "weight", None) is not None and full in student.items:
            module.weight.requires_grad_(True)
            norms[full] = module.weight
    scale = [max(float(x.detach().square().mean().sqrt()), 1e-3) for x in norms.values()]
    groups = [{"params": list(factors.values()), "lr": rate}, *({"params": [x], "lr": rate * s} for x, s in zip(norms.values(), scale,
                                                                                                                 strict=True))]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1, (t + 1) / 10) * 0.5 * (1 + np.cos(np.pi * t / steps)))
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    losses = []
    for step in range(steps):
        i = int(order[step % len(order)])
        loss = student.divergence(student.states(ids[i]), *targets[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if progress:
            progress(step + 1, steps, losses[-1])
    for hook in hooks:
        hook.remove()
    return factors, norms, losses
