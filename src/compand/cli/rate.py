"""Meeting a goal: a size, bits a value, a ratio or an error, held by the bytes that are really written."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..codec import Codec
from ..errors import InputError
from ..expression import Expression
from ..fit.ladder import ladder, lossless
from ..fit.search import Array, Search
from ..metric import Tally
from ..stage import Stage
from .console import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..modality.image import Picture
    from ..modality.splats import Scene

TRIES = 8
SLACK = 0.01  # of a size: if as much is left, it is shared out once more


class Goal(NamedTuple):
    """What the file shall keep to; at most one is given."""

    bits: float | None = None
    nbytes: int | None = None
    ratio: float | None = None
    error: float | None = None
    quality: float | None = None
    per_splat: float | None = None
    bpp: float | None = None
    tile: int | None = None

    def __bool__(self) -> bool:
        return any(v is not None for v in self)

    def budget(self, values: int, before: int) -> int | None:
        """Most bytes of the file; None if the goal is an error."""
        if self.bits is not None:
            return int(self.bits * values / 8)
        if self.ratio is not None:
            return int(before / self.ratio)
        return self.nbytes

    def splats(self, opened: Scene, values: int, before: int) -> str:
        """The spec for a scene of splats. Raises `InputError` if none meets the goal."""
        from ..modality.splats.quality import fitting, spec_of

        if self.error is not None:
            raise InputError("--max-error has no meaning for splats; use --quality, and compand eval for the errors of its pictures")
        if self.bpp is not None or self.tile is not None:
            raise InputError("--bpp and --tile are for pictures; splats have --quality, --bytes-per-splat and --size")
        if self.quality is not None:
            return spec_of(self.quality) + opened.suffix
        budget = self.budget(values, before) if self.per_splat is None else int(self.per_splat * len(opened))
        return fitting(opened, budget or 0)

    def image(self, opened: Picture, values: int, before: int, other: int, told: Callable[[str], None]) -> str:
        """The spec for a picture. Raises `InputError` if none meets the goal."""
        from ..modality.image.quality import DEFAULT, fitting, spec_of

        if self.error is not None or self.per_splat is not None:
            raise InputError("--max-error and --bytes-per-splat have no meaning for pictures; use --quality, --bpp or --size")
        tile = self.tile or 512
        pixels = opened.pixels.color.shape[0] * opened.pixels.color.shape[1]
        budget = int(self.bpp * pixels / 8) if self.bpp is not None else self.budget(values, before)
        if budget is None:
            return spec_of(DEFAULT if self.quality is None else self.quality, tile)
        return fitting(opened, budget, other, tile, told)


def seeded(stage: Stage, seed: int | None) -> Stage:
    """The stage, with this seed wherever a stage has one."""
    if seed is None:
        return stage
    if isinstance(stage, Expression):
        return type(stage)(tuple(seeded(s, seed) for s in stage.items))
    return replace(stage, seed=seed) if "seed" in getattr(stage, "__dataclass_fields__", {}) else stage  # type: ignore[type-var,call-arg]


def write(opened, path: Path, spec: Any, *, base: Path | None = None, force: bool = False, bar: Progress | None = None):
    """Pack with a stage, a callable, or None for lossless."""
    from ..modality import pack

    done = 0

    def progress(now: int, total: int, name: str) -> None:
        nonlocal done
        if bar:
            bar.add(now - done, name)
        done = now

    spec = Codec(spec) if isinstance(spec, Stage) else spec
    return pack(opened, path, spec=spec, lossless=spec is None, base=base, overwrite=force, progress=progress)


def fitted(opened, goal: Goal, before: int, path: Path, seed: int | None, quiet: bool, base: Path | None) -> str:
    """Write the file that meets the goal; the specs used, as text. Raises `InputError` if none does."""
    from ..integration.language import is_decoder
    from ..modality.image import Picture
    from ..modality.splats import Scene
    from ..modality.weights import quantizable

    items = list(opened.items())
    values = sum(i.size for i in items)
    if isinstance(opened, Scene):
        spec = goal.splats(opened, values, before)
        with Progress(sum(i.nbytes for i in items), "compress", quiet) as bar:
            write(opened, path, Codec(spec).stage, base=base, force=True, bar=bar)
        return spec
    if isinstance(opened, Picture):
        return _picture(opened, goal, values, before, path, quiet)
    if goal.quality is not None or goal.per_splat is not None or goal.bpp is not None or goal.tile is not None:
        raise InputError(f"--quality, --bytes-per-splat, --bpp and --tile are for scenes of splats or pictures; this is {opened.format}")
    budget = goal.budget(values, before)
    arrays = [Array(i.name, i.shape, i.dtype, i.load, quantizable(i, opened.modality) or len(items) == 1) for i in items]
    kind = "language" if is_decoder(opened.path) else opened.modality
    specs = [str(seeded(Codec(s).stage, seed)) for s in ladder(kind, 12 if len(items) == 1 else 3)]
    found = Search(arrays, specs, lossless())
    with Progress(sum(a.nbytes for a in arrays), "trying specs", quiet) as bar:
        found.run(lambda n, name: bar.add(n, f"trying specs on {name}"))
    place = path.with_name(f".{path.name}.{os.getpid()}.fit")
    room, grown = budget, False
    try:
        for _ in range(TRIES):
            chosen = {a.name: t.spec for a, t in zip(arrays, found.choose(room, goal.error), strict=True)}
            with Progress(sum(a.nbytes for a in arrays), "compress", quiet) as bar:
                write(opened, place, lambda name, shape, dtype, chosen=chosen: _lossy(chosen[name]), base=base, force=True, bar=bar)
            if budget is None:
                if not _reject(found, place, items, chosen, goal.error or 0.0, base):
                    break
            elif (over := place.stat().st_size - budget) <= 0:
                if grown or -over < SLACK * budget:
                    break
                room, grown = (room or 0) - over, True  # what the index and padding really take is known now
            else:
                room = (room or 0) - over - 16
        else:
            raise InputError(f"no choice of specs was found that keeps to {'the error' if budget is None else f'{budget:,} bytes'}")
        os.replace(place, path)
    finally:
        with suppress(FileNotFoundError):
            place.unlink()
    return summary({spec: sum(i.size for i in items if chosen[i.name] == spec) for spec in chosen.values()})


def _picture(opened: Picture, goal: Goal, values: int, before: int, path: Path, quiet: bool) -> str:
    """Write a picture that meets the goal; what surrounds its codes is measured by writing it."""
    from ..file import open as open_file
    from ..modality.image.quality import MOST

    total = sum(i.nbytes for i in opened.items())
    other = 0
    if goal.bpp is not None or goal.budget(values, before) is not None:
        place = path.with_name(f".{path.name}.{os.getpid()}.fit")
        try:
            write(opened, place, Codec(f"image:{MOST:g}:tile={goal.tile or 512}").stage, force=True)
            with open_file(place) as file:
                other = file.nbytes - sum(file["image"].parts().values()) + 96  # a longer spec, and padding
        finally:
            place.unlink(missing_ok=True)
    with Progress(8 * total, "trying steps", quiet) as bar:
        spec = goal.image(opened, values, before, other, lambda what: bar.add(total, what))
    with Progress(total, "compress", quiet) as bar:
        write(opened, path, Codec(spec).stage, force=True, bar=bar)
    return spec


def summary(values: dict[str, int]) -> str:
    """Specs and how many values each codes → the one that codes most, and how many others there are.

    >>> summary({"raw": 10, "int:4": 1000, "int:8": 100})
    'int:4 and 2 more'
    """
    first = max(values, key=lambda spec: values[spec])
    return first + (f" and {len(values) - 1} more" if len(values) > 1 else "")


def _lossy(spec: str) -> Codec | None:
    codec = Codec(spec)
    return None if codec.stage.raw else codec


def _reject(found: Search, place: Path, items, chosen: dict[str, str], most: float, base: Path | None) -> bool:
    """Whether some array's true error, on all its values, is over the most allowed; the search learns it."""
    from .arrays import Arrays

    bad = False
    with Arrays(place, base) as packed:
        for i, item in enumerate(items):
            if Codec(chosen[item.name]).stage.raw:
                continue
            tally = Tally()
            tally.add(item.load(), packed.named[item.name].load())
            if (error := tally.errors().relative) > most:
                found.reject(i, chosen[item.name], error)
                bad = True
    return bad
