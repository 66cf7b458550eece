"""Bit allocation: which spec each tensor gets, so that all together meet a size at the least distortion.

A multiple-choice knapsack, solved exactly enough by HiGHS (`scipy.optimize.milp`; 128 tensors x 6 specs in tens of
milliseconds). Shoham and Gersho, "Efficient bit allocation for an arbitrary set of quantizers", 1988, is the classical form.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import numpy as np

from ..errors import InputError

GAP = 1e-4  # relative gap to the optimum at which the solver may stop


def allocate(costs, distortions, budget: float | None = None, *, distortion: float | None = None) -> np.ndarray:
    """The spec of each tensor: int64 (t,), indices into the s columns.

    Parameters
    ----------
    costs : (t, s) bytes of tensor t coded by spec s; ``inf`` where a spec does not fit the tensor.
    distortions : (t, s) what is lost, additive over tensors (a weighted squared error).
    budget : total bytes that must not be exceeded; the total distortion is minimised.
    distortion : instead of a budget: total distortion that must not be exceeded; the total bytes are minimised.

    Raises `InputError` if no choice meets the bound (the words say what is reachable) or if scipy is missing.

    >>> allocate([[100, 50], [100, 50]], [[0, 9], [0, 1]], budget=150).tolist()
    [0, 1]
    """
    costs, distortions = np.asarray(costs, np.float64), np.asarray(distortions, np.float64)
    if costs.ndim != 2 or costs.shape != distortions.shape or not costs.size:
        raise InputError(f"costs and distortions must be (tensors, specs), got {list(costs.shape)}, {list(distortions.shape)}")
    if (budget is None) == (distortion is None):
        raise InputError("give a budget of bytes, or a distortion")
    usable = np.isfinite(costs) & np.isfinite(distortions)
    if not usable.any(axis=1).all():
        raise InputError(f"no spec fits tensor {int(np.flatnonzero(~usable.any(axis=1))[0])}")
    aim, bound = (distortions, costs) if budget is not None else (costs, distortions)
    most, unit = (budget, "bytes") if budget is not None else (distortion, "distortion")
    least = np.where(usable, bound, np.inf).min(axis=1).sum()
    if least > most:
        raise InputError(f"the least {unit} reachable with these specs is {least:,.6g}, over the {most:,.6g} asked for")
    if costs.shape[0] == 1:
        fits = usable[0] & (bound[0] <= most)
        return np.array([min(np.flatnonzero(fits), key=lambda s: (aim[0, s], bound[0, s]))])
    return _solve(aim, bound, usable, most)


def _solve(aim, bound, usable, most) -> np.ndarray:
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]
        from scipy.sparse import csr_array, vstack  # type: ignore[import-untyped]
    except ImportError:
        raise InputError("sharing bytes among several tensors needs scipy: pip install 'compand[fit]'; "
                         "or give one SPEC for all of them") from None
    t, s = aim.shape
    aim, bound = np.where(usable, aim, 0.0), np.where(usable, bound, 0.0)
    one = csr_array((np.ones(t * s), (np.repeat(np.arange(t), s), np.arange(t * s))), shape=(t, t * s))
    scale = max(most, bound.max(initial=0.0)) or 1.0  # numbers near 1 keep the solver's tolerances meaningful
    rows = vstack([one, csr_array(bound.reshape(1, -1) / scale)])
    with _silent():
        result = milp(aim.ravel() / (np.abs(aim).max() or 1.0), integrality=np.ones(t * s),
                      bounds=Bounds(0, usable.ravel().astype(float)), options={"mip_rel_gap": GAP, "time_limit": 10},
                      constraints=LinearConstraint(rows, np.append(np.ones(t), -np.inf), np.append(np.ones(t), most / scale)))
    if result.x is None:
        raise InputError(f"the allocation was not solved: {result.message}")
    choice = result.x.reshape(t, s).argmax(axis=1)
    return _repair(choice, aim, np.where(usable, bound, np.inf), most)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What native code writes to the process's standard output inside is dropped: HiGHS prints remarks there, amid our JSON."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # there is no standard output
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _repair(choice, aim, bound, most) -> np.ndarray:
    """The same choice, or where the solver's tolerance let it over the bound by a hair, one that is truly under it."""
    tensors = np.arange(choice.size)
    while bound[tensors, choice].sum() > most:
        saved = bound[tensors, choice][:, None] - bound
        lost = np.where(saved > 0, np.maximum(aim - aim[tensors, choice][:, None], 0) / np.where(saved > 0, saved, 1), np.inf)
        tensor, spec = np.unravel_index(np.argmin(lost), lost.shape)
        choice[tensor] = spec
    return choice
