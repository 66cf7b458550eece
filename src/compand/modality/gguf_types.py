"""The block formats of GGUF tensors, dequantized to float32 with plain NumPy.

Source: the format's own definition (ggml: block layouts of the K-quants, legacy, ternary and 4-bit float types). Each
function takes blocks uint8 (n, bytes of a block) and gives float32 (n, values of a block). The IQ1, IQ2 and IQ3 types need
code tables that are not published as a rule; with the `gguf` package installed its tables are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..errors import UnsupportedError

F32 = np.float32
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], F32)
FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], F32)  # twice the e2m1 values


class BlockType(NamedTuple):
    """A tensor type: values and bytes of a block, and how to read it (a dtype name for plain numbers)."""

    name: str
    values: int
    nbytes: int
    read: str | Callable[[np.ndarray], np.ndarray] | None


def _f16(b: np.ndarray, at: int) -> np.ndarray:
    """The float16 at byte `at` of each block, as a float32 column."""
    return np.ascontiguousarray(b[:, at:at + 2]).view("<f2").astype(F32)


def _nibbles(qs: np.ndarray, group: int) -> np.ndarray:
    """(n, m) bytes → (n, 2m): per `group` bytes first the low halves, then the high ones."""
    q = qs.reshape(len(qs), -1, 1, group)
    return np.concatenate([q & 15, q >> 4], axis=2).reshape(len(qs), -1)


def _bits(b: np.ndarray) -> np.ndarray:
    """(n, m) bytes → (n, 8m) bits, lowest first."""
    return np.unpackbits(b, axis=1, bitorder="little")


def _scaled(scale: np.ndarray, q: np.ndarray) -> np.ndarray:
    """scale (n, s) × q (n, v): each scale for v / s neighbours."""
    return (scale[:, :, None] * q.astype(F32).reshape(len(q), scale.shape[1], -1)).reshape(len(q), -1)


def q4_0(b):
    return _f16(b, 0) * (_nibbles(b[:, 2:], 16).astype(F32) - 8)


def q4_1(b):
    return _f16(b, 0) * _nibbles(b[:, 4:], 16).astype(F32) + _f16(b, 2)


def q5_0(b):
    return _f16(b, 0) * ((_nibbles(b[:, 6:], 16) | _bits(b[:, 2:6]) << 4).astype(F32) - 16)


def q5_1(b):
    return _f16(b, 0) * (_nibbles(b[:, 8:], 16) | _bits(b[:, 4:8]) << 4).astype(F32) + _f16(b, 2)


def q8_0(b):
    return _f16(b, 0) * b[:, 2:].view(np.int8).astype(F32)


def q8_k(b):
    return np.ascontiguousarray(b[:, :4]).view("<f4") * b[:, 4:260].view(np.int8).astype(F32)


def q1_0(b):
    return _f16(b, 0) * (_bits(b[:, 2:]).astype(F32) * 2 - 1)


def _crumbs(qs: np.ndarray) -> np.ndarray:
    """(n, 64) bytes → 256 values of 2 bits: in each half of 32 bytes, four shifts one after another."""
    q = qs.reshape(len(qs), 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return (q & 3).reshape(len(qs), 256)


def q2_k(b):
    scales = b[:, :16]
    d, m = _f16(b, 80) * (scales & 15).astype(F32), _f16(b, 82) * (scales >> 4).astype(F32)
    return _scaled(d, _crumbs(b[:, 16:80])) - np.repeat(m, 16, axis=1)


def q3_k(b):
    raw = b[:, 96:108]
    low = np.concatenate([raw[:, :8] & 15, raw[:, :8] >> 4], axis=1)
    high = (raw[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1) & 3).reshape(len(b), 16)
    scale = _f16(b, 108) * ((low | high << 4).astype(F32) - 32)
    top = (b[:, None, :32] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1) & 1).reshape(len(b), 256)
    return _scaled(scale, (_crumbs(b[:, 32:96]) | top << 2).astype(F32) - 4)


def _scales_6bit(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """12 bytes → eight 6-bit scales and eight 6-bit minima of Q4_K and Q5_K."""
    a, m, rest = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    return (np.concatenate([a & 63, rest & 15 | a >> 6 << 4], axis=1).astype(F32),
            np.concatenate([m & 63, rest >> 4 | m >> 6 << 4], axis=1).astype(F32))


def _k45(b, q):
    scale, low = _scales_6bit(b[:, 4:16])
    return _scaled(_f16(b, 0) * scale, q) - np.repeat(_f16(b, 2) * low, 32, axis=1)


def q4_k(b):
    return _k45(b, _nibbles(b[:, 16:], 32))


def q5_k(b):
    top = (b[:, None, 16:48] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1) & 1).reshape(len(b), 256)
    return _k45(b, _nibbles(b[:, 48:], 32) | top << 4)


def q6_k(b):
    low = b[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(len(b), 256)
    scale = _f16(b, 208) * b[:, 192:208].view(np.int8).astype(F32)
    return _scaled(scale, (low | _crumbs(b[:, 128:192]) << 4).astype(F32) - 32)


def iq4_nl(b):
    return _f16(b, 0) * IQ4[_nibbles(b[:, 2:], 16)]


def iq4_xs(b):
    low = _nibbles(b[:, 4:8].reshape(-1, 1), 1).reshape(len(b), 8)
    high = (b[:, 2:4, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(len(b), 8)
    return _scaled(_f16(b, 0) * ((low | high << 4).astype(F32) - 32), IQ4[_nibbles(b[:, 8:], 16)])


def _trits(b: np.ndarray, count: int) -> np.ndarray:
    """(n, m) bytes → (n, count·m) values in {-1, 0, 1}: byte × 3^i as a fraction of 256, its first ternary digit."""
    power = np.array([1, 3, 9, 27, 81][:count], np.uint8).reshape(1, count, 1)
    q = (b[:, None] * power).astype(np.uint16) * 3 >> 8
    return (q.astype(F32) - 1).reshape(len(b), -1)


def tq1_0(b):
    return _f16(b, 52) * np.concatenate([_trits(b[:, :32], 5), _trits(b[:, 32:48], 5), _trits(b[:, 48:52], 4)], axis=1)


def tq2_0(b):
    return _f16(b, 64) * (_crumbs(b[:, :64]).astype(F32) - 1)


def mxfp4(b):
    scale = np.ldexp(F32(1), b[:, :1].astype(np.int32) - 128).astype(F32)  # 2^(e - 127), halved for the doubled table
    return scale * FP4[_nibbles(b[:, 1:], 16)]


def nvfp4(b):
    import ml_dtypes

    scale = (b[:, :4] & 127).view(ml_dtypes.float8_e4m3fn).astype(F32) / 2
    return _scaled(np.nan_to_num(scale), FP4[_nibbles(b[:, 4:], 8)])


TYPES: dict[int, BlockType] = {
    0: BlockType("F32", 1, 4, "float32"), 1: BlockType("F16", 1, 2, "float16"), 28: BlockType("F64", 1, 8, "float64"),
    30: BlockType("BF16", 1, 2, "bfloat16"), 24: BlockType("I8", 1, 1, "int8"), 25: BlockType("I16", 1, 2, "int16"),
    26: BlockType("I32", 1, 4, "int32"), 27: BlockType("I64", 1, 8, "int64"),
    2: BlockType("Q4_0", 32, 18, q4_0), 3: BlockType("Q4_1", 32, 20, q4_1), 6: BlockType("Q5_0", 32, 22, q5_0),
    7: BlockType("Q5_1", 32, 24, q5_1), 8: BlockType("Q8_0", 32, 34, q8_0), 10: BlockType("Q2_K", 256, 84, q2_k),
    11: BlockType("Q3_K", 256, 110, q3_k), 12: BlockType("Q4_K", 256, 144, q4_k), 13: BlockType("Q5_K", 256, 176, q5_k),
    14: BlockType("Q6_K", 256, 210, q6_k), 15: BlockType("Q8_K", 256, 292, q8_k), 20: BlockType("IQ4_NL", 32, 18, iq4_nl),
    23: BlockType("IQ4_XS", 256, 136, iq4_xs), 34: BlockType("TQ1_0", 256, 54, tq1_0), 35: BlockType("TQ2_0", 256, 66, tq2_0),
    39: BlockType("MXFP4", 32, 17, mxfp4), 40: BlockType("NVFP4", 64, 36, nvfp4), 41: BlockType("Q1_0", 128, 18, q1_0),
    16: BlockType("IQ2_XXS", 256, 66, None), 17: BlockType("IQ2_XS", 256, 74, None), 22: BlockType("IQ2_S", 256, 82, None),
    18: BlockType("IQ3_XXS", 256, 98, None), 21: BlockType("IQ3_S", 256, 110, None), 19: BlockType("IQ1_S", 256, 50, None),
    29: BlockType("IQ1_M", 256, 56, None),
}


def dequantize(kind: int, blocks: np.ndarray) -> np.ndarray:
    """Blocks uint8 (n, bytes) of a block type → float32 (n, values).

    >>> dequantize(8, np.array([[0, 60] + [1] * 32], np.uint8))[0, :3]   # Q8_0: scale 1.0
    array([1., 1., 1.], dtype=float32)
    """
    t = TYPES[kind]
    with np.errstate(all="ignore"):  # hostile scales may be infinite
        if callable(t.read):
            return t.read(blocks).astype(F32, copy=False)
        try:
            from gguf.constants import GGMLQuantizationType
            from gguf.quants import dequantize as tables
        except ImportError:
            raise UnsupportedError(f"GGUF type {t.name} is decoded with the code tables of the gguf package: "
                                   "pip install 'compand[gguf]'") from None
        return tables(blocks, GGMLQuantizationType(kind)).reshape(len(blocks), t.values)
