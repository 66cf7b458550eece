"""Values of any dtype as byte planes, without loss: what entropy coding gains from is apart from what is noise."""

import numpy as np

from .. import _native
from ..array import is_numpy, like, to_numpy
from ..dtypes import dtype as dtype_of
from ..dtypes import is_float
from ..errors import CorruptError
from ..stage import Part, Quantizer

NONE, ROTATE, ZIGZAG = 0, 1, 2


def words_of(name: str) -> tuple[int, int, int]:
    """A dtype's words: bytes of a word, how it is turned, words of a value.

    >>> words_of("bfloat16"), words_of("int32"), words_of("complex64")
    ((2, 1, 1), (4, 2, 1), (4, 1, 2))
    """
    size = dtype_of(name).itemsize
    if name == "complex64":
        return 4, ROTATE, 2
    turn = NONE if size == 1 else ROTATE if is_float(name) else ZIGZAG if name.startswith("int") else NONE
    return size, turn, 1


class Planes(Quantizer, name="planes"):
    """Byte planes of the values of any dtype, bit by bit (NaN payloads and −0 too); ``planes,rans`` is the lossless spec.

    Floats are rotated left by one bit first, so that the exponent (of float16 and float64: and the first mantissa bits) is a
    symbol of its own and the sign joins the lowest mantissa bits; signed integers are zigzag coded. One-byte dtypes are one
    plane. Trained weights use few exponents: 2.6 bits of 8 (Hao et al., NeuZip 2024; Hershcovitch et al., ZipNN 2024,
    arXiv:2411.05239).

    >>> import numpy as np, compand
    >>> x = np.array([[1.0, -1.0, np.nan]], np.float32)
    >>> codec = compand.Codec("planes")
    >>> codec.encode(x).symbols("byte3")[0]
    array([127, 127, 255], dtype=uint8)
    >>> codec.decode(codec.encode(x)).tobytes() == x.tobytes()
    True
    """

    examples = ("planes", "planes,rans")
    raw = True

    def layout(self, form):
        size, _, count = words_of(form.dtype)
        return {f"byte{size - 1 - i}": Part((form.n, form.d * count), k=256) for i in range(size)}

    def encode(self, x):
        n, d = x.shape
        size, turn, count = words_of(x.dtype.name)
        words = np.ascontiguousarray(x).reshape(-1).view(np.dtype(f"u{size}"))
        planes = words[None] if size == 1 else _native.planes_split(words, turn)
        return {f"byte{size - 1 - i}": planes[i].reshape(n, d * count) for i in range(size)}

    def decode(self, parts, form):
        size, turn, _ = words_of(form.dtype)
        planes = [parts[f"byte{size - 1 - i}"] for i in range(size)]
        if form.dtype == "bool" and not is_numpy(planes[0]):
            return like(to_numpy(planes[0]).view(bool), planes[0])
        flat = [np.ascontiguousarray(to_numpy(p)).reshape(-1) for p in planes]
        if any(p.dtype != np.uint8 for p in flat):
            raise CorruptError("planes are bytes")
        words = flat[0] if size == 1 else _native.planes_merge(flat, turn)
        y = words.view(dtype_of(form.dtype)).reshape(form.n, form.d)
        return y if is_numpy(planes[0]) else like(y, planes[0])


def split_reference(words: np.ndarray, turn: int) -> np.ndarray:
    """`_native.planes_split` in plain NumPy."""
    one, top = words.dtype.type(1), words.dtype.type(8 * words.itemsize - 1)
    sign = words >> top
    if turn == ROTATE:
        words = words << one | sign
    elif turn == ZIGZAG:
        words = words << one ^ (~sign + one)  # all ones where negative
    return np.ascontiguousarray(words[:, None].view(np.uint8)[:, ::-1].T)
