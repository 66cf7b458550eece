"""Random orthogonal rotation."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import numpy as np

from .. import seeded
from ..array import array_namespace, cast, dtype_name, like
from ..stage import KW_ONLY, Transform

MOST = 1024  # columns: drawing the rotation takes time that grows with their cube


class Rotate(Transform, name="rotate"):
    """Multiply rows by a uniformly random orthogonal matrix, drawn from a seed: (n, d) → (n, d), d ≤ 1024.

    The Q of the QR decomposition of a normal matrix with the signs that make it unique (Mezzadri 2007). Nothing is stored but
    the seed; ``inverse ∘ forward`` differs from x by about sqrt(d) · 2^-24 · the norm of a row. Use `hadamard`, which is as good
    at spreading outliers and faster by orders of magnitude, unless d is odd or a truly uniform rotation is wanted.
    Raises `SpecError` for d > 1024.

    >>> import numpy as np
    >>> x = np.eye(3, dtype=np.float32)
    >>> y, _ = Rotate().forward(x)
    >>> bool(np.abs(y @ y.T - x).max() < 1e-6)
    True
    """

    exact = False
    examples = ("rotate,int:4",)
    _: KW_ONLY
    seed: Annotated[int, range(1 << 62)] = 0

    def out(self, form):
        if form.d > MOST:
            raise self.fail(f"{form.d:,} columns; a random rotation is drawn for at most {MOST:,}: use hadamard")
        return form

    def forward(self, x):
        return array_namespace(x).matmul(x, self._matrix(x)), {}

    def inverse(self, y, side, form):
        return array_namespace(y).matmul(y, self._matrix(y).T)

    def _matrix(self, x):
        return cast(like(orthogonal(self.seed, x.shape[1]), x), dtype_name(x))


@lru_cache(maxsize=2)
def orthogonal(seed: int, d: int) -> np.ndarray:
    """A random orthogonal matrix, float64 (d, d), read-only."""
    q, r = np.linalg.qr(seeded.normal(seed, d * d).reshape(d, d))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    q.setflags(write=False)
    return q
