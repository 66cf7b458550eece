"""The native trellis search: the same path on every level and thread count, and the best there is."""

import numpy as np
import pytest

from compand import _native
from compand.quantizer.trellis import Trellis, levels

LEVELS = ["scalar", "avx2", "avx512"]


def search(stage, t, count=None, start=None, end=None):
    none = np.full(len(t), -1, np.int32)
    table = (levels(stage) * stage.fullscale).astype(np.int16)
    return _native.trellis_search(t, t.shape[1] if count is None else count, none if start is None else start,
                                  none if end is None else end, stage.bits, stage.memory, table)


@pytest.mark.parametrize("bits", range(1, 5))
def test_levels_and_threads_agree(bits):
    rng = np.random.default_rng(bits)
    stage = Trellis(bits, memory=12, factors=1 + bits % 2)
    for length in [*range(131), 400]:
        t = np.clip(rng.standard_normal((2, length)) * 16000, -32640, 32640).astype(np.int16)
        start, end = (np.array([rng.integers(1 << 12), -1], np.int32) for _ in range(2))
        found, count = [], int(rng.integers(length + 1)) if length % 2 else length
        for level in LEVELS:
            if not _native.set_isa(level):
                continue
            for threads in (1, 3):
                _native.set_threads(threads)
                found.append(search(stage, t, count, start, end if count == length else None))
        assert all(np.array_equal(found[0], f) for f in found)
        assert found[0].shape == (2, count)


@pytest.mark.parametrize("bits", range(1, 5))
def test_path_is_one_of_the_trellis_and_the_best(bits):
    rng = np.random.default_rng(bits)
    stage = Trellis(bits, memory=12)
    t = np.clip(rng.standard_normal((3, 90)) * 13000, -32640, 32640).astype(np.int16)
    low = (1 << (12 - bits)) - 1
    start, end = np.array([5, 0, 77], np.int32), np.array([1, 2, 3], np.int32)
    path = search(stage, t, start=start, end=end).astype(np.int64)
    assert (path[:, 0] >> bits == start & low).all() and (path[:, -1] & low == end & low).all()
    assert (path[:, 1:] >> bits == path[:, :-1] & low).all()
    # dynamic programming in the other direction, in floating point
    table = levels(stage).astype(np.float64) * stage.fullscale
    cost = np.zeros((3, 1 << 12))
    for i in range(t.shape[1] - 1, -1, -1):
        own = (t[:, i:i + 1] - table) ** 2
        ahead = cost[:, ((np.arange(1 << 12)[:, None] & low) << bits) + np.arange(1 << bits)].min(-1) if i < t.shape[1] - 1 else 0
        cost = own + ahead
    free = search(stage, t).astype(np.int64)
    assert (((table[free] - t) ** 2).sum(1) <= cost.min(1) * 1.001).all()


def test_wrong_arguments_are_refused():
    t, one, table = np.zeros((1, 4), np.int16), np.zeros(1, np.int32), np.zeros(1 << 12, np.int16)
    for args in [(t, 5, one, one, 2, 12, table), (t, 4, one[:0], one, 2, 12, table), (t, 4, one, one, 5, 12, table),
                 (t, 4, one, one, 2, 9, table), (t, 4, one, one, 2, 14, table)]:
        with pytest.raises(ValueError, match="fit each other"):
            _native.trellis_search(*args)
    factors = np.ones(1, np.uint16)
    for args in [(np.zeros(2, np.uint8), 8, 8, 1, factors), (np.zeros(1, np.uint8), 8, 8, 5, factors),
                 (np.zeros(2, np.uint8), 16, 3, 1, factors), (np.zeros(1, np.uint8), 8, 0, 1, factors)]:
        with pytest.raises(ValueError, match="fit the shape"):
            _native.trellis_decode(*args)
