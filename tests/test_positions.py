import numpy as np
import pytest

from compand import CorruptError
from compand.positions import pack_positions, unpack_positions


@pytest.mark.parametrize("total", [1, 2, 7, 64, 1000, 65537, 1 << 20, (1 << 40) + 3])
def test_round_trip_and_size(total):
    rng = np.random.default_rng(total)
    for count in {0, 1, 2, min(total, 100), min(total, 1 << 16) // 2, min(total, 1000)}:
        if count > total:
            continue
        p = np.sort(rng.choice(total, count, replace=False)) if total <= 1 << 20 else np.unique(rng.integers(0, total, count))
        low, high = pack_positions(p, total)
        assert np.array_equal(unpack_positions(low, high, len(p), total), p)
        if len(p):
            assert 8 * (low.nbytes + high.nbytes) <= len(p) * (2 + max(np.log2(total / len(p)), 0)) + 32 or total > 1 << 33
    ends = np.array(sorted({0, total - 1}))
    assert np.array_equal(unpack_positions(*pack_positions(ends, total), len(ends), total), ends)


def test_any_bytes_give_positions_or_corrupt():
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(3000):
        total = int(rng.integers(1, 500))
        p = np.flatnonzero(rng.random(total) < rng.random())
        low, high = (a.copy() for a in pack_positions(p, total))
        count = len(p) + int(rng.integers(-1, 2)) if rng.random() < 0.3 else len(p)
        for a in (low, high):
            if a.size and rng.random() < 0.7:
                a[rng.integers(a.size)] ^= 1 << rng.integers(8)
        try:
            q = unpack_positions(low, high[: rng.integers(high.size + 1)] if rng.random() < 0.1 else high, max(count, 0), total)
            assert q.shape == (max(count, 0),) and (np.diff(q) > 0).all() and (not q.size or (q[0] >= 0 and q[-1] < total))
        except CorruptError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize("count", [11, 1 << 62])
def test_more_positions_than_values(count):
    with pytest.raises(CorruptError):
        unpack_positions(np.zeros(0, np.uint8), np.zeros(0, np.uint8), count, 10)
