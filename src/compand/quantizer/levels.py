"""Tables of levels for scalar quantization: named ones, learning them, and the nearest level of each value."""

from __future__ import annotations

import numpy as np

from .. import _native
from ..array import array_namespace, is_numpy, like
from ..fit.kmeans import kmeans_1d

# NormalFloat (QLoRA, 2023, appendix E) from -1 to 1; Lloyd-Max levels of the unit Gaussian (Max, 1960).
NAMED = {
    "nf3": [-1.0, -0.47862916, -0.21714182, 0.0, 0.16093017, 0.33791519, 0.56261697, 1.0],
    "nf4": [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
            -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
            0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    "gauss1": [0.79788456],
    "gauss2": [0.45278003, 1.5104176],
    "gauss3": [0.24509418, 0.75600528, 1.3439093, 2.1519457],
    "gauss4": [0.12839503, 0.3880483, 0.65675912, 0.94234046, 1.2562312, 1.6180464, 2.0690172, 2.7325896],
    "gauss5": [0.06588966, 0.19805183, 0.33137831, 0.46669952, 0.60493362, 0.7471357, 0.89456512, 1.0487833, 1.2118044,
               1.3863403, 1.5762281, 1.7872332, 2.0287284, 2.3177394, 2.6911196, 3.2607325],
}
NAMED = {name: np.float32(v if name[0] == "n" else [-a for a in v[::-1]] + v) for name, v in NAMED.items()}
SAMPLE = 1 << 20  # values a table is learnt from


def place(x, table: np.ndarray):
    """The id of the level nearest to each value of x (float32), ties to the lower level; uint8. ``table`` is ascending."""
    xp = array_namespace(x)
    middle = table.astype(np.float64)
    middle = (middle[1:] + middle[:-1]) / 2
    border = middle.astype(np.float32)  # rounded down, so that x > border in float32 is x > middle
    border = np.where(border > middle, np.nextafter(border, np.float32(-np.inf)), border).astype(np.float32)
    if not is_numpy(x):
        ids = xp.searchsorted(like(border, x), xp.reshape(x, (-1,)))
        return xp.astype(xp.reshape(ids, x.shape), xp.uint8)
    if len(border) > 12:
        return _native.nearest(np.ascontiguousarray(x).reshape(-1, 1), table[:, None], 1).reshape(x.shape)
    ids = np.zeros(x.shape, np.uint8)
    for b in border:
        ids += x > b
    return ids


def learn(x: np.ndarray, k: int, weight: np.ndarray | None = None) -> np.ndarray:
    """k ascending levels of least (weighted) squared error for each row of values x (r, n): (r, k) float32."""
    x = np.ascontiguousarray(x, np.float32)
    step = -(-x.shape[1] // SAMPLE)
    x, weight = x[:, ::step], None if weight is None else np.asarray(weight, np.float64)[:, ::step]
    if x.shape[1] < k:
        repeat = -(-k // x.shape[1])
        x, weight = np.tile(x, (1, repeat)), None if weight is None else np.tile(weight, (1, repeat))
    top = np.abs(x).max(1, keepdims=True)
    top = np.where(top > 0, np.ldexp(np.float32(1), np.frexp(top)[1] - 1), np.float32(1)).astype(np.float32)
    if weight is not None:
        most = weight.max(1, keepdims=True)
        weight = np.where(most > 0, weight / np.where(most > 0, most, 1), 1).astype(np.float32)
    return kmeans_1d(x / top, k, weight) * top
