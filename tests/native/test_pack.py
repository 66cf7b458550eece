"""Bit packing against a NumPy bit-by-bit oracle."""

import numpy as np
import pytest

from compand import _native

LEVELS = ["scalar", "avx2", "avx512"]
DTYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def oracle(ids, bits):
    planes = (ids[:, :, None].astype(np.uint64) >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(planes.reshape(len(ids), -1).astype(np.uint8), axis=1, bitorder="little")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bits", range(1, 33))
def test_bits_match_the_oracle_and_round_trip(level, bits):
    if not _native.set_isa(level):
        pytest.skip(f"no {level} here")
    rng = np.random.default_rng(bits)
    for itemsize, dtype in DTYPES.items():
        for d in range(0, 131, 1 if itemsize * 8 >= bits else 13):
            ids = rng.integers(0, 1 << min(bits, 8 * itemsize), (3, d), dtype=np.uint64).astype(dtype)
            packed = _native.pack_bits(ids, bits)
            assert packed.shape == (3, (d * bits + 7) // 8)
            assert np.array_equal(packed, oracle(ids, bits))
            if bits <= 8 * itemsize:
                assert np.array_equal(_native.unpack_bits(packed, d, bits, itemsize), ids)
                assert _native.unpack_bits(packed, d, bits, itemsize).dtype == dtype


@pytest.mark.parametrize("bits,shape", [(4, (40_000, 6)), (3, (9_000, 17)), (1, (3, 200_001)), (12, (70_000, 2))])
def test_large_arrays_do_not_depend_on_threads(bits, shape):
    ids = np.random.default_rng(0).integers(0, 1 << bits, shape).astype(np.uint16)
    results = []
    for threads in (1, 2, 3):
        _native.set_threads(threads)
        packed = _native.pack_bits(ids, bits)
        assert np.array_equal(_native.unpack_bits(packed, shape[1], bits, 2), ids)
        results.append(packed)
    assert np.array_equal(results[0], oracle(ids, bits))
    assert all(np.array_equal(results[0], r) for r in results)


@pytest.mark.parametrize("level", LEVELS)
def test_unpack_reads_any_bytes(level):
    if not _native.set_isa(level):
        pytest.skip(f"no {level} here")
    data = np.random.default_rng(0).integers(0, 256, (5, 13), dtype=np.uint8)
    for bits in range(1, 33):
        ids = _native.unpack_bits(data, 13 * 8 // bits, bits, 4) if (13 * 8 // bits * bits + 7) // 8 == 13 else None
        if ids is not None:
            assert int(ids.max(initial=0)) < 1 << bits


def test_unaligned_input():
    ids = np.arange(101, dtype=np.uint8)[1:].reshape(4, 25) % 8
    assert np.array_equal(_native.pack_bits(ids, 3), oracle(ids, 3))


@pytest.mark.parametrize(
    "call",
    [
        lambda: _native.pack_bits(np.zeros((2, 2), np.uint8), 0),
        lambda: _native.pack_bits(np.zeros((2, 2), np.uint8), 33),
        lambda: _native.pack_bits(np.full((2, 20), 4, np.uint8), 2),
        lambda: _native.pack_bits(np.full((2, 20), 4, np.uint32), 2),
        lambda: _native.unpack_bits(np.zeros((2, 2), np.uint8), 16, 2, 1),
        lambda: _native.unpack_bits(np.zeros((2, 2), np.uint8), 2**63, 32, 4),
        lambda: _native.unpack_bits(np.zeros((0, 0), np.uint8), 2**61, 1, 4),
        lambda: _native.unpack_bits(np.zeros((2, 2), np.uint8), 1, 9, 1),
        lambda: _native.unpack_bits(np.zeros((2, 2), np.uint8), 8, 2, 3),
        lambda: _native.pack_radix(np.zeros((2, 2), np.uint8), 3, 6),
        lambda: _native.pack_radix(np.zeros((2, 2), np.uint8), 1, 1),
        lambda: _native.pack_radix(np.full((2, 2), 3, np.uint8), 3, 5),
        lambda: _native.unpack_radix(np.full((2, 2), 243, np.uint8), 10, 3, 5),
        lambda: _native.unpack_radix(np.zeros((2, 2), np.uint8), 11, 3, 5),
    ],
)
def test_bad_sizes_are_value_errors(call):
    with pytest.raises(ValueError):
        call()


@pytest.mark.parametrize("k,m", [(2, 8), (3, 5), (3, 1), (4, 4), (5, 3), (6, 3), (7, 2), (15, 2), (16, 2), (256, 1)])
def test_radix_round_trips(k, m):
    rng = np.random.default_rng(k)
    for d in range(131):
        ids = rng.integers(0, k, (3, d)).astype(np.uint8)
        packed = _native.pack_radix(ids, k, m)
        assert packed.shape == (3, -(-d // m))
        full = np.zeros((3, packed.shape[1] * m), int)
        full[:, :d] = ids
        assert np.array_equal(packed, (full.reshape(3, -1, m) * k ** np.arange(m)).sum(-1))
        assert np.array_equal(_native.unpack_radix(packed, d, k, m), ids)
    large = rng.integers(0, k, (1000, 333)).astype(np.uint8)
    assert np.array_equal(_native.unpack_radix(_native.pack_radix(large, k, m), 333, k, m), large)
