"""Ids of codewords as the scans want them, which look up 4, 6 or 8 bits of a row at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..codes import Codes
from ..quantizer.grouped import Grouped
from ..quantizer.pq import PQ, wide_codewords
from ..quantizer.sign import Sign
from ..quantizer.vq import VQ
from ..symbols import pack, unpack

MOST = 4096  # ids a row (kMaxGroups of native/scan)
_WIDE = 1 << 24  # values of all codebooks together, at most


class Codewords(NamedTuple):
    """Each group's id of a row says ``sizes[g]`` of its values, up to the row's gain."""

    rows: np.ndarray       # (n, ceil(groups · bits / 8)) packed ids
    bits: int
    sizes: np.ndarray      # (groups,) int32
    books: np.ndarray      # (Σ sizes · 2^bits,) float32: for each group (size, 2^bits)
    gain: np.ndarray | None = None  # (n,) float32; None: ones


def packed(codes: Codes, path: str, coder: str, k: int) -> np.ndarray:
    """The ids of a part, packed: as they are stored where nothing codes them."""
    return np.ascontiguousarray(pack(codes.symbols(path), k) if coder else codes.part(path))


def grouped(q: Grouped, codes: Codes, path: str, coder: str) -> Codewords | None:
    books = q.codebooks()
    if q.groups > MOST or len(books) != int(q.sizes_.sum(dtype=np.int64)):
        return None
    parts = {"ids": codes.part(path + "ids") if not coder else codes.symbols(path + "ids")}
    if q.gain:
        parts["gain"] = codes.part(path + "gain")
    gain = np.ascontiguousarray(q.gains(parts), np.float32) if q.gain else None
    return Codewords(packed(codes, path + "ids", coder, q.k), q.bits, q.sizes_.astype(np.int32), (books * q.unit_[0]).ravel(), gain)


def pq(q: PQ, codes: Codes, path: str, coder: str, width: int) -> Codewords | None:
    """Up to 256 codewords a part."""
    if q.k > 256 or q.m > MOST:
        return None
    words, columns = wide_codewords(q.codebook_), q.columns(width)
    books = [words[j, :, :c.stop - c.start] for j, c in enumerate(columns)]
    return _laid(codes, path, coder, q.k, books)


def vq(q: VQ, codes: Codes, path: str, coder: str, width: int) -> Codewords | None:
    """Up to 256 codewords, of whole rows or of pieces, which share them."""
    words = wide_codewords(q.codebook_)
    size = words.shape[1]
    pieces = -(-width // size)
    if q.k > 256 or pieces > MOST or size >= 1 << 20 or pieces * size * 256 > _WIDE:
        return None
    return _laid(codes, path, coder, q.k, [words[:, :min(size, width - j * size)] for j in range(pieces)])


def sign(q: Sign, codes: Codes, path: str, coder: str, width: int) -> Codewords | None:
    """Four signs are one id of 4 bits, as they lie in memory; of complex pairs two."""
    if (-(-width // 4) > MOST) or codes.part(path + "scale").shape[1] != 1:
        return None
    ids = np.arange(16)[:, None]
    if q.complex:
        four = ids >> np.array([0, 2]) & 3
        turn = 1 - (four & 2)
        values = np.stack([turn * (1 - (four & 1)), turn * (four & 1)], axis=2).reshape(16, 4)
    else:
        values = 2 * (ids >> np.arange(4) & 1) - 1
    sizes = np.minimum(4, width - np.arange(0, width, 4)).astype(np.int32)
    books = np.concatenate([values[:, :size].T.ravel() for size in sizes.tolist()])
    gain = np.ascontiguousarray(codes.part(path + "scale")[:, 0].astype(np.float32))
    return Codewords(packed(codes, path + "ids", coder, 4 if q.complex else 2), 4, sizes, books.astype(np.float32), gain)


def together(terms: list[Codewords]) -> Codewords | None:
    """The codewords of several terms, none with a gain, as those of one: their scores add up. None if they are too many."""
    groups, bits = sum(len(t.sizes) for t in terms), max(t.bits for t in terms)
    if groups > MOST or any(t.gain is not None for t in terms):
        return None
    ids = np.concatenate([unpack(t.rows, len(t.sizes), 1 << t.bits) for t in terms], axis=1)
    books = np.concatenate([_wider(t.books, t.bits, bits) for t in terms])
    return Codewords(pack(ids, 1 << bits), bits, np.concatenate([t.sizes for t in terms]), books)


def _wider(books: np.ndarray, bits: int, to: int) -> np.ndarray:
    return np.pad(books.reshape(-1, 1 << bits), ((0, 0), (0, (1 << to) - (1 << bits)))).ravel()


def _laid(codes: Codes, path: str, coder: str, k: int, books: list[np.ndarray]) -> Codewords:
    """Ids in [0, k), one for each of these codebooks (k, size)."""
    bits = next(b for b in (4, 6, 8) if k <= 1 << b)
    rows = packed(codes, path + "ids", coder, k) if k == 1 << bits else pack(codes.symbols(path + "ids"), 1 << bits)
    sizes = np.array([b.shape[1] for b in books], np.int32)
    flat = [np.pad(b, ((0, (1 << bits) - k), (0, 0))).T.ravel() for b in books]
    return Codewords(rows, bits, sizes, np.ascontiguousarray(np.concatenate(flat), np.float32))
