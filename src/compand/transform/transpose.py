"""Columns as rows."""

from __future__ import annotations

from ..array import array_namespace
from ..stage import Form, Transform


class Transpose(Transform, name="transpose"):
    """(n, d) → (d, n): what follows sees columns as its rows. Any dtype that flows, no loss.

    For matrices of few columns, as the factors B (outputs, rank) of adapters: ``transpose,int:4`` keeps a scale for each column where
    ``int:4`` would keep one for each row. All rows are one block, so that no range of them decodes alone.

    >>> import numpy as np
    >>> Transpose().forward(np.arange(6.).reshape(2, 3))[0]
    array([[0., 3.],
           [1., 4.],
           [2., 5.]])
    """

    examples = ("transpose,int:4",)
    whole = True
    moves = True

    def out(self, form):
        return Form(form.d, form.n, form.dtype)

    def carry(self, weight, form):
        xp = array_namespace(weight)
        return xp.matrix_transpose(xp.broadcast_to(weight, (form.n, form.d)))

    def forward(self, x):
        return array_namespace(x).matrix_transpose(x), {}

    def inverse(self, y, side, form):
        return array_namespace(y).matrix_transpose(y)
