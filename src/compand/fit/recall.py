"""The fewest bytes a vector that find a wanted part of the true neighbours, measured on the vectors themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import NamedTuple

import numpy as np

from ..codec import SAMPLE_ROWS, Codec
from ..codes import stored_form
from ..dtypes import dtype
from ..errors import InputError
from ..metric.neighbours import nearest
from .vectors import preset

K = 10             # true neighbours of a query
QUERIES = 256      # rows held back to ask
NEAR = 128         # rows nearest to each query, by which budgets are tried before all rows are
FEW = 1 << 14      # rows fitted to in those trials
VALUES = 1 << 26   # of the rows that are searched, at most
LEAST = 1000       # rows; below, what is measured says little
STEPS = 100        # budgets from 4 bytes to one a value, about 5 % apart
_CURVE = np.array([(0, 1e-3), (1 / 16, 1.5), (1 / 8, 2.45), (1 / 4, 3.76), (1 / 2, 5.64), (3 / 4, 7.4), (1, 10)]).T
# bytes a value and -log2(1 - recall) as benchmarks/vectors.py has them: where to try first, and next


class Wanted(NamedTuple):
    """A spec, why this one, the recall it was measured to have, bytes a vector, and how both were measured."""

    spec: str
    why: str
    recall: float
    nbytes: float
    how: str


def smallest(x, recall: float, *, queries=None, progress: Callable[[float], None] | None = None) -> Wanted:
    """The spec of the smallest budget of `preset` whose codes hold ``recall`` (above 0, at most 1) of the ten true neighbours.

    Rows held back from x (n, d), at most 256, ask the others, or a sample of at most 2²⁶ values of them, with inner products: in float32
    for the truth, then on the codes, all of which are scanned. Budgets are tried on the rows nearest to the queries first, the last ones on
    all rows. ``queries`` (q, d): half of them ask and the others are what is fitted to.
    ``progress`` is told the share that is done. Raises `InputError` for fewer than 1,000 rows, NaN, or a recall that no budget reaches.

    >>> x = np.random.default_rng(0).standard_normal((2000, 32), dtype=np.float32)
    >>> found = smallest(x, 0.9)
    >>> found.spec.partition(":")[0], found.recall >= 0.9, found.nbytes < 34
    ('klt,ecsq', True, True)
    """
    if not 0 < recall <= 1:
        raise InputError(f"recall must be above 0 and at most 1, not {recall}")
    n, d = x.shape
    if n < LEAST:
        raise InputError(f"recall is measured on the vectors themselves, which takes {LEAST:,}; there are {n:,}: name the bytes")
    tell = progress or (lambda share: None)
    held = np.unique(np.linspace(0, n - 1, min(QUERIES, n // 8)).astype(np.int64))
    rest = np.arange(n) if queries is not None else np.delete(np.arange(n), held)
    some = rest[np.unique(np.linspace(0, len(rest) - 1, min(len(rest), max(VALUES // d, LEAST))).astype(np.int64))]
    base = _rows(x, some)
    own = _rows(x, held) if queries is None else np.asarray(queries, np.float32)[1::2][:QUERIES]
    asked = {} if queries is None else {"queries": np.asarray(queries, np.float32)[::2]}
    if not len(own) or own.shape[1] != d:
        raise InputError(f"queries must be (q, {d}) like the vectors, with q >= 2, not {list(np.shape(queries))}")
    near = nearest(own, _blocks(base), NEAR)
    truth, close = near[:, :K], np.unique(near)
    place = np.searchsorted(close, truth)
    tell(0.1)

    def trial(size: int, rows: np.ndarray, true: np.ndarray, sample: int | None) -> tuple[float, float]:
        codec = Codec(preset(size, d)[0])
        if codec.stage.state(codec.form(base.shape, "float32")):
            codec = codec.fit(base, sample=sample or SAMPLE_ROWS, **(asked if codec.stage.queried else {}))
        taken = 0

        def decoded():
            nonlocal taken
            for block in codec.encode_blocks(rows):
                taken += block.nbytes
                yield codec.decode_block(block, codec.form(rows.shape, "float32")).astype(np.float32, copy=False)

        found = nearest(own, decoded(), K)
        return float((true[:, :, None] == found[:, None]).any(-1).mean()), taken / len(rows)

    sizes = np.unique(np.rint(np.geomspace(min(4, d + 1), d + 2, STEPS)).astype(np.int64))
    crowd = base[close]
    guess = _search(sizes, recall, d * float(np.interp(_bits(recall), *_CURVE[::-1])), d, lambda s: trial(s, crowd, place, FEW), tell)[0]
    tell(0.5)
    size, (reached, nbytes) = _search(sizes, recall, guess, d, lambda s: trial(s, base, truth, None), tell)
    tell(1.0)
    if reached < recall:
        raise InputError(f"recall {recall:g} is not reached: a byte a value finds {reached:.4f}; keep the floats or ask for less")
    spec, why = preset(size, d)
    who = f"{len(own)} rows held back" if queries is None else f"{len(own)} of the queries"
    among = f"all {len(base):,}" if len(base) == len(rest) else f"{len(base):,} of {n:,}"
    return Wanted(spec, why, reached, nbytes, f"recall@{K} of {who} among {among} vectors, against float32")


def _search(sizes: np.ndarray, recall: float, guess: float, d: int, trial: Callable[[int], tuple[float, float]],
            tell: Callable[[float], None]) -> tuple[int, tuple[float, float]]:
    """The smallest of the sizes that reaches recall, begun at a guess, and its trial; the largest if none does."""
    low, high, found = 0, len(sizes) - 1, dict[int, tuple[float, float]]()
    while True:
        at = min(max(int(np.searchsorted(sizes, guess)), low), high)
        found[at] = trial(int(sizes[at]))
        reached = found[at][0]
        # the next size by the usual slope, from here
        guess = sizes[at] * np.interp(_bits(recall), *_CURVE[::-1]) / max(np.interp(_bits(reached), *_CURVE[::-1]), 1e-3)
        low, high = (low, at) if reached >= recall else (min(at + 1, high), high)
        if high in found and (low >= high or (reached >= recall and np.searchsorted(sizes, guess) >= at)):
            return int(sizes[high]), found[high]


def _bits(recall: float) -> float:
    return -float(np.log2(max(1 - recall, 1 / 1024)))


def shared_bytes(spec: str, d: int) -> int:
    """Bytes of what codes of a spec for vectors of d values share, stored once: rotations, codebooks, probabilities.

    >>> shared_bytes("klt,grouped:48", 384), shared_bytes("int:8", 384)
    (347272, 0)
    """
    codec = Codec(spec)
    stored = map(stored_form, codec.stage.state(codec.form((1 << 16, d), "float32")).values())
    return sum(prod(shape) * dtype(name).itemsize for name, shape in stored)


def _rows(x, rows: np.ndarray) -> np.ndarray:
    """Some rows as float32. Raises `InputError` for NaN."""
    found = np.ascontiguousarray(x[rows], np.float32)
    if not (fine := np.isfinite(found).all(axis=1)).all():
        raise InputError(f"row {int(rows[np.flatnonzero(~fine)[0]])} has NaN or infinite values")
    return found


def _blocks(x: np.ndarray) -> Iterable[np.ndarray]:
    step = max(1, (1 << 22) // x.shape[1])
    return (x[at:at + step] for at in range(0, len(x), step))

