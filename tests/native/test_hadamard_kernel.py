"""The Hadamard kernel against the readable transform, bit for bit."""

import numpy as np
import pytest

from compand import _native
from compand.transform.hadamard import fht_reference

LEVELS = ["scalar", "avx2", "avx512"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("log", range(14))
def test_equal_to_the_reference_bit_for_bit(level, log):
    if not _native.set_isa(level):
        pytest.skip(f"no {level} here")
    block, rng = 1 << log, np.random.default_rng(log)
    for n, count in ((0, 1), (1, 1), (3, 2), (9, 5)):
        x = rng.standard_normal((n, count * block)).astype(np.float32)
        before, after = (np.where(rng.random(count * block) < 0.5, -1, 1).astype(np.float32) for _ in range(2))
        def expect(y, block=block):
            return fht_reference(y.reshape(-1, block)).reshape(y.shape)
        assert np.array_equal(_native.hadamard(x, block), expect(x))
        assert np.array_equal(_native.hadamard(x, block, before, after), expect(x * before) * after)


def test_inverse_threads_and_energy():
    x = np.random.default_rng(0).standard_normal((700, 768)).astype(np.float32)
    signs = np.where(np.random.default_rng(1).random(768) < 0.5, -1, 1).astype(np.float32)
    results = []
    for threads in (1, 2, 3):
        _native.set_threads(threads)
        results.append(_native.hadamard(x, 256, before=signs))
    assert all(np.array_equal(results[0], r) for r in results)
    assert np.allclose(_native.hadamard(results[0], 256, after=signs), x, atol=1e-5)
    assert np.allclose((results[0] ** 2).sum(), (x ** 2).sum(), rtol=1e-5)


def test_unaligned_input_is_left_alone():
    raw = np.random.default_rng(0).standard_normal(1 + 3 * 64).astype(np.float32)
    kept = raw.copy()
    assert np.array_equal(_native.hadamard(raw[1:].reshape(3, 64), 64), fht_reference(raw[1:].reshape(3, 64)))
    assert np.array_equal(raw, kept)


@pytest.mark.parametrize("block", [0, 3, 12, 16])
def test_bad_blocks_are_value_errors(block):
    with pytest.raises(ValueError):
        _native.hadamard(np.zeros((2, 24), np.float32), block)


def test_bad_signs_are_value_errors():
    with pytest.raises(ValueError):
        _native.hadamard(np.zeros((2, 8), np.float32), 8, np.ones(7, np.float32))
