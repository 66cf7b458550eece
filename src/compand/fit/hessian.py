"""The curvature of a layer's squared output error: H = mean of xᵀx over its inputs, gathered a batch at a time."""

from __future__ import annotations

import numpy as np

from ..array import to_numpy
from ..errors import FitError, InputError
from ..stage import Form, Stage


class Hessian:
    """H (d, d) of a linear layer y = x wᵀ: a change e of w (n, d) changes the outputs by trace(e H eᵀ) on average.

    >>> h = Hessian(2)
    >>> h.add(np.float32([[1, 0], [1, 2]]))
    >>> h.matrix.tolist()
    [[1.0, 1.0], [1.0, 2.0]]
    """

    def __init__(self, d: int):
        self.total, self.sum, self.count = np.zeros((d, d)), np.zeros(d), 0.0

    def add(self, x, importance=None) -> None:
        """Inputs x (..., d) of the layer; ``importance`` (...) of each token, non-negative (RSQ, Sung et al. 2025)."""
        if importance is None and getattr(getattr(x, "device", None), "type", "cpu") == "cuda":  # products stay on the GPU
            x = x.detach().reshape(-1, len(self.total)).float()
            self.count += len(x)
            self.sum += to_numpy(x.sum(0).double())
            self.total += to_numpy(x.T @ x)
            return
        x = to_numpy(x)
        x = x.reshape(-1, x.shape[-1]).astype(np.float32, copy=False)
        if x.shape[1] != len(self.total):
            raise InputError(f"inputs of {x.shape[1]} values, the layer takes {len(self.total)}")
        if importance is None:
            self.count += len(x)
            self.sum += x.sum(axis=0, dtype=np.float64)
        else:
            w = np.sqrt(to_numpy(importance).reshape(-1).astype(np.float32))
            self.count += float(np.square(w, dtype=np.float64).sum())
            self.sum += np.square(w) @ x
            x = x * w[:, None]
        self.total += x.T @ x

    @property
    def matrix(self) -> np.ndarray:
        """H, float64 (d, d). Raises `FitError` before any input."""
        if not self.count > 0:
            raise FitError("no inputs were gathered for this layer; give calibration text that reaches it")
        return self.total / self.count

    @property
    def mean(self) -> np.ndarray:
        """Mean input, float64 (d,): what a change of weights adds to the outputs on average is its product with that."""
        return self.sum / max(self.count, 1e-300)


def carried(hessian, transforms: tuple[Stage, ...], form: Form) -> np.ndarray:
    """H of rows as it is for transformed rows, whose inverse is linear: A H Aᵀ where x = y A.

    Scales of rows (side information) do not change H. Raises `InputError` for transforms that are not linear.
    """
    h = np.asarray(hessian, np.float64)
    if h.shape != (form.d, form.d) or not np.isfinite(h).all():
        raise InputError(f"the Hessian must be finite and {form.d} by {form.d}, not {list(h.shape)}")
    for t in transforms:
        if t.layout(form) and not (t.name == "scale" and all(p.shape[1:] in ((), (1,)) for p in t.layout(form).values())):
            raise InputError(f"{t} keeps side information of its own; feedback goes through linear transforms and scales of rows")
        if not t.layout(form):
            a = linear(t, form)
            h = a @ h @ a.T
        form = t.out(form)
    return h


def linear(t: Stage, form: Form) -> np.ndarray:
    """A of a transform without side information, whose inverse is x = y A for rows y: float64. Raises `InputError` if it is not linear."""
    width = t.out(form).d
    probe = np.concatenate([np.zeros((1, width)), np.eye(width), -2 * np.eye(width)]).astype(np.float32)
    y = np.asarray(t.inverse(probe, {}, form._replace(n=len(probe))), np.float64)
    a = y[1:width + 1] - y[0]
    if np.abs(y[width + 1:] - y[0] + 2 * a).max(initial=0) > 1e-3 * max(np.abs(a).max(initial=0), 1e-30):
        raise InputError(f"{t} is not linear; feedback goes through linear transforms and scales of rows")
    return a


def damped(h: np.ndarray, damping: float) -> np.ndarray:
    """H with ``damping`` times the mean of its diagonal added there, and more where that is not enough to factor it."""
    d, mean = len(h), float(np.trace(h)) / max(len(h), 1)
    if not mean > 0:
        return np.eye(d)
    h = (h + h.T) / (2 * mean)
    for _ in range(12):
        try:
            np.linalg.cholesky(h + damping * np.eye(d))
        except np.linalg.LinAlgError:
            damping = max(damping * 4, 1e-8)
            continue
        return h + damping * np.eye(d)
    raise InputError("the Hessian is far from positive semi-definite")


def loss(e, h: np.ndarray) -> float:
    """trace(e H eᵀ): the squared error of the layer's outputs for a change e (n, d) of its weights."""
    e = np.asarray(e, np.float64)
    return float(np.einsum("ij,ij->", e @ h, e))
