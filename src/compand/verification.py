"""What `File.verify` does: every check of a file, one after another, and the faults it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from .blocks import guarded
from .dtypes import dtype as dtype_of
from .errors import CompandError, InputError

if TYPE_CHECKING:
    from .file import File

LEVELS = ("structure", "checksums", "full")


@dataclass(frozen=True)
class Report:
    """What `File.verify` looked at, and the faults it found (only with ``keep_going``; else the first is raised)."""

    level: str
    entries: int
    chunks: int
    nbytes: int
    faults: tuple[CompandError, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.faults


def verified(file: File, level: str, keep_going: bool, progress: Callable[[int, int], None] | None) -> Report:
    """The checks of a level, as `File.verify` says."""
    if level not in LEVELS:
        raise InputError(f"level must be one of {', '.join(LEVELS)}, not {level!r}")
    faults: dict[str, CompandError] = {}
    steps: list[Callable[[], None]] = [partial(_check_entry, file, name) for name in file]
    sizes = file._container.sizes
    chunks, done, total = range(len(sizes)), 0, 0

    def tell(n: int) -> None:
        nonlocal done, total
        if progress:
            decoded = (prod(e.shape) * dtype_of(e.dtype).itemsize for e in file._entries.values() if level == "full")
            total = total or sum(sizes) + sum(decoded)
            done += n
            progress(done, total)

    if level == "structure":
        steps += [lambda c=c: file._container.check_padding(c) for c in chunks]
    else:
        steps += [lambda c=c: tell(file._container.chunk(c).size) for c in chunks]
    bad: set[str] = set()
    for step in [*steps, file._check_all, *(partial(_decode_entry, file, name, bad, tell) for name in file if level == "full")]:
        try:
            with guarded("the file cannot be read", path=file.path):
                step()
        except CompandError as e:
            if not keep_going:
                raise
            faults.setdefault(str(e), e.with_traceback(None))  # frames would keep what they have read
            if isinstance(step, partial) and step.args:
                bad.add(step.args[1])
    return Report(level, len(file), len(chunks), file.nbytes, tuple(faults.values()))


def _check_entry(file: File, name: str) -> None:
    file[name]._check()


def _decode_entry(file: File, name: str, bad: set[str], tell: Callable[[int], None]) -> None:
    if name not in bad:
        file[name]._check_decode(tell)
