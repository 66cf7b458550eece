"""Codes of a sum of codebooks found by beam search: the best few beginnings are kept after each term, not the best one alone."""

from __future__ import annotations

import numpy as np

_VALUES = 1 << 22  # errors of beginnings times codewords held at a time


def search(x: np.ndarray, books: list[np.ndarray], width: int) -> np.ndarray:
    """Ids (n, terms) uint32 of codewords whose sum is near x (n, d) float32; books (k, d) float32, one for each term.

    ``width`` beginnings are kept after each term; 1 is what residual quantization does. Equal errors go to the lower ids. Products
    are summed in a fixed order, so the ids are the same on every machine. Babenko & Lempitsky 2014; Martinez et al. 2014.

    >>> books = [np.float32([[0], [10]]), np.float32([[-6], [1]])]
    >>> search(np.float32([[4.9]]), books, 1).tolist(), search(np.float32([[4.9]]), books, 2).tolist()
    ([[0, 1]], [[1, 0]])
    """
    step = max(1, _VALUES // (width * max(len(book) for book in books)))
    found = [_search(np.ascontiguousarray(x[at:at + step], np.float32), books, width) for at in range(0, len(x), step)]
    return np.concatenate(found) if found else np.zeros((0, len(books)), np.uint32)


def _search(x: np.ndarray, books: list[np.ndarray], width: int) -> np.ndarray:
    from . import _native

    n, d = x.shape
    rest, ids = x[:, None, :], np.zeros((n, 1, 0), np.uint32)
    for book in books:
        book = np.ascontiguousarray(book, np.float32)
        kept = rest.shape[1]
        dots = _native.scan_turned(np.ascontiguousarray(rest.reshape(-1, d)), np.ascontiguousarray(book.T)).reshape(n, kept, -1)
        errors = (_squares(rest)[..., None] - 2 * dots + _squares(book)).reshape(n, -1)
        best = np.argsort(errors, axis=1, kind="stable")[:, :width] if width * 8 > errors.shape[1] else _least(errors, width)
        own, word = np.divmod(best, len(book))
        rest = np.take_along_axis(rest, own[..., None], 1) - book[word]
        ids = np.concatenate([np.take_along_axis(ids, own[..., None], 1), word[..., None].astype(np.uint32)], axis=2)
    return ids[np.arange(n), np.argmin(_squares(rest), axis=1)]


def _least(errors: np.ndarray, width: int) -> np.ndarray:
    """Places of the ``width`` least of each line, least first, equal ones by place."""
    limit = np.partition(errors, width - 1, axis=1)[:, width - 1:width]
    some = np.argsort(errors > limit, axis=1, kind="stable")[:, :max(width, int((errors <= limit).sum(axis=1).max()))]
    order = np.argsort(np.take_along_axis(errors, some, 1), axis=1, kind="stable")[:, :width]
    return np.take_along_axis(some, order, 1)


def _squares(a: np.ndarray) -> np.ndarray:
    """|a|² along the last axis, summed column after column."""
    total = np.zeros(a.shape[:-1], np.float32)
    for j in range(a.shape[-1]):
        total += a[..., j] * a[..., j]
    return total
