"""Where products by bit planes pay: weights of 1 to 3 bits times activations of 8, 4, 2 and 1 bits, on one thread.

    python benchmarks/planes.py

Compiles benchmarks/planes.cpp (c++, AVX-512 with VPOPCNTDQ and VNNI): bare planes without scales, best of 2,000 turns. Beside them, the
kernels that compand has for weights of as many bits and activations of 8, with scales of groups and the rounding of activations, best of
as many turns. `masks` is what the kernel of one-bit ids did before it had planes, without its scales. All in the second-level cache.
"""

from __future__ import annotations

import pathlib
import subprocess
import tempfile
import time

import numpy as np
import record
from matmul import coded

from compand import _native
from compand.op.matmul import matrix

FLAGS = "-std=c++17 -O3 -mavx512f -mavx512bw -mavx512vl -mavx512vnni -mavx512vpopcntdq".split()
SPECS = {1: "int:1:group=64", 2: "int:2:group=64", 3: "int:3:group=64"}
TRELLIS = {1: "trellis:1", 2: "trellis:2", 3: "trellis:3"}


def product_rate(spec: str, shape=(1024, 2048)) -> float:
    """Billions of weights a second of a product with one line of activations: the best of many."""
    weights, x = matrix(coded(spec, shape, np.random.default_rng(0))), np.ones((1, shape[1]), np.float32)
    best = np.inf
    for _ in range(2000):
        begin = time.perf_counter()
        weights(x)
        best = min(best, time.perf_counter() - begin)
    return shape[0] * shape[1] / best / 1e9


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder, "planes")
        subprocess.run(["c++", *FLAGS, pathlib.Path(__file__).with_suffix(".cpp"), "-o", program], check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split("\n")
    found = {name: float(value) for name, value in (line.split() for line in lines if line)}
    _native.set_threads(1)
    rows = [{"weight bits": w, **{f"planes, A{a}": found[f"w{w}a{a}"] for a in (8, 4, 2, 1)}, "int, A8": round(product_rate(SPECS[w]), 1),
             "trellis, A8": round(product_rate(TRELLIS[w]), 1)} for w in (1, 2, 3)]
    rows[0]["masks, A8"] = found["masks"]
    print(record.table(rows))
    print(record.save("planes", rows, unit="billions of weights a second, one thread, second-level cache"))


if __name__ == "__main__":
    main()
