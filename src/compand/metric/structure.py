"""How alike pictures look: structural similarity at several sizes, and SSIMULACRA2 where its package is installed."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .image import K1, K2, TAPS, blurred

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli & Bovik 2003, table 1


def ms_ssim(a: np.ndarray, b: np.ndarray, *, peak: float = 1.0) -> float | None:
    """Multi-scale structural similarity of pictures (h, w) or (h, w, channels), the mean over channels; None if a side is below 176.

    Five sizes, halved by means of 2 x 2, the window of `ssim`. Wang, Simoncelli & Bovik, "Multi-scale structural similarity for
    image quality assessment", 2003. Raises `InputError` if the shapes differ.

    >>> x = np.random.default_rng(0).uniform(size=(180, 200))
    >>> ms_ssim(x, x), ms_ssim(x, np.roll(x, 1, 1)) < 0.9
    (1.0, True)
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim not in (2, 3):
        raise InputError(f"cannot compare pictures of {list(a.shape)} and {list(b.shape)}")
    if min(a.shape[:2]) < TAPS << (len(WEIGHTS) - 1):
        return None
    total, channels = 0.0, 1 if a.ndim == 2 else a.shape[2]
    for c in range(channels):
        x, y = (np.ascontiguousarray(p if p.ndim == 2 else p[..., c], np.float64) / peak for p in (a, b))
        value = 1.0
        for i, weight in enumerate(WEIGHTS):
            mx, my = blurred(x), blurred(y)
            both, squares = blurred(x * y) - mx * my, blurred(x * x + y * y) - mx * mx - my * my
            seen = (2 * both + K2**2) / (squares + K2**2)
            if i == len(WEIGHTS) - 1:
                seen = seen * (2 * mx * my + K1**2) / (mx * mx + my * my + K1**2)
            value *= max(float(seen.mean()), 1e-9) ** weight
            x, y = (p[:p.shape[0] // 2 * 2, :p.shape[1] // 2 * 2].reshape(p.shape[0] // 2, 2, -1, 2).mean((1, 3)) for p in (x, y))
        total += value
    return round(total / channels, 12)


def ssimulacra2(a: np.ndarray, b: np.ndarray) -> float | None:
    """SSIMULACRA2 (100: the same; 90: no difference is seen) of uint8 pictures (h, w, 3), of 8 pixels a side or more; None for
    others, and without the package `ssimulacra2`."""
    try:
        from PIL import Image
        from ssimulacra2 import compute_ssimulacra2  # type: ignore[import-not-found]
    except ImportError:
        return None
    if a.dtype != np.uint8 or a.ndim != 3 or min(a.shape[:2]) < 8:  # smaller ones are all 100 to the package
        return None
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="compand-") as folder:
        paths = [Path(folder, f"{i}.png") for i in range(2)]
        for path, x in zip(paths, (a, b), strict=True):
            Image.fromarray(x).save(path, compress_level=1)
        return float(compute_ssimulacra2(*map(str, paths)))
