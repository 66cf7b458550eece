"""The first terms of a sum as an expression of their own: what a stack of codes is when only some of it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .codec import Codec
from .codes import Block, Codes
from .dtypes import dtype
from .errors import CorruptError, InputError
from .expression import Chain, Sum
from .stage import Stage

Where = Callable[[str], tuple[str, int]]  # a part of the shorter expression → that of the whole, and the power of two its values grow by


def count(stage: Stage) -> int:
    """After how many terms decoding may stop.

    >>> from compand import parse
    >>> [count(parse(s)) for s in ("hadamard,(trellis:2+trellis:1)", "nested:2x4x8", "int:4")]
    [2, 3, 1]
    """
    own = stage.quantizer if isinstance(stage, Chain) else stage
    if isinstance(own, Sum):
        return len(own.items)
    return len(own.bits) if own is not None and own.name == "nested" else 1  # type: ignore[attr-defined]


def first(stage: Stage, terms: int) -> tuple[Stage, Where]:
    """The expression of the first terms, and where its parts are in the whole. Decoding it is decoding the whole with ``terms=``.

    >>> from compand import parse
    >>> short, where = first(parse("hadamard,(trellis:2+trellis:1+int:2)"), 1)
    >>> str(short), where("1.bits")
    ('hadamard,trellis:2', ('1.0.bits', 0))
    """
    if type(terms) is not int or terms < 1:
        raise InputError(f"terms={terms!r}: how many terms of a sum, 1 or more")
    if terms >= count(stage):
        return stage, lambda path: (path, 0)
    if isinstance(stage, Chain):
        own, inner = first(stage.quantizer, terms)
        at = len(stage.transforms)
        if not isinstance(own, Chain):
            return Chain((*stage.transforms, own, *stage.items[at + 1:])), _under(at, inner)
        return Chain((*stage.transforms, *own.items, *(() if own.coder else stage.items[at + 1:]))), _spread(at, inner)
    if isinstance(stage, Sum):
        items = stage.items[:terms]
        return (Sum(items), lambda path: (path, 0)) if terms > 1 else (items[0], lambda path: (f"0.{path}", 0))
    return stage.first(terms)  # type: ignore[attr-defined]


def _under(at: int, inner: Where) -> Where:
    """Of a chain whose quantizer, item ``at``, became another."""
    def where(path: str) -> tuple[str, int]:
        number, _, name = path.partition(".")
        if int(number) < at:
            return path, 0
        old, power = inner(name)
        return f"{at}.{old}", power
    return where


def _spread(at: int, inner: Where) -> Where:
    """Of a chain whose quantizer, item ``at``, became a chain, whose items now stand in it."""
    def where(path: str) -> tuple[str, int]:
        number, _, name = path.partition(".")
        if int(number) < at:
            return path, 0
        old, power = inner(f"{int(number) - at}.{name}")
        return f"{at}.{old}", power
    return where


def codes_of(codes: Codes, terms: int) -> Codes:
    """The codes of the first terms as codes of the shorter expression: views of these, but for scales that change.

    Only the parts of those terms need to be in the blocks.

    >>> x = np.random.default_rng(0).standard_normal((4, 64), dtype=np.float32)
    >>> codes = Codec("int:2+int:2+int:4").encode(x)
    >>> few = codes_of(codes, 2)
    >>> few.codec.spec, np.array_equal(few.codec.decode(few), codes.codec.decode(codes, terms=2))
    ('int:2+int:2', True)
    """
    stage, where = first(codes.codec.stage, terms)
    if stage is codes.codec.stage:
        return codes
    codec, blocks = Codec(stage), []
    for b in codes.blocks:
        parts = {}
        for path, part in codec.layout(codes.form._replace(n=b.rows)).items():
            old, power = where(path)
            if old not in b.parts:
                raise CorruptError(f"{codes.codec.spec}: the part {old} is missing")
            parts[path] = b.parts[old] if not power else (b.parts[old].astype(np.float32) * np.float32(2.0 ** power)).astype(
                dtype(part.dtype or "float32"))
        blocks.append(Block(b.rows, parts))
    return replace(codes, codec=codec, blocks=tuple(blocks))
