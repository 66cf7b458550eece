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

    ``rotate:64`` keeps the first 64 columns of the result, a random projection: (n, d) → (n, 64).

    The Q of the QR decomposition of a normal matrix with the signs that make it unique (Mezzadri 2007). Nothing is stored but
    the seed; ``inverse ∘ forward`` differs from x by about sqrt(d) · 2^-24 · the norm of a row. Use `hadamard`, which is as good
    at spreading outliers and faster by orders of magnitude, unless d is odd or a truly uniform rotation is wanted.
    Raises `SpecError` for d > 1024 or k > d.

    >>> import numpy as np
    >>> x = np.eye(3, dtype=np.float32)
    >>> y, _ = Rotate().forward(x)
    >>> bool(np.abs(y @ y.T - x).max() < 1e-6)
    True
    """

    exact = False
    examples = ("rotate,int:4", "rotate:16,int:8")
    k: Annotated[int, range(1, MOST + 1)] | None = None
    _: KW_ONLY
    seed: Annotated[int, range(1 << 62)] = 0

    def out(self, form):
        if form.d > MOST:
            raise self.fail(f"{form.d:,} columns; a random rotation is drawn for at most {MOST:,}: use hadamard")
        if self.k and self.k > form.d:
            raise self.fail(f"asks for {self.k} columns of {form.d}; try rotate:{max(form.d, 1)}")
        return form._replace(d=self.k or form.d)

    def setup(self, form):
        return form.d ** 3

    def forward(self, x):
        return array_namespace(x).matmul(x, self._matrix(x, x.shape[1])), {}

    def inverse(self, y, side, form):
        return array_namespace(y).matmul(y, self._matrix(y, form.d).T)

    def _matrix(self, x, d: int):
        return cast(like(orthogonal(self.seed, d)[:, :self.k], x), dtype_name(x))


@lru_cache(maxsize=2)
def orthogonal(seed: int, d: int) -> np.ndarray:
    """A random orthogonal matrix, float64 (d, d), read-only."""
    q, r = np.linalg.qr(seeded.normal(seed, d * d).reshape(d, d))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    q.setflags(write=False)
    return q
