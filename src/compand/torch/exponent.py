"""Exponents of power companding that the optimizer learns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..expression import Expression
from ..stage import Form, Stage, replace
from ..transform.compand import Compand


def found(stage: Stage, path: str = "") -> Iterator[tuple[str, Compand]]:
    """The power curves of an expression, by path."""
    if isinstance(stage, Compand) and stage.curve == "power":
        yield path, stage
    for i, item in enumerate(getattr(stage, "items", ())):
        yield from found(item, f"{path}.{i}" if path else str(i))


def replaced(stage: Stage, amounts: dict[str, float], path: str = "") -> Stage:
    """The expression with these exponents, to four digits, so that its spec stays short."""
    if path in amounts:
        return replace(stage, amount=round(min(max(amounts[path], 0.1), 4.0), 4))
    if not amounts or not isinstance(stage, Expression):
        return stage
    return type(stage)(tuple(replaced(item, amounts, f"{path}.{i}" if path else str(i)) for i, item in enumerate(stage.items)))


def slopes(stage: Stage, names: dict[str, str], x: np.ndarray) -> Iterator[tuple[str, float]]:
    """The names of exponents and the slope in each of the mean squared error that a fitted expression makes of rows x (n, d).

    By central differences: passing rounding straight would shrink the exponent whatever the data are, because the error of a
    rounded value and its change by the exponent always have the same sign. The error is what PowerQuant and NUPES (Yvinec 2023)
    search the exponent by.
    """
    form = Form(*x.shape)
    for path, name in names.items():
        found = []
        at = stage
        for word in path.split(".") if path else ():
            at = at.items[int(word)]
        for amount in (at.amount or 0.5) * 1.02, (at.amount or 0.5) / 1.02:
            other = replaced(stage, {path: amount})
            error = x - other.decode(other.encode(x), form)
            found.append((amount, float(np.square(error, dtype=np.float64).mean())))
        (high, above), (low, below) = found
        yield name, (above - below) / (high - low)
