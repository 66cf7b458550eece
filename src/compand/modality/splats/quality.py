"""How good, in one number: the steps of the stage ``splat`` for a quality from 1 to 100, and the quality that fits a size."""

from __future__ import annotations

from collections.abc import Callable

from ...codec import Codec
from ...errors import InputError
from .scene import ENTRY, Scene

DEFAULT = 50
EXTRA, BLOCK = 1152, 640  # bytes of a file around the codes of a scene (header, index), and of each block (chunks, padding, box)


def spec_of(quality: float) -> str:
    """The spec for a quality from 1 to 100; about 6 points are a byte a splat, 16 halve every step.

    Steps of the attributes go together where a byte bought in each gains about as many decibels in the picture.

    >>> spec_of(50)
    'splat:3.75:9:7.5:80:0.05:0.1:adapt=0.35:turn=0.75:thin=0.5'
    """
    if not 1 <= quality <= 100:
        raise InputError(f"quality goes from 1 to 100, not {quality:g}")
    f = 2 ** ((quality - DEFAULT) / 16)

    def short(x: float) -> str:
        return f"{x:.3g}"

    d = (quality - DEFAULT) / 16
    return (f"splat:{short(3.75 + d)}:{min(256, max(2, round(9 * f)))}:{short(min(16, max(1, 7.5 + d)))}:"
            f"{min(4096, max(8, round(80 * f)))}:{short(0.05 / f)}:{short(0.1 / f)}:adapt=0.35:turn=0.75:thin=0.5")


def fitting(scene: Scene, nbytes: int, told: Callable[[str], None] = lambda _: None) -> str:
    """The spec of the best quality that keeps a scene's file within so many bytes. Raises `InputError` if none does."""
    items = list(scene.items())
    x = next(i for i in items if i.name == ENTRY).load()
    codec = Codec(spec_of(DEFAULT) + scene.suffix)
    blocks = -(-len(x) // codec.block_rows(codec.form(x.shape, "float32")))
    room = nbytes - EXTRA - BLOCK * (blocks - 1) - sum(i.nbytes for i in items if i.name != ENTRY)
    low, high = 1.0, 100.0

    def size(quality: float) -> int:
        told(f"trying quality {quality:.0f}")
        codec = Codec(spec_of(quality) + scene.suffix).fit(x)
        return codec.nbytes + codec.encode(x).nbytes

    if (least := size(low)) > room:
        raise InputError(f"{len(x):,} splats need {least + nbytes - room:,} bytes at the lowest quality, {nbytes:,} were asked for; "
                         "leave some splats out")
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= room else (low, middle)
    return spec_of(low) + scene.suffix
