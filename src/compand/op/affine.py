"""Transforms on the side of the query: ⟨q, x_hat⟩ of transformed codes as an inner product with what the quantizer decodes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..stage import Form, Stage

AFFINE = {"blockhadamard", "center", "hadamard", "klt", "opq", "pca", "permute", "rotate"}


class Affine(NamedTuple):
    """x_hat = y · matrix + shift."""

    matrix: np.ndarray | None  # (width, d) float32; None is the identity
    shift: np.ndarray          # (d,) float32


class Turn:
    """Queries (q, d) as a scan wants them, ``columns`` · (q · matrixᵀ)[take], and q · shift: float32, the same on every machine."""

    def __init__(self, affine: Affine, columns: np.ndarray, take: np.ndarray | None):
        m = np.eye(len(affine.shift), dtype=np.float32) if affine.matrix is None else affine.matrix
        m = m[:len(columns)] if take is None else m[take]
        self.matrix = np.ascontiguousarray(np.concatenate([(m * columns[:, None]).T, affine.shift[:, None]], axis=1), np.float32)

    def __call__(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from .. import _native

        y = _native.scan_turned(q, self.matrix)
        return np.ascontiguousarray(y[:, :-1]), np.ascontiguousarray(y[:, -1])


def affine(transforms: tuple[Stage, ...], form: Form) -> Affine | None:
    """What the inverses of these transforms do together to rows of x's form, found by probing; None if it is not affine.

    >>> from compand.transform.center import Center
    >>> affine((Center(mean_=np.float32([1, 2])),), Form(5, 2)).shift
    array([1., 2.], dtype=float32)
    """
    shift = np.zeros(form.d, np.float32)
    if not transforms:
        return Affine(None, shift)
    if any(t.name not in AFFINE or t.layout(form) for t in transforms):
        return None
    forms = [form]
    for t in transforms:
        forms.append(t.out(forms[-1]))
    width = forms[-1].d
    y = np.concatenate([np.zeros((1, width), np.float32), np.eye(width, dtype=np.float32)])
    for t, f in zip(reversed(transforms), reversed(forms[:-1]), strict=True):
        y = t.inverse(y, {}, f._replace(n=width + 1))
    y = y.astype(np.float32)
    return Affine(np.ascontiguousarray(y[1:] - y[:1]), y[0].copy())
