"""Rate control: the spec of each array that meets a size or an error, measured on the bytes it really takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..codec import Codec
from ..dtypes import dtype as dtype_of
from ..dtypes import is_float
from ..errors import FitError, InputError, SpecError
from ..metric import errors
from .allocate import allocate

SAMPLE_VALUES = 1 << 18   # values of one array a spec is tried on
TOTAL_VALUES = 1 << 23    # of all arrays together
ENTRY_BYTES = 320         # of the index and of padding, an entry
FILE_BYTES = 512


class Array(NamedTuple):
    """An array to find a spec for. ``load(rows)`` gives rows of the first axis; ``lossy`` says whether it may lose anything."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[..., np.ndarray]
    lossy: bool = True
    weight: float = 1.0

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the values as they are."""
        return self.size * dtype_of(self.dtype).itemsize


class Trial(NamedTuple):
    """A spec tried on an array: bytes of the whole array (estimated if only some rows were tried) and relative RMS error."""

    spec: str
    nbytes: float
    error: float


def sample(array: Array, most: int = SAMPLE_VALUES) -> np.ndarray:
    """The array, or evenly spaced rows of it with about ``most`` values."""
    if array.size <= most or len(array.shape) < 2:
        return array.load()
    step = min(-(-array.size // most), array.shape[0])
    return array.load(slice(0, None, step))


def measure(x: np.ndarray, spec: str, rows: int | None = None) -> Trial | None:
    """Rate and distortion of a spec on x, as if x had ``rows`` rows; None if the spec does not fit this array.

    >>> x = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    >>> measure(x, "raw")
    Trial(spec='raw', nbytes=16384.0, error=0.0)
    """
    try:
        codec = Codec(spec)
        codec = codec.fit(x) if codec.stage.state(codec.form(x.shape, x.dtype.name)) else codec
        codes = codec.encode(x)
        lost = errors(x, codec.decode(codes)).relative if not codec.stage.raw else 0.0
    except (FitError, SpecError):
        return None
    scale = rows / max(x.shape[0], 1) if rows is not None and x.ndim else 1.0
    return Trial(spec, codec.nbytes + codes.nbytes * scale, lost)


@dataclass
class Search:
    """Trials of all arrays on a ladder, and the choices made from them.

    ``choose`` may be called again with what `reject` learnt: a file that came out too large, an error too high.
    """

    arrays: Sequence[Array]
    ladder: Sequence[str]
    keep: str
    trials: list[list[Trial]] = field(default_factory=list)

    def run(self, progress: Callable[[int, str], None] = lambda n, what: None) -> Search:
        """Try every spec on every array (on all values of small ones, on evenly spaced rows of large ones)."""
        most = max(1 << 15, min(SAMPLE_VALUES, TOTAL_VALUES // max(len(self.arrays), 1)))
        for array in self.arrays:
            x = sample(array, most)
            specs = (*self.ladder, self.keep, "raw") if array.lossy and is_float(array.dtype) else (self.keep, "raw")
            if array.lossy and not _finite(x):
                specs = (self.keep, "raw")
            found = []
            for spec in dict.fromkeys(specs):
                trial = measure(x, spec, array.shape[0] if array.shape else None)
                if trial is not None:
                    found.append(trial)
                progress(array.nbytes // len(specs), array.name)
            if not found:
                raise InputError(f"{array.name}: no spec fits {array.dtype}{list(array.shape)}")
            self.trials.append(_frontier(found))
        return self

    def choose(self, budget: float | None = None, max_error: float | None = None) -> list[Trial]:
        """The trial of each array: least total distortion within ``budget`` bytes of the file, or, with ``max_error``, the
        fewest bytes at that relative RMS error of each array. Raises `InputError` if nothing meets it.

        Distortion is the relative squared error of an array times its number of values (and its weight), so that arrays
        of any scale count alike.
        """
        if max_error is not None:
            return [min((t for t in own if t.error <= max_error), key=lambda t: t.nbytes) for own in self._within(max_error)]
        assert budget is not None
        width = max(map(len, self.trials))
        costs, lost = np.full((2, len(self.trials), width), np.inf)
        for i, (array, own) in enumerate(zip(self.arrays, self.trials, strict=True)):
            costs[i, :len(own)] = [t.nbytes + ENTRY_BYTES for t in own]
            lost[i, :len(own)] = [t.error**2 * array.size * array.weight for t in own]
        least = costs.min(axis=1).sum() + FILE_BYTES
        if least > budget:
            raise InputError(f"{budget:,.0f} bytes are too few: about {least:,.0f} is the least these specs reach")
        choice = allocate(costs, lost, budget - FILE_BYTES)
        return [own[c] for own, c in zip(self.trials, choice, strict=True)]

    def _within(self, max_error: float) -> Iterable[list[Trial]]:
        for array, own in zip(self.arrays, self.trials, strict=True):
            if not any(t.error <= max_error for t in own):
                raise InputError(f"{array.name}: no spec reaches a relative error of {max_error}")
            yield own

    def reject(self, i: int, spec: str, error: float) -> None:
        """Learn the true error of a spec on array i, measured on all its values."""
        self.trials[i] = [t._replace(error=error) if t.spec == spec else t for t in self.trials[i]]


def search(arrays: Sequence[Array], ladder: Sequence[str], keep: str = "raw", *, budget: float | None = None,
           max_error: float | None = None) -> list[str]:
    """The spec of each array, estimated once: see `Search.choose` for what is asked for.

    >>> x = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    >>> search([Array("x", x.shape, "float32", lambda rows=None: x)], ["raw"], budget=20_000)
    ['raw']
    """
    found = Search(arrays, ladder, keep).run()
    return [t.spec for t in found.choose(budget, max_error)]


def _finite(x: np.ndarray) -> bool:
    return bool(np.isfinite(x.astype(np.float32, copy=False)).all())


def _frontier(trials: list[Trial]) -> list[Trial]:
    """Trials that no other beats in both bytes and error, from small to large."""
    out: list[Trial] = []
    for t in sorted(trials, key=lambda t: (t.nbytes, t.error)):
        if not out or t.error < out[-1].error:
            out.append(t)
    return out
