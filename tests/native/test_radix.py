"""Mixed-radix numbers of small grids: the same bits on every level and thread count, and those of the readable form."""

import numpy as np
import pytest

from compand import _native
from compand.quantizer.fsq import FSQ


@pytest.mark.parametrize("levels", [(2,), (8, 8, 4, 4), (3, 5, 7), (65536,) * 4, (2,) * 64, (9, 1000, 65536, 3, 60000)])
def test_levels_and_threads_agree(levels):
    rng, m = np.random.default_rng(len(levels)), len(levels)
    s, z = rng.standard_normal(m).astype(np.float32), rng.standard_normal(m).astype(np.float32) * 9
    s[0] = 0 if m > 3 else s[0]
    k = np.array(levels, np.uint32)
    for n in [*range(1, 40), 500, 9001]:
        x = (rng.standard_normal((n, m)) * k).astype(np.float32)
        x[0, 0], x[-1, -1] = np.inf, -np.inf
        found = []
        for level in ("scalar", "avx2", "avx512"):
            if not _native.set_isa(level):
                continue
            for threads in (1, 3):
                _native.set_threads(threads)
                ids, y = _native.radix_encode(x, s, z, k, True)
                assert _native.radix_decode(ids, s, z, k).tobytes() == y.tobytes()
                found.append((ids.tobytes(), y.tobytes()))
        _native.set_isa("auto")
        _native.set_threads(0)
        assert len(set(found)) == 1
        readable = FSQ(levels, scale_=s, zero_=z)._encode(x)
        numbers = readable["ids"].astype(np.uint64) | readable.get("high", np.zeros((n, 1))).astype(np.uint64) << np.uint64(32)
        assert np.array_equal(numbers, ids.astype(np.uint64))


def test_numbers_that_no_grid_has_are_only_numbers():
    s, z, k = np.ones(3, np.float32), np.zeros(3, np.float32), np.array([2, 3, 5], np.uint32)
    assert _native.radix_decode(np.full((1, 1), 2**32 - 1, np.uint32), s, z, k).shape == (1, 3)
    assert _native.radix_encode(np.full((1, 3), np.nan, np.float32), s, z, k, False)[0].tolist() == [[0]]


@pytest.mark.parametrize("levels, d", [((1, 4), 2), ((65537,), 1), ((65536,) * 4 + (2,), 5), ((2,) * 65, 65), ((2, 3), 3)])
def test_refused(levels, d):
    x, s, k = np.zeros((1, d), np.float32), np.ones(len(levels), np.float32), np.array(levels, np.uint32)
    with pytest.raises(ValueError):
        _native.radix_encode(x, s, s, k, True)
