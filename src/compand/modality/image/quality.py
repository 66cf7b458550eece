"""How good, in one number: the step of the stage ``image`` for a quality from 1 to 100, and the step that fits a size."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...codec import Codec
from ...errors import InputError
from ...stage import replace
from . import ENTRY, Picture, adapted

DEFAULT = 50
LEAST, MOST = 0.25, 1000.0


def step_of(quality: float) -> float:
    """The step for a quality from 1 to 100; 11 points halve it.

    >>> step_of(50), step_of(100), step_of(1)
    (24, 1.03, 526)
    """
    if not 1 <= quality <= 100:
        raise InputError(f"quality goes from 1 to 100, not {quality:g}")
    found = 24 * 2 ** ((DEFAULT - quality) / 11)
    return round(found, 2) if found < 10 else round(found)


def spec_of(quality: float, tile: int = 512) -> str:
    """The spec of a quality, for any picture (channels and bits follow from it).

    >>> spec_of(45), spec_of(80, 64)
    ('image:33', 'image:3.62:tile=64')
    """
    return str(Codec(f"image:{step_of(quality):g}:tile={tile}").stage)


def fitting(opened: Picture, nbytes: int, other: int, tile: int = 512, told: Callable[[str], None] = lambda _: None) -> str:
    """The spec of the least step whose codes keep within ``nbytes`` less the ``other`` bytes of a file. Raises `InputError`."""
    item = next(i for i in opened.items() if i.name == ENTRY)
    x, base = item.load(), adapted(Codec(f"image:tile={tile}").stage, item)
    room = nbytes - other
    sizes: dict[float, int] = {}

    def size(step: float) -> int:
        if step not in sizes:
            told(f"trying a step of {step:g}")
            sizes[step] = Codec(replace(base, step=step)).encode(x).nbytes  # type: ignore[call-arg]
        return sizes[step]

    low, high = math.log2(LEAST), math.log2(MOST)
    if (least := size(MOST)) > room:
        raise InputError(f"this picture needs {least + other:,} bytes at the lowest quality, {nbytes:,} were asked for; shrink it first")
    at, best = math.log2(24), MOST
    for _ in range(9):  # the size falls about as the step rises: guess, within the bounds
        step = float(f"{2 ** at:.3g}")
        got = size(step)
        if got <= room:
            high, best = at, min(best, step)
        else:
            low = at
        guess = at + math.log2(max(got, 1) / max(room, 1))
        at = guess if low + 0.02 < guess < high - 0.02 and len(sizes) < 6 else (low + high) / 2
        if high - low < 0.02 or (got <= room and got > 0.985 * room):
            break
    return str(replace(base, step=best))  # type: ignore[call-arg]
