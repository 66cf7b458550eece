"""How many terms of each sum are kept where memory does not hold them all: those that save most for each byte."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError


def choose(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: float) -> list[int]:
    """How many terms of each array to keep, 1 or more.

    Parameters
    ----------
    costs : bytes of each array with its first 1, 2, ... terms, rising
    losses : what each array costs with these, in one unit for all
    budget : bytes of all together

    Steps on the lower convex hull of each array are taken in the order of the loss they save a byte, as blocks are in BitStack (Wang et al.
    2024), while they fit. Raises `InputError` if the first terms alone do not.

    >>> choose([[10, 20, 30], [10, 20]], [[9, 2, 1], [4, 0]], 40)
    [2, 2]
    """
    least = sum(c[0] for c in costs)
    if least > budget:
        raise InputError(f"the first terms alone take {least:,} bytes, over the {budget:,.0f} there are")
    steps = []
    for i, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        falling = np.minimum.accumulate(np.asarray(loss, np.float64))
        at = 0
        while at + 1 < len(cost):
            worth = (falling[at] - falling[at + 1:]) / np.maximum(np.subtract(cost[at + 1:], cost[at]), 1)
            best = len(worth) - 1 - int(worth[::-1].argmax())  # the farthest of equal ones
            steps.append((-float(worth[best]), i, at, at + 1 + best))
            at += 1 + best
    kept, room = [0] * len(costs), budget - least
    for _, i, before, after in sorted(steps):
        more = costs[i][after] - costs[i][before]
        if kept[i] == before and more <= room:
            kept[i], room = after, room - more
    return [k + 1 for k in kept]
