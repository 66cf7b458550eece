"""Codes with their rows in another order, taken as they are: nothing is decoded or coded again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..codes import Block, Codes, pack_part
from ..errors import InputError


def select(codes: Codes, rows: np.ndarray) -> Codes:
    """The codes of these row numbers, in this order, in blocks as a file wants them.

    Raises `InputError` for codes of which a part has not one line a row.

    >>> from compand import Codec
    >>> x = np.eye(4, dtype=np.float32)
    >>> from compand import Codec
    >>> codes = Codec("int:8").encode(x)
    >>> codes.codec.decode(select(codes, np.array([3, 1]))).argmax(axis=1).tolist()
    [3, 1]
    """
    return Codes(codes.codec, (len(rows), *codes.shape[1:]), codes.dtype, tuple(_blocks(codes, rows)))


def _blocks(codes: Codes, rows: np.ndarray) -> Iterator[Block]:
    step, form = codes.codec.block_rows(codes.form), codes.form
    if not len(rows):
        return
    whole = {}
    for path, part in codes.codec.layout(form._replace(n=1)).items():
        if not part.shape or part.shape[0] != 1:
            raise InputError(f"{codes.codec.spec}: rows cannot be taken one by one, {path} is not made of rows")
        whole[path] = codes.symbols(path) if part.coder else codes.part(path)
    for at in range(0, len(rows), step):
        some = rows[at:at + step]
        layout = codes.codec.layout(form._replace(n=len(some)))
        yield Block(len(some), {path: pack_part(a[some], layout[path]) if layout[path].coder else np.ascontiguousarray(a[some])
                                for path, a in whole.items()})


def joined(pieces: list[Codes]) -> Codes:
    """Codes of one codec, one after the other, without a copy."""
    first = pieces[0]
    n = sum(c.shape[0] for c in pieces)
    return Codes(first.codec, (n, *first.shape[1:]), first.dtype, tuple(b for c in pieces for b in c.blocks))
