"""How long the weights of a spec take to read and multiply, on this machine: what a plan for a speed reckons with.

Decoding a token multiplies one vector with every weight once, so that its time is the sum over weights of values times the time a value.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from ..codec import Codec
from ..op.matmul import matmul
from ..stage import Form

ROWS, COLUMNS = 2048, 1024
LEAST = 0.05  # seconds that each spec is timed


def milliseconds(specs: Sequence[str]) -> Callable[[str, int, int], float]:
    """The time of a product of one vector with n rows of d values in a spec: a function (spec, n, d) → milliseconds.

    Measured with all threads of the kernels on a matrix of 2,048 x 1,024; layers of few values take longer than their share.
    """
    x = np.random.default_rng(0).standard_normal((1, COLUMNS), dtype=np.float32)
    w = np.random.default_rng(1).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    each = {}
    for spec in specs:
        codec = Codec(spec)
        codec = codec.fit(w) if codec.stage.state(Form(*w.shape)) else codec
        codes = codec.encode(w)
        matmul(x, codes)  # lays the codes out for the kernels
        times: list[float] = []
        while sum(times) < LEAST or len(times) < 5:
            start = time.perf_counter()
            matmul(x, codes)
            times.append(time.perf_counter() - start)
        each[spec] = 1e3 * float(np.median(times)) / w.size
    return lambda spec, n, d: each[spec] * n * d
