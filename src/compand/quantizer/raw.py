"""Values as they are: what is stored when nothing is gained by coding."""

from ..stage import Part, Quantizer


class Raw(Quantizer, name="raw"):
    """The array itself, any dtype, without loss.

    >>> import numpy as np, compand
    >>> x = np.arange(6, dtype=np.int16).reshape(2, 3)
    >>> compand.Codec("raw").encode(x).nbytes
    12
    """

    raw = True

    def layout(self, form):
        return {"values": Part((form.n, form.d), form.dtype)}

    def encode(self, x):
        return {"values": x}

    def decode(self, parts, form):
        return parts["values"]
