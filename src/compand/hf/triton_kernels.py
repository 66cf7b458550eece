"""Products with codes on a device, in Triton: weights are decoded in registers, a tile of rows and columns at a time.

Loaded only where Triton is. Sums are float32; what one tile multiplies has the dtype of the activations.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _times(x, y, w, row, line, m, n, d, column, total, DOT: tl.constexpr):
    """total (lines, rows) + a tile of x (m, d) times the weights w (rows, columns)."""
    own = tl.load(x + line[:, None] * d + column[None, :], mask=(line[:, None] < m) & (column[None, :] < d), other=0.0)
    if DOT:
        return tl.dot(own, tl.trans(w.to(own.dtype)), total, input_precision="ieee")
    return total + tl.sum(own.to(tl.float32)[:, None, :] * w[None, :, :], axis=2)


@triton.jit
def ids_kernel(x, y, ids, scale, zero, levels, m, n, d, row_bytes, groups, group, offset, unit, BITS: tl.constexpr, ZERO: tl.constexpr,
               LEVELS: tl.constexpr, LINES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DOT: tl.constexpr):
    """y (m, n) float32 = x (m, d) times packed ids: weight = (level - offset + zero) * scale * unit, see `Rows` of matmul.hpp."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    line = tl.program_id(1) * LINES + tl.arange(0, LINES)
    total = tl.zeros((LINES, ROWS), tl.float32)
    for start in range(0, d, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        bit = column * BITS
        at = bit // 8
        here = (row[:, None] < n) & (column[None, :] < d)
        first = ids + row[:, None] * row_bytes + at[None, :]
        word = tl.load(first, mask=here, other=0).to(tl.int32)
        if 8 % BITS != 0:
            word |= tl.load(first + 1, mask=here & (at[None, :] + 1 < row_bytes), other=0).to(tl.int32) << 8
        level = (word >> (bit % 8)[None, :]) & ((1 << BITS) - 1)
        if LEVELS:
            level = tl.load(levels + level)
        w = (level - offset).to(tl.float32)
        own = row[:, None] * groups + (column // group)[None, :]
        if ZERO:
            w += tl.load(zero + own, mask=here, other=0.0)
        w = w * (tl.load(scale + own, mask=here, other=0.0) * unit)
        total = _times(x, y, w, row, line, m, n, d, column, total, DOT)
    tl.store(y + line[:, None] * n + row[None, :], total, mask=(line[:, None] < m) & (row[None, :] < n))


@triton.jit
def trellis_kernel(x, y, bits, scale, m, n, d, stride, strip_bytes, groups, group, factor, other, K: tl.constexpr, MANY: tl.constexpr,
                   LINES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DOT: tl.constexpr):
    """y (m, stride) float32, its first n columns = x (m, d) times whole strips of a trellis, see compand/quantizer/trellis.py."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    line = tl.program_id(1) * LINES + tl.arange(0, LINES)
    strip, own_row = (row // 16).to(tl.int64), row % 16
    total = tl.zeros((LINES, ROWS), tl.float32)
    for start in range(0, d, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        here = (row[:, None] < n) & (column[None, :] < d)
        alone = (column == d - 1) & (d % 2 == 1)  # a last column follows row by row
        value = (column // 2 * 32)[None, :] + tl.where(alone[None, :], own_row[:, None], 2 * own_row[:, None] + (column % 2)[None, :])
        bit = value * K
        at = bit // 8
        window = tl.zeros((ROWS, COLUMNS), tl.int32)
        for j in tl.static_range(3):
            place = tl.where(at + j < strip_bytes, at + j, (at + j) % strip_bytes)
            window |= tl.load(bits + strip[:, None] * strip_bytes + place, mask=here, other=0).to(tl.int32) << (8 * j)
        window = (window >> (bit % 8)) & 0xffff
        p = (window * factor) & 0xffff
        level = (p & 255) + (p >> 8) - 255
        if MANY == 2:
            r = (window * other) & 0xffff
            level += (r & 255) + (r >> 8) - 255
        own = (strip[:, None] * groups + (column // group)[None, :]) * 16 + own_row[:, None]
        w = level.to(tl.float32) * tl.load(scale + own, mask=here, other=0.0)
        total = _times(x, y, w, row, line, m, n, d, column, total, DOT)
    tl.store(y + line[:, None] * stride + row[None, :], total, mask=(line[:, None] < m) & (row[None, :] < n))
