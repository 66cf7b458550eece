"""One byte a row that makes inner products unbiased: the gain |x|² / ⟨x, x_hat⟩."""

from __future__ import annotations

import numpy as np

from ..array import total


def gain(squares: np.ndarray, dots: np.ndarray) -> np.ndarray:
    """|x|² / ⟨x, y⟩ where y points the way of x, else 1: of squares and dots (n,) a float64 (n,)."""
    squares, dots = squares.astype(np.float64), dots.astype(np.float64)
    fair = dots > 0.05 * squares
    return np.where(fair, squares / np.where(fair, dots, 1), 1)


def gain_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same of rows x and what their codes say, y, (n, d) both; sums in an order that no machine changes."""
    if x.dtype == y.dtype == np.float32:
        from .. import _native

        return gain(*_native.row_products(np.ascontiguousarray(x), np.ascontiguousarray(y)))
    x, y = x.astype(np.float64), y.astype(np.float64)
    return gain(total(x * x)[:, 0], total(x * y)[:, 0])


def span(g: np.ndarray) -> tuple[float, float]:
    """The least gain that a byte tells and the step between two, so that all but a thousandth of gains lie within."""
    low, high = np.quantile(g, [0.0005, 0.9995])
    return low, (high - low) / 255


def coded(g: np.ndarray, low: float, step: float) -> np.ndarray:
    """Gains (n,) as bytes: (n, 1) uint8."""
    return np.clip(np.rint((g - low) / step if step else g * 0), 0, 255).astype(np.uint8)[:, None]
