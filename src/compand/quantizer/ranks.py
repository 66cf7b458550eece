"""bfloat16 weights a quarter smaller, without loss, in a form that products read as it is."""

import numpy as np

from ..array import to_numpy
from ..dtypes import dtype as dtype_of
from ..errors import CorruptError
from ..stage import Part, Quantizer

ESCAPE = 15  # the rank of an exponent that is not in the table


class Ranks(Quantizer, name="ranks"):
    """bfloat16 in about 12 bits a value, every bit kept (NaN payloads and −0 too); `compand.matmul` runs on it as it is.

    Sign and mantissa are a byte, the exponent is its rank, of four bits, among the 15 commonest of a block of rows; rank 15
    stands for an exponent that is stored apart. Ranks of columns i and 64 + i of each whole 128 share a byte: so 64 bytes are two
    times 64 ranks in order. float32 is its upper half in that form and 16 bits as they are (28 bits a
    value). Smallest on disk is ``planes,rans``; this is what to run. Other dtypes raise `SpecError`, escapes that do not fit
    the ranks `CorruptError`.
    Sources: exponents of trained weights have an entropy of about 2.6 bits (Zhang et al., DFloat11 2025, arXiv:2504.11651).

    >>> import numpy as np, compand
    >>> w = compand.array.cast(np.random.default_rng(0).standard_normal((512, 2048), dtype=np.float32), "bfloat16")
    >>> codes = compand.Codec("ranks").encode(w)
    >>> codes.codec.decode(codes).tobytes() == w.tobytes(), round(8 * codes.nbytes / w.size, 2)
    (True, 12.01)
    """

    examples = ("ranks", "ranks,rans")
    raw = True

    @property
    def effort(self):
        return 6

    def layout(self, form):
        if form.dtype not in ("bfloat16", "float32"):
            raise self.fail(f"it keeps bfloat16 and float32, not {form.dtype}; planes,rans takes any dtype")
        n, d = form[:2]
        parts = {"mantissa": Part((n, d), k=256), "rank": Part((n, d), k=16), "count": Part((n, 1), "uint16" if d < 1 << 16 else "uint32"),
                 "escapes": Part((-1,), "uint8"), "exponents": Part((ESCAPE,), "uint8")}
        return parts | ({"below": Part((n, d), "uint16")} if form.dtype == "float32" else {})

    def encode(self, x):
        words = np.ascontiguousarray(x).view(np.dtype(f"u{x.dtype.itemsize}"))
        below = {"below": words.astype(np.uint16)} if words.itemsize == 4 else {}
        words = (words >> 16).astype(np.uint16) if below else words
        exponent = (words >> 7).astype(np.uint8)
        common = np.argsort(-np.bincount(exponent.reshape(-1), minlength=256), kind="stable")[:ESCAPE]
        exponents = np.sort(common).astype(np.uint8)
        rank_of = np.full(256, ESCAPE, np.uint8)
        rank_of[exponents] = np.arange(ESCAPE)
        rank = rank_of[exponent]
        escaped, mantissa = rank == ESCAPE, (words >> 8 & 128 | words & 127).astype(np.uint8)
        return {"mantissa": mantissa, "rank": _paired(rank, 2, 64), "count": escaped.sum(axis=1, keepdims=True),
                "escapes": exponent[escaped], "exponents": exponents, **below}

    def decode(self, parts, form):
        mantissa, rank, count, escapes, exponents = (to_numpy(parts[p]) for p in ("mantissa", "rank", "count", "escapes", "exponents"))
        exponents, rank = checked(exponents, escapes), _paired(rank, 64, 2)
        escaped = rank == ESCAPE
        if not np.array_equal(escaped.sum(axis=1, keepdims=True), count) or int(count.sum(dtype=np.uint64)) != escapes.size:
            raise CorruptError("the escaped exponents are not as many as the ranks say")
        exponent = np.append(exponents, np.uint8(0))[rank].astype(np.uint16)
        exponent[escaped] = escapes
        m = mantissa.astype(np.uint16)
        words = (m & 128) << 8 | exponent << 7 | m & 127
        if form.dtype == "float32":
            words = words.astype(np.uint32) << 16 | to_numpy(parts["below"])
        return words.view(dtype_of(form.dtype))


def _paired(rank: np.ndarray, a: int, b: int) -> np.ndarray:
    """Each whole 128 columns as (a, b), transposed: 2, 64 brings columns i and 64 + i together, 64, 2 apart again."""
    n, d = rank.shape
    whole = d - d % 128
    turned = rank[:, :whole].reshape(n, -1, a, b).swapaxes(2, 3).reshape(n, whole)
    return np.concatenate([turned, rank[:, whole:]], axis=1)


def checked(exponents: np.ndarray, escapes: np.ndarray) -> np.ndarray:
    """The table of exponents, (15,) rising. Raises `CorruptError` unless it is, and no escape is in it."""
    if (np.diff(exponents.astype(np.int16)) <= 0).any():
        raise CorruptError("the table of exponents does not rise")
    if np.isin(escapes, exponents).any():
        raise CorruptError("an exponent is escaped that has a rank")
    return exponents
