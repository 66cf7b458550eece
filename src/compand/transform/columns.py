"""Some columns of each row."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from ..array import array_namespace, like
from ..stage import Form, Transform


class Columns(Transform, name="columns"):
    """``columns:4:8``: columns 4 to 11 of each row, (n, d) → (n, 8); decoded, the other columns are 0. Any dtype that flows.

    With ``+`` each term can code columns of its own and leave the others to later terms: masked-channel residual quantization
    (Language-Codec, Ji et al. 2024, section 3.2) is ``(columns:0:4,vq:1024)+(columns:4:4,vq:1024)+vq:1024``: the first terms see
    some channels each and carry less, the last ones see what is left of all. Terms over successive columns are a Matryoshka
    code, any prefix of which decodes to the first columns.

    Raises `SpecError` where rows are shorter.

    >>> import numpy as np
    >>> Columns(1, 2).forward(np.array([[1., 2., 3., 4.]]))[0]
    array([[2., 3.]])
    """

    examples = ("(columns:0:8,int:4)+int:2",)
    first: Annotated[int, range(1 << 24)]
    count: Annotated[int, range(1, 1 << 24)]

    def out(self, form):
        if self.first + self.count > form.d:
            raise self.fail(f"rows have {form.d} columns, {self.first + self.count} are needed")
        return form._replace(d=self.count)

    def carry(self, weight, form):
        return weight[:, self.first:self.first + self.count] if weight.shape[1] > 1 else weight

    def forward(self, x):
        self.out(Form(*x.shape))
        return x[:, self.first:self.first + self.count], {}

    def inverse(self, y, side, form):
        xp, rest = array_namespace(y), form.d - self.first - self.count
        zeros = [like(np.zeros((form.n, width), np.float32), y) for width in (self.first, rest)]
        return xp.concat([xp.astype(zeros[0], y.dtype), y, xp.astype(zeros[1], y.dtype)], axis=1)
