"""Randomised Hadamard transform: spreads every value over its block, so that no value is an outlier."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import numpy as np

from .. import _native, seeded
from ..array import array_namespace, cast, device, dtype_name, is_numpy, like
from ..stage import KW_ONLY, Transform


class Hadamard(Transform, name="hadamard"):
    """Seeded random signs, then orthonormal Hadamard transforms of power-of-two blocks: (n, d) → (n, d).

    Parameters
    ----------
    block : int
        Values of a block, rounded down to a power of two; none = as large as d allows.
    seed : int
        Of the signs (splitmix64, see `compand.seeded`).
    odd : split, pad or overlap
        What to do where d is not a multiple of the block. ``split``: smaller blocks for what is left (384 = 256 + 128).
        ``overlap``: a second round on the last block of values, so that all are spread over at least a whole block; on real
        weights and embeddings of 384, 1000 and 1536 columns ``int:4`` gains no more than 0.1 dB from it over ``split``.
        ``pad``: zeros up to a multiple of the block (up to the next power of two for block=none): costs rate.

    The energy of a row is kept; the largest value of a block is at most its norm, and for typical rows about
    sqrt(2 ln(block) / block) of it. ``inverse ∘ forward`` differs from x by at most about log2(block) · 2^-23 · the norm of the
    block. Only additions and one multiplication, in a fixed order: the same bits on every machine.
    Source: QuIP# (Tseng et al. 2024), QuaRot (Ashkboos et al. 2024); Ailon & Chazelle 2006.

    >>> import numpy as np
    >>> x = np.zeros((1, 6), np.float32); x[0, 1] = 2
    >>> y, _ = Hadamard().forward(x)
    >>> np.abs(y)
    array([[1., 1., 1., 1., 0., 0.]], dtype=float32)
    >>> Hadamard(odd="pad").forward(x)[0].shape
    (1, 8)
    """

    examples = ("hadamard,int:4:group=16", "hadamard:odd=pad,int:8", "hadamard:odd=overlap,sign")
    block: Annotated[int, range(2, 1 << 24)] | None = None
    _: KW_ONLY
    seed: Annotated[int, range(1 << 62)] = 0
    odd: Literal["split", "pad", "overlap"] = "split"

    def _size(self, d: int) -> int:
        """Block size: a power of two."""
        return _size(self.block, self.odd, d)

    def out(self, form):
        size = self._size(form.d)
        return form._replace(d=-(-form.d // size) * size) if self.odd == "pad" else form

    def _rounds(self, d: int) -> tuple[Runs, ...]:
        """One round, or two if blocks overlap."""
        return _rounds(self.block, self.odd, d)

    def forward(self, x):
        (n, d), xp = x.shape, array_namespace(x)
        wide = self.out_width(d)
        if wide > d:
            x = xp.concat([x, xp.zeros((n, wide - d), dtype=x.dtype, device=device(x))], axis=1)
        for i, blocks in enumerate(self._rounds(wide)):
            x = _patched(x, blocks, lambda y, i=i, blocks=blocks: _blocks(y * self._signs(i, y), blocks))
        return x, {}

    def inverse(self, y, side, form):
        wide = self.out_width(form.d)
        for i, blocks in reversed(list(enumerate(self._rounds(wide)))):
            y = _patched(y, blocks, lambda x, i=i, blocks=blocks: _blocks(x, blocks) * self._signs(i, x))
        return y[:, :form.d] if wide > form.d else y

    def out_width(self, d: int) -> int:
        """Columns that come out for d columns."""
        size = self._size(d)
        return -(-d // size) * size if self.odd == "pad" else d

    def rounds(self, d: int) -> list[tuple[int, np.ndarray, list[int]]]:
        """What `forward` does to rows of d columns, in order: the first column of each round, its signs, the sizes of its blocks."""
        wide, found = self.out_width(d), []
        for i, blocks in enumerate(self._rounds(wide)):
            at, width = blocks[0][0], sum(size * count for _, size, count in blocks)
            found.append((at, seeded.signs(self.seed + i, width), [size for _, size, count in blocks for _ in range(count)]))
        return found

    def _signs(self, turn: int, x):
        return cast(like(seeded.signs(self.seed + turn, x.shape[1]), x), dtype_name(x))


Runs = tuple[tuple[int, int, int], ...]  # start, block size, number of blocks


@lru_cache(256)
def _size(block: int | None, odd: str, d: int) -> int:
    d = max(d, 1)
    if odd == "pad":
        whole = 1 << (d - 1).bit_length()
        return min(whole, 1 << (block.bit_length() - 1)) if block else whole
    return 1 << (min(block or d, d).bit_length() - 1)


@lru_cache(256)
def _rounds(block: int | None, odd: str, d: int) -> tuple[Runs, ...]:
    size = _size(block, odd, d)
    count, rest = divmod(d, size)
    first = [(0, size, count)]
    if rest and odd == "overlap":
        return tuple(first), ((d - size, size, 1),)
    at = count * size
    while rest:
        small = 1 << (rest.bit_length() - 1)
        first.append((at, small, 1))
        at, rest = at + small, rest - small
    return (tuple(first),)


def _patched(x, blocks: Runs, change):
    """x with the columns that the blocks cover changed."""
    at, end = blocks[0][0], blocks[-1][0] + blocks[-1][1] * blocks[-1][2]
    if end - at == x.shape[1]:
        return change(x)
    return array_namespace(x).concat([x[:, :at], change(x[:, at:end]), x[:, end:]], axis=1)


def _blocks(x, blocks: Runs):
    """Each run of blocks transformed; they cover x."""
    n, first = x.shape[0], blocks[0][0]
    if len(blocks) == 1 and is_numpy(x):
        return fht(x.reshape(-1, blocks[0][1])).reshape(x.shape)
    xp, pieces = array_namespace(x), []
    for at, size, count in blocks:
        piece = xp.reshape(x[:, at - first:at - first + size * count], (n * count, size))
        pieces.append(xp.reshape(fht(piece), (n, size * count)))
    return pieces[0] if len(pieces) == 1 else xp.concat(pieces, axis=1)


def fht(x):
    """Orthonormal Hadamard transform of rows (n, power of two), natural order: butterflies of distance 1, 2, 4, ... .

    >>> fht(np.array([[1., 2., 3., 4.]]))
    array([[ 5., -1., -2.,  0.]])
    """
    if not is_numpy(x):
        return fht_reference(x)
    n, size = x.shape
    if x.dtype == np.float32:
        return _native.hadamard(np.ascontiguousarray(x), size)  # the same additions, so the same bits
    y, rows = np.empty((n, size), x.dtype), max(1, _CACHE // size)
    for at in range(0, n, rows):
        y[at:at + rows] = _butterflies(x[at:at + rows])
    return y


_CACHE = 1 << 16  # values worked on at a time
_FIRST = 16       # distances below this are done with the rows across, so that every addition is of long runs


def _butterflies(x: np.ndarray) -> np.ndarray:
    """The same additions as `fht_reference`, in two buffers."""
    n, size = x.shape
    first = min(size, _FIRST)
    a = np.array(x.reshape(n * size // first, first).T, order="C")  # a copy: it is written to
    b, h = np.empty_like(a), 1
    while h < size:
        if h == _FIRST:
            a, b = np.ascontiguousarray(a.reshape(first, -1).T), b.reshape(-1, first)
        shape = (first // (2 * h), 2, h, -1) if h < _FIRST else (n * size // (2 * h), 2, h)
        pairs, out = a.reshape(shape), b.reshape(shape)
        np.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        a, b, h = b, a, 2 * h
    y = a.T if size <= _FIRST else a
    return y.reshape(n, size) * x.dtype.type(size ** -0.5)


def fht_reference(x):
    """`fht` for any array library."""
    xp, (n, size) = array_namespace(x), x.shape
    h = 1
    while h < size:
        pairs = xp.reshape(x, (n, size // (2 * h), 2, h))
        a, b = pairs[:, :, 0, :], pairs[:, :, 1, :]
        x = xp.reshape(xp.stack([a + b, a - b], axis=2), (n, size))
        h *= 2
    return x * float(cast(np.asarray(size ** -0.5), dtype_name(x)))
