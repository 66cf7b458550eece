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


def slow(x, inverse, weight, price, reach):
    """The v of a row with the least cost that states allow, by trying all of them: 32 sums a column."""
    sums, paths = {0: 0.0}, {0: []}
    for t, w, p in zip(x * inverse, weight, price, strict=True):
        after, ways = {}, {}
        for state, least in sums.items():
            for v in range(-2 * reach + (state & 1), 2 * reach, 2):
                to = state >> 1 ^ 18 * (v & 1) ^ 8 * (v >> 1 & 1)
                cost = least + w * (t - v - 0.5) ** 2 + p * abs(v + 0.5)
                if cost < after.get(to, np.inf):
                    after[to], ways[to] = cost, [*paths[state], v]
        sums, paths = after, ways
    return min(sums.values())


@pytest.mark.parametrize("d, n", [(1, 1), (7, 40), (33, 17), (96, 16)])
def test_a_trellis_finds_the_best_row_on_every_instruction_set(d, n):
    rng = np.random.default_rng(d)
    x = rng.standard_normal((n, d), dtype=np.float32) * np.geomspace(6, 0.3, d, dtype=np.float32)
    x[n // 2] = 0
    columns = np.stack([rng.uniform(0.8, 1.2, d), rng.uniform(0.8, 1.2, d), rng.uniform(0, 2, d), np.ones(d)]).astype(np.float32)
    columns[1] = 1 / columns[0] ** 2
    columns[2, ::3] = 0
    for reach in (12, 300):  # one byte, two bytes
        ends, reaches, found = np.array(sorted({(d + 1) // 2, d})), np.full(len({(d + 1) // 2, d}), reach), []
        for level in ("scalar", "avx2", "avx512"):
            if _native.set_isa(level):
                for threads in (1, 3):
                    _native.set_threads(threads)
                    found.append(_native.ecsq_trellis(x, columns, ends, reaches))
        _native.set_isa("auto")
        ids, dots, squares = found[0]
        for other in found[1:]:
            assert all(np.array_equal(a, b) for a, b in zip([*ids, dots, squares], [*other[0], *other[1:]], strict=True))
        assert all(a.dtype == (np.uint8 if reach < 128 else np.uint16) and a.max() < 2 * reach for a in ids)
        v = _native.ecsq_levels(ids, reaches, n)
        np.testing.assert_array_equal(_native.ecsq_values(ids, reaches, n, columns[1]), (v + np.float32(0.5)) * columns[1])
        np.testing.assert_allclose(dots, (x * (v + 0.5)).sum(1), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(squares, (x * x).sum(1), rtol=1e-5)
        if reach == 12:
            cost = columns[1] * (x * columns[0] - v - 0.5) ** 2 + columns[2] * np.abs(v + 0.5)
            for i in range(0, n, 8):
                least = slow(x[i].astype(float), *columns[:3].astype(float), reach)
                assert least - 1e-3 < cost[i].sum() < least * 1.02 + 0.05  # near zero the price has a corner, and a guess stands for it


def test_far_values_and_empty_columns_stay_within_reach():
    x = np.float32([[1e30, -1e30, 5, 3e38], [0, 1e-30, -5, -3e38]])
    columns = np.float32([[1, 1e30, 0, np.nan], [1, 1, 0, 1], [1, 1e30, 1, 1], [1, 1, 0, 1]])
    ids, _, _ = _native.ecsq_trellis(x, columns, np.array([4]), np.array([9]))
    assert ids[0].max() < 18
    assert np.abs(_native.ecsq_levels(ids, np.array([9]), 2) + 0.5).max() < 18


def test_wrong_sizes_of_a_trellis_are_refused():
    x, ones = np.ones((4, 6), np.float32), np.ones((4, 6), np.float32)
    for columns, ends, reach in [(ones[1:], [6], [3]), (ones[:, 1:], [6], [3]), (ones, [5], [3]), (ones, [7], [3]),
                                 (ones, [4, 2, 6], [3, 3, 3]), (ones, [6], [1]), (ones, [6], [3, 3]), (ones, [6], [5000])]:
        with pytest.raises(ValueError):
            _native.ecsq_trellis(x, np.ascontiguousarray(columns), np.array(ends, np.int64), np.array(reach, np.int64))
    bytes_, words = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint16)
    for ids, reach, n in [([bytes_], [3, 3], 4), ([bytes_], [3], 5), ([bytes_], [1], 4), ([bytes_], [5000], 4)]:
        with pytest.raises(ValueError):
            _native.ecsq_levels(ids, np.array(reach, np.int64), n)
    with pytest.raises(ValueError, match="factors"):
        _native.ecsq_values([bytes_], np.array([3]), 4, np.ones(5, np.float32))
    assert _native.ecsq_levels([words + np.uint16(65535)], np.array([2047]), 4).shape == (4, 6)  # of a file that lies
