"""How close two pictures are."""

from __future__ import annotations

import math

import numpy as np

from ..errors import InputError

TAPS, SIGMA = 11, 1.5       # window of SSIM
K1, K2 = 0.01, 0.03


def psnr(a: np.ndarray, b: np.ndarray, *, peak: float = 1.0, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two arrays of one shape, their values cut to [0, peak]; infinite if they are equal.

    ``where`` (height, width) bool picks pixels; NaN if there are none. Raises `InputError` if the shapes differ.

    >>> psnr(np.zeros((4, 4)), np.full((4, 4), 0.1))
    20.0
    """
    a, b = _pair(a, b)
    squares = (a.clip(0, peak) - b.clip(0, peak)).astype(np.float64) ** 2
    if where is not None:
        squares = squares[where]
    if not squares.size:
        return math.nan
    mean = float(squares.mean())
    return round(10 * math.log10(peak**2 / mean), 9) if mean else math.inf


def ssim(a: np.ndarray, b: np.ndarray, *, peak: float = 1.0) -> float:
    """Structural similarity of two pictures (height, width) or (height, width, channels), their values cut to [0, peak].

    A Gaussian window of 11 x 11 and standard deviation 1.5, K1 = 0.01, K2 = 0.03, variances without Bessel's correction, the mean over
    all places where the whole window lies on the picture, and over channels. Wang, Bovik, Sheikh, Simoncelli 2004.
    Raises `InputError` if the shapes differ or a side is shorter than 11.

    >>> x = np.random.default_rng(0).uniform(size=(20, 30, 3))
    >>> ssim(x, x), ssim(x, 1 - x) < 0
    (1.0, True)
    """
    a, b = _pair(a, b)
    if a.ndim not in (2, 3) or min(a.shape[:2]) < TAPS:
        raise InputError(f"ssim needs pictures of at least {TAPS} x {TAPS}, got {list(a.shape)}")
    total = 0.0
    channels = 1 if a.ndim == 2 else a.shape[2]
    for c in range(channels):
        x, y = (np.ascontiguousarray(p if p.ndim == 2 else p[..., c], np.float64).clip(0, peak) for p in (a, b))
        mx, my = blurred(x), blurred(y)
        both, squares = blurred(x * y) - mx * my, blurred(x * x + y * y) - mx * mx - my * my
        c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
        total += float(((2 * mx * my + c1) * (2 * both + c2) / ((mx * mx + my * my + c1) * (squares + c2))).mean())
    return round(total / max(channels, 1), 12)


def blurred(x: np.ndarray) -> np.ndarray:
    """Weighted means over the window, where it fits."""
    g = np.exp(-0.5 * ((np.arange(TAPS) - TAPS // 2) / SIGMA) ** 2)
    g /= g.sum()
    for axis in (0, 1):
        n = x.shape[axis] - TAPS + 1
        cut = [x[i:i + n] if axis == 0 else x[:, i:i + n] for i in range(TAPS)]
        out = cut[TAPS // 2] * g[TAPS // 2]
        for i in range(TAPS // 2):
            out += g[i] * (cut[i] + cut[TAPS - 1 - i])
        x = out
    return x


def _pair(a, b) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise InputError(f"cannot compare pictures of {list(a.shape)} and {list(b.shape)}")
    return a, b
