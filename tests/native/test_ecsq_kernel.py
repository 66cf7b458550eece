"""The kernel of entropy-coded scalar quantization against its NumPy twin, on every instruction set and number of threads."""

from dataclasses import replace

import numpy as np
import pytest

from compand import _native
from compand.quantizer.ecsq import Ecsq


@pytest.mark.parametrize("d", [1, 7, 16, 33, 96])
def test_ids_and_gains_are_those_of_numpy(d):
    rng = np.random.default_rng(d)
    x = rng.standard_normal((300, d), dtype=np.float32) * np.geomspace(30, 0.1, d, dtype=np.float32)
    x[3], x[7] = 0, 1e30  # nothing to scale; far beyond the reach
    q = Ecsq(max(2, d // 8)).fit(x[8:])
    for quantizer in (q, replace(q, reach_=np.minimum(q.reach_.astype(np.int64) * 50, 2047).astype(np.uint16))):  # one byte, two bytes
        expected, found = quantizer._encode(x), []
        for level in ("scalar", "avx2", "avx512"):
            if _native.set_isa(level):
                for threads in (1, 3):
                    _native.set_threads(threads)
                    found.append(quantizer.encode(x))
        for parts in found:
            assert parts.keys() == expected.keys()
            for name, part in parts.items():
                assert part.dtype == expected[name].dtype and part.tobytes() == found[0][name].tobytes()
                apart = np.abs(part.astype(int) - expected[name].astype(int))
                assert apart.max() <= (name == "gain")  # sums are of float32 here, of float64 there


def test_wrong_sizes_are_refused():
    x, ones = np.ones((4, 6), np.float32), np.ones(6, np.float32)
    for factors, ends, reach in [(ones[1:], [6], [3]), (ones, [5], [3]), (ones, [7], [3]), (ones, [4, 2, 6], [3, 3, 3]), (ones, [6], [0]),
                                 (ones, [6], [3, 3]), (ones, [6], [5000])]:
        with pytest.raises(ValueError):
            _native.ecsq_encode(x, factors, 1.0, np.array(ends, np.int64), np.array(reach, np.int64))
