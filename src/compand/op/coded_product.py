"""Products of coded activations with coded weights, as an integer kernel computes them: the readable reference.

Where both are integers times scales (stage ``int`` with scales of rows, groups, the tensor), each group of columns is summed in integers,
exactly, and multiplied by its two scales in float32. Other codes are decoded first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..codec import Codec
from ..codes import Codes, unpack_part
from ..errors import InputError
from ..expression import Chain
from ..stage import Form, replace

_EXACT = 1 << 24  # below this sums of integers are exact in float32


@dataclass
class Levels:
    """Rows as integers (n, d) int32, times scales (n or 1, groups) float32 of ``group`` columns each."""

    ids: np.ndarray
    scale: np.ndarray
    group: int


def levels(stage: Any, parts: dict[str, Any], form: Form) -> Levels | None:
    """The rows of an ``int`` stage as integers; None for other stages, and for grids that are no multiples of a scale.

    >>> from compand.quantizer.int import Int
    >>> stage, x = Int(4), np.float32([[0.5, -4, 3.5]])
    >>> y = levels(stage, stage.encode(x), Form(1, 3))
    >>> y.ids.tolist(), float(y.scale[0, 0])
    ([[1, -8, 7]], 0.5)
    """
    if stage.name != "int" or not stage.sym or stage.noise is not None or stage.pow2 or stage.per == "column":
        return None
    half = stage.z % 1 != 0  # levels at ±1/2, ±3/2, ...: twice as many steps of half the size
    ids = np.asarray(parts["ids"]).astype(np.int32)
    ids = 2 * ids + int(2 * stage.z) if half else ids + int(stage.z)
    scale = parts["scale"] if "scale" in parts else np.float32([stage.step]) if stage.step else stage.scale_
    scale = np.asarray(scale).astype(np.float32)
    scale = scale.reshape(form.n, -1) if "scale" in parts else scale.reshape(1, 1)
    return Levels(ids, scale / 2 if half else scale, min(stage.group or form.d, form.d))


class Weights:
    """Weights (n, d) ready for products: their integers if they have some, else what they decode to."""

    def __init__(self, codes: Codes):
        stage: Any = codes.codec.stage
        self.n, self.d = codes.form.n, codes.form.d
        self.decoded = np.asarray(codes.codec.decode(codes), np.float32).reshape(self.n, self.d)
        found = []
        for block in codes.blocks if stage.name == "int" else ():
            form = codes.form._replace(n=block.rows)
            layout = codes.codec.layout(form)
            parts = {k: unpack_part(block.parts[k], replace(p, shape=(block.rows, *p.shape[1:]))) for k, p in layout.items()}
            found.append(levels(stage, parts, form))
        whole = [f for f in found if f is not None]
        self.levels = None
        if whole and len(whole) == len(found):
            scale = np.concatenate([np.broadcast_to(f.scale, (len(f.ids), f.scale.shape[1])) for f in whole])
            self.levels = Levels(np.concatenate([f.ids for f in whole]), scale, whole[0].group)


def product(x: np.ndarray, inputs: Codec, weights: Weights) -> np.ndarray:
    """x (m, d) coded by ``inputs``, times weights (n, d') of what its transforms make of x: float32 (m, n).

    >>> rng = np.random.default_rng(0)
    >>> x, w = (rng.standard_normal((4, 64)).astype(np.float32) for _ in range(2))
    >>> y = product(x, Codec("int:8:scales=float32"), Weights(Codec("int:8").encode(w)))
    >>> bool(np.abs(y - x @ w.T).max() < 0.5)
    True
    """
    y, quantizer = _transformed(x, inputs, weights)
    form = Form(*y.shape)
    parts = quantizer.encode(y)
    own, other = levels(quantizer, parts, form), weights.levels
    if own is None or other is None:
        return np.asarray(quantizer.decode(parts, form), np.float32) @ weights.decoded.T
    return integer_product(own, other)


def whole(x: np.ndarray, inputs: Codec, weights: Weights) -> np.ndarray:
    """As `product`, of x as it is: its transforms are applied and nothing is rounded."""
    return _transformed(x, inputs, weights)[0] @ weights.decoded.T


def _transformed(x: np.ndarray, inputs: Codec, weights: Weights) -> tuple[np.ndarray, Any]:
    """What a codec's transforms make of x: float32 (m, d'), and its quantizer."""
    stage: Any = inputs.stage
    transforms, quantizer = (stage.transforms, stage.quantizer) if isinstance(stage, Chain) else ((), stage)
    if quantizer is None or quantizer.kind != "quantizer":
        raise InputError(f"{stage} gives no codes; end it with a quantizer, as int:8")
    y = x.astype(np.float32, copy=False)
    for t in transforms:
        y, side = t.forward(y)
        if side:
            raise InputError(f"{t} keeps side information; activations go through transforms of whole columns (smooth, hadamard, permute, "
                             "scale:absmax:column), and scales of rows belong to the quantizer")
        y = np.asarray(y, np.float32)
    if y.shape[1] != weights.d:
        raise InputError(f"activations of {y.shape[1]} values, weights of {weights.d}")
    return y, quantizer


def integer_product(a: Levels, b: Levels) -> np.ndarray:
    """Σ over groups of (integer sum) · (scale of a) · (scale of b), in this order: float32 (m, n)."""
    d = a.ids.shape[1]
    step = int(np.gcd(a.group, b.group)) if min(a.group, b.group) < d else d
    out = np.zeros((len(a.ids), len(b.ids)), np.float32)
    for lo in range(0, d, step):
        i, j = (min(lo // v.group, v.scale.shape[1] - 1) for v in (a, b))
        out += exact(a.ids[:, lo:lo + step], b.ids[:, lo:lo + step]).astype(np.float32) * a.scale[:, i, None] * b.scale[None, :, j]
    return out


def exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a bᵀ of integers below 2^16: int64, through floating-point products whose every sum is exact."""
    most = max(1, int(np.abs(a).max(initial=0)) * int(np.abs(b).max(initial=0)))
    width = max(1, (_EXACT - 1) // most)
    if width < min(64, a.shape[1]):
        return (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.int64)  # below 2^53 for all that fits in memory
    total = np.zeros((len(a), len(b)), np.int64)
    for lo in range(0, a.shape[1], width):
        total += (a[:, lo:lo + width].astype(np.float32) @ b[:, lo:lo + width].astype(np.float32).T).astype(np.int64)
    return total
