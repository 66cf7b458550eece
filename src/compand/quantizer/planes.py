"""Values of any dtype as byte planes, without loss: what entropy coding gains from is apart from what is noise."""

from functools import cache

import numpy as np

from .. import _native
from ..array import is_numpy, like, to_numpy
from ..dtypes import dtype as dtype_of
from ..dtypes import is_float
from ..errors import CorruptError
from ..stage import Form, Part, Quantizer

NONE, ROTATE, ZIGZAG, JOINED = 0, 1, 2, 3
JOINT = ("bfloat16", "float32")


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


_FAULTS = ("", "a plane is not a stream of its symbols, or it is damaged", "the window of exponents is damaged",
           "the escaped exponents are not as many as the symbols say")


@cache
def _streams(name: str) -> tuple[int, int, tuple[str, ...]]:
    """A dtype's bytes of a word, the way the fused kernels cut it, and its parts in their order."""
    size, turn, _ = words_of(name)
    layout = Planes().layout(Form(2, 2, name))
    return size, JOINED if name in JOINT else turn, tuple(layout)


class Planes(Quantizer, name="planes"):
    """Planes of symbols of the values of any dtype, bit by bit (NaN payloads and −0 too); ``planes,rans`` is the lossless spec.

    bfloat16 and float32: the first symbol joins the exponent (as a rank among 14 neighbours, 0, or an escape) and the top four
    mantissa bits, since mantissas of trained weights depend on the exponent; then whole bytes; then the last mantissa bits and
    the sign, two values a byte. Where exponents are spread too wide for that, the first symbol is the exponent alone. Other
    floats are rotated left by one bit and cut into bytes, so that exponent and first mantissa bits are one symbol and the
    sign joins the last bits; signed integers are zigzag coded and cut into bytes; one-byte dtypes are one plane.
    Sources: exponents are what compresses (Hershcovitch et al., ZipNN 2024, arXiv:2411.05239).

    >>> import numpy as np, compand
    >>> x = np.array([[1.0, -1.0, np.nan]], np.float32)
    >>> codec = compand.Codec("planes")
    >>> codec.decode(codec.encode(x)).tobytes() == x.tobytes()
    True
    """

    examples = ("planes", "planes,rans")
    raw = True
    fuses = ("rans",)

    def layout(self, form):
        size, _, count = words_of(form.dtype)
        if form.dtype not in JOINT:
            return {f"byte{size - 1 - i}": Part((form.n, form.d * count), k=256) for i in range(size)}
        pairs = Part((-(-form.n * form.d // 2), 1), k=256)
        middle = {f"byte{size - 3 - i}": Part((form.n, form.d), k=256) for i in range(size - 2)}
        return {"symbol": Part((form.n, form.d), k=256), **middle, "sign": pairs, "top": pairs, "window": Part((-1,), "uint8")}

    def encode(self, x):
        n, d = x.shape
        size, turn, count = words_of(x.dtype.name)
        words = np.ascontiguousarray(x).reshape(-1).view(np.dtype(f"u{size}"))
        if x.dtype.name in JOINT:
            low, symbol, middle, sign, top, escapes = _native.joint_split(words)
            window = np.concatenate([np.uint8([low >= 0, max(low, 0)]), escapes])
            middle = {f"byte{size - 3 - i}": middle[i].reshape(n, d) for i in range(size - 2)}
            return {"symbol": symbol.reshape(n, d), **middle, "sign": sign[:, None], "top": top[:, None], "window": window}
        planes = words[None] if size == 1 else _native.planes_split(words, turn)
        return {f"byte{size - 1 - i}": planes[i].reshape(n, d * count) for i in range(size)}

    def decode(self, parts, form):
        size, turn, _ = words_of(form.dtype)
        flat = {name: np.ascontiguousarray(to_numpy(p)).reshape(-1) for name, p in parts.items()}
        if any(p.dtype != np.uint8 for p in flat.values()):
            raise CorruptError("planes are bytes")
        if form.dtype in JOINT:
            window = flat["window"]
            if window.size < 2 or window[0] > 1:
                raise CorruptError("the window of exponents is damaged")
            merge = _native.joint_merge16 if size == 2 else _native.joint_merge32
            words = merge(flat["symbol"], [flat[f"byte{size - 3 - i}"] for i in range(size - 2)], flat["sign"], flat["top"],
                          int(window[1]) if window[0] else -1, window[2:])
            if words is None:
                raise CorruptError("the escaped exponents are not as many as the symbols say")
        else:
            planes = [flat[f"byte{size - 1 - i}"] for i in range(size)]
            words = planes[0] if size == 1 else _native.planes_merge(planes, turn)
        y = words.view(dtype_of(form.dtype)).reshape(form.n, form.d)
        first = next(iter(parts.values()))
        return y if is_numpy(first) else like(y, first)

    def encode_stored(self, x):
        size, way, names = _streams(x.dtype.name)
        streams = _native.lossless_encode(x.reshape(-1).view(np.dtype(f"u{size}")), way)
        return dict(zip(names, streams, strict=True))

    def decode_stored(self, stored, form, out):
        size, way, names = _streams(form.dtype)
        if fault := _native.lossless_decode([stored[name] for name in names], way, out.reshape(-1).view(np.dtype(f"u{size}"))):
            raise CorruptError(_FAULTS[fault])


def split_reference(words: np.ndarray, turn: int) -> np.ndarray:
    """`_native.planes_split` in plain NumPy."""
    one, top = words.dtype.type(1), words.dtype.type(8 * words.itemsize - 1)
    sign = words >> top
    if turn == ROTATE:
        words = words << one | sign
    elif turn == ZIGZAG:
        words = words << one ^ (~sign + one)  # all ones where negative
    return np.ascontiguousarray(words[:, None].view(np.uint8)[:, ::-1].T)


def joint_reference(words: np.ndarray, low: int) -> tuple[np.ndarray, ...]:
    """`_native.joint_split` for a given window (low, or -1 for none) in plain NumPy."""
    mantissa = 7 if words.itemsize == 2 else 23
    w = words.astype(np.uint64)
    e, top = w >> mantissa & 255, w >> (mantissa - 4) & 15
    nibble = (w & 7) << 1 | w >> (8 * words.itemsize - 1)
    rank = (e - np.uint64(max(low, 0))) & 255
    rank = np.where(e == 0, 14, np.where(rank < 14, rank, 15)).astype(np.uint64)
    symbol = rank << 4 | top if low >= 0 else e
    middle = [w >> 11 & 255, w >> 3 & 255] if words.itemsize == 4 else []
    escapes = e[rank == 15] if low >= 0 else e[:0]

    def pairs(values):
        values = np.append(values, values[:0] if len(values) % 2 == 0 else np.uint64(0)).astype(np.uint8)
        return values[::2] | values[1::2] << 4

    return (symbol.astype(np.uint8), np.array(middle, np.uint8).reshape(len(middle), len(w)), pairs(nibble),
            pairs(top * (low < 0)), escapes.astype(np.uint8))
