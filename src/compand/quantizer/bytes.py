"""Any dtype as bytes: what a byte coder or an opaque file needs."""

from __future__ import annotations

import numpy as np

from ..dtypes import dtype
from ..stage import Part, Quantizer


class Bytes(Quantizer, name="bytes"):
    """The bytes of each row as symbols in [0, 256), little endian, without loss: (n, d) → (n, d * itemsize).

    >>> import numpy as np, compand
    >>> x = np.zeros((4, 1000), np.float32)
    >>> compand.Codec("bytes,lzma").encode(x).nbytes < 200
    True
    """

    raw = True

    def layout(self, form):
        return {"bytes": Part((form.n, form.d * dtype(form.dtype).itemsize), k=256)}

    def encode(self, x):
        return {"bytes": np.ascontiguousarray(x).view(np.uint8).reshape(x.shape[0], -1)}

    def decode(self, parts, form):
        return np.ascontiguousarray(parts["bytes"]).view(dtype(form.dtype)).reshape(form.n, form.d)
