"""Errors of a reconstruction: relative RMS, maximum, signal-to-noise ratio, cosine of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ..errors import InputError

BLOCK = 1 << 16  # values compared at a time


class Errors(NamedTuple):
    """What a reconstruction lost.

    ``relative`` = ‖x − x_hat‖ / ‖x‖; ``maximum`` in units of x; ``snr`` in dB; ``cosine`` and ``cosine_min`` over rows
    (NaN where no row has a length); ``exact`` = every bit is the same.
    """

    values: int
    relative: float
    maximum: float
    snr: float
    cosine: float
    cosine_min: float
    exact: bool


class Tally:
    """Errors summed over blocks of rows, for arrays that are not in memory at once.

    >>> tally = Tally()
    >>> tally.add(np.ones((2, 3)), np.ones((2, 3)))
    >>> tally.errors().exact
    True
    """

    def __init__(self):
        self.values = self.rows = 0
        self.signal = self.noise = self.maximum = self.cosines = 0.0
        self.cosine_min, self.exact = math.inf, True

    def add(self, x: np.ndarray, x_hat: np.ndarray, progress: Callable[[float], None] | None = None) -> None:
        """Rows of the source and of its reconstruction, of one shape. Raises `InputError` if the shapes differ.

        ``progress`` is told the share that is done.
        """
        if x.shape != x_hat.shape:
            raise InputError(f"cannot compare shapes {list(x.shape)} and {list(x_hat.shape)}")
        if x.ndim < 2:
            x, x_hat = x.reshape(1, -1), x_hat.reshape(1, -1)
        d = math.prod(x.shape[1:])
        x, x_hat = x.reshape(x.shape[0], d), x_hat.reshape(x.shape[0], d)
        step = max(1, BLOCK // max(d, 1))
        for at in range(0, x.shape[0], step):
            self._add(x[at:at + step], x_hat[at:at + step])
            if progress:
                progress(min(1.0, (at + step) / x.shape[0]))

    def _add(self, x, x_hat) -> None:
        self.values += x.size
        if x.dtype == x_hat.dtype and np.array_equal(_bits(x), _bits(x_hat)):
            same = True
        else:
            same = self.exact = False
        a = _real(x)
        if not same:
            b = _real(x_hat)
            with np.errstate(invalid="ignore"):
                e = np.where(np.isfinite(a) | np.isfinite(b), a - b, 0.0)
            self.noise += float(np.einsum("ij,ij->", e, e))
            self.maximum = max(self.maximum, float(np.abs(e).max(initial=0.0)))
        a = np.where(np.isfinite(a), a, 0.0)
        squares = np.einsum("ij,ij->i", a, a)  # not BLAS: its threads cost more than sums this small, and change their order
        self.signal += float(squares.sum())
        norm = np.sqrt(squares)
        if same:
            cosine = np.ones(int((norm > 0).sum()))
        else:
            b = np.where(np.isfinite(b), b, 0.0)
            norms = norm * np.sqrt(np.einsum("ij,ij->i", b, b))
            dots = np.einsum("ij,ij->i", a, b)
            cosine = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)[norm > 0]
        self.rows += cosine.size
        self.cosines += float(cosine.sum())
        self.cosine_min = min(self.cosine_min, float(cosine.min(initial=math.inf)))

    def errors(self) -> Errors:
        """The errors of all rows added so far."""
        relative = math.sqrt(self.noise / self.signal) if self.signal else float(self.noise > 0)
        snr = math.inf if not self.noise else 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf
        return Errors(self.values, relative, self.maximum, snr, self.cosines / self.rows if self.rows else math.nan,
                      self.cosine_min if self.rows else math.nan, self.exact)


def errors(x: np.ndarray, x_hat: np.ndarray, progress: Callable[[float], None] | None = None) -> Errors:
    """The errors of a reconstruction; rows are along the first axis. Raises `InputError` if the shapes differ.

    ``progress`` is told the share that is done.

    >>> errors(np.array([[3.0, 4.0]]), np.array([[3.0, 4.5]])).relative
    0.1
    """
    tally = Tally()
    tally.add(np.asarray(x), np.asarray(x_hat), progress)
    return tally.errors()


def overall(found: Iterable[Errors]) -> float:
    """One relative error for several arrays: the RMS of those that lost something, weighted by their number of values.

    Arrays of any scale count alike, and exact ones (integers, biases kept as they are) do not dilute it.

    >>> overall([Errors(10, 0.1, 1, 20, 1, 1, False), Errors(99, 0.0, 0, np.inf, 1, 1, True)])
    0.1
    """
    lost = [(e.values, e.relative) for e in found if not e.exact]
    values = sum(n for n, _ in lost)
    return math.sqrt(sum(n * r * r for n, r in lost) / values) if values else 0.0


def _real(x: np.ndarray) -> np.ndarray:
    """x as float64; the real and imaginary halves of complex values side by side."""
    if x.dtype.kind == "c":
        x = np.ascontiguousarray(x).view(x.real.dtype)
    return x.astype(np.float64)


def _bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.uint8) if x.size else np.zeros(0, np.uint8)
