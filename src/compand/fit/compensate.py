"""What a quantizer lost, given back by a few directions chosen for the layer's outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtypes import dtype
from ..errors import InputError
from ..stage import Form, replace
from .hessian import damped


def compensated(stage: Any, e, hessian, damping: float = 0.01) -> tuple[Any, dict[str, np.ndarray]]:
    """A ``lowrank`` stage fitted to e (n, d) so that trace((e - ê) H (e - ê)ᵀ) is least, and its parts of e.

    With H = S Sᵀ: the truncated SVD of e S, brought back by S⁻¹ (EoRA, Liu et al. 2024; CALDERA, Saha et al. 2024). The coefficients
    are not projections of e, so parts come from here and not from ``stage.encode``. Raises `InputError` for other stages.
    """
    if getattr(stage, "name", "") != "lowrank":
        raise InputError(f"{stage} is not lowrank")
    e = np.asarray(e, np.float64)
    form = Form(*e.shape)
    stage.layout(form)  # the rank fits
    s = np.linalg.cholesky(damped(np.asarray(hessian, np.float64), damping))
    t = e @ s
    _, vectors = np.linalg.eigh(t.T @ t)
    top = vectors[:, ::-1][:, :stage.rank]
    flip = np.sign(top[np.abs(top).argmax(0), np.arange(top.shape[1])])  # a sign that does not depend on the library
    top = top * np.where(flip == 0, 1, flip)
    basis, c = np.linalg.solve(s.T, top).T, t @ top
    length = np.sqrt(np.square(basis).sum(1))
    basis, c = basis / length[:, None], c * length
    scale = np.clip(np.sqrt(np.square(c).mean(0)), 1e-30, 1e30)
    state = {name: part.dtype for name, part in stage.state(form).items()}
    fitted = replace(stage, basis_=np.ascontiguousarray(basis, dtype(state["basis_"])), scale_=scale.astype(np.float32),
                     gain_=np.ones(form.d, np.float32))
    kind = dtype(stage.layout(form)["coefficients"].dtype)
    most = 448.0 if "float8" in str(kind) else 65504.0 if str(kind) == "float16" else 3e38
    return fitted, {"coefficients": np.clip(c / scale, -most, most).astype(np.float32).astype(kind)}
