"""Cut rows into shorter rows."""

from __future__ import annotations

from typing import Annotated

from ..array import array_namespace
from ..stage import Transform


class Reshape(Transform, name="reshape"):
    """Each row of d values as d/size rows of ``size`` values: (n, d) → (n · d/size, size). Any dtype, no loss.

    What follows sees the short rows as its rows: ``reshape:8,vq:256`` gives each 8 weights a codeword of one codebook,
    ``reshape:128,scale:absmax:row`` is a scale for each 128 values. Raises `SpecError` unless size divides d.

    >>> import numpy as np
    >>> Reshape(2).forward(np.arange(6.).reshape(1, 6))[0]
    array([[0., 1.],
           [2., 3.],
           [4., 5.]])
    """

    examples = ("reshape:8,int:4",)
    raw = True
    moves = True
    size: Annotated[int, range(1, 1 << 31)]

    def out(self, form):
        if form.d % self.size:
            near = [v for v in range(1, min(form.d, 1 << 16) + 1) if form.d % v == 0]
            best = min(near, key=lambda v: abs(v - self.size))
            raise self.fail(f"size must divide the row length d={form.d}; try reshape:{best}")
        return form._replace(n=form.n * (form.d // self.size), d=self.size)

    def carry(self, weight, form):
        xp = array_namespace(weight)
        return xp.reshape(xp.broadcast_to(weight, (form.n, form.d)), (-1, self.size))

    def forward(self, x):
        return array_namespace(x).reshape(x, (x.shape[0] * (x.shape[1] // self.size), self.size)), {}

    def inverse(self, y, side, form):
        return array_namespace(y).reshape(y, (form.n, form.d))
