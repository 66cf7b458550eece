"""The native rANS coder: exact, the same on every machine, near the entropy, and safe with any bytes."""

import numpy as np
import pytest

from compand import _native
from compand.entropy import coder
from compand.errors import CorruptError, InputError

ISAS = ("scalar", "avx2", "avx512")
SIZES = (1, 2, 3, 16, 17, 255, 256, 257, 1000, 1024, 65536)


def source(kind: str, k: int, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng((seed, k, n))
    if kind == "uniform":
        ids = rng.integers(0, k, n)
    elif kind == "constant":
        ids = np.full(n, k - 1)
    elif kind == "skewed":
        ids = rng.geometric(0.6, n) % k
    elif kind == "rare":
        ids = np.where(rng.random(n) < 0.002, rng.integers(0, k, n), k // 2)
    else:
        ids = np.clip(np.round(rng.normal(k / 2, k / 20 + 0.5, n)), 0, k - 1)
    return ids.astype(np.uint8 if k <= 256 else np.uint16)


KINDS = ("uniform", "constant", "skewed", "rare", "bell")


def entropy_bytes(ids: np.ndarray) -> float:
    counts = np.bincount(ids)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / ids.size)).sum() / 8)


@pytest.mark.parametrize("k", SIZES)
def test_round_trip_of_short_streams(k):
    for n in range(131):
        for kind in KINDS:
            ids = source(kind, k, n)
            data = coder.encode_static(ids, k)
            assert np.array_equal(coder.decode_static(data, n, k), ids)
            assert data.size <= 16 + -(-n * max(1, (k - 1).bit_length()) // 8)


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("n", [4095, 4096, 5001, 20_000, 200_003])
def test_instruction_sets_and_threads_agree(k, n):
    for kind in KINDS:
        ids, streams = source(kind, k, n), []
        for isa in ISAS:
            if _native.set_isa(isa):
                streams.append(coder.encode_static(ids, k))
                assert np.array_equal(coder.decode_static(streams[0], n, k), ids), (isa, kind)
        assert all(np.array_equal(s, streams[0]) for s in streams), kind


@pytest.mark.parametrize("kind, k", [("bell", 256), ("uniform", 200), ("bell", 5000)])
def test_blocks_are_shared_by_threads(kind, k):
    ids, streams = source(kind, k, 3_000_001), []
    for threads in (1, 2, 5):
        _native.set_threads(threads)
        streams.append(coder.encode_static(ids, k))
        assert np.array_equal(coder.decode_static(streams[0], ids.size, k), ids)
    assert all(np.array_equal(s, streams[0]) for s in streams)


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("n", [0, 1, 63, 5001, 200_003])
def test_given_counts_make_the_table(k, n):
    for kind in KINDS:
        ids, own = source(kind, k, n), np.bincount(source(kind, k, 20_000, seed=1), minlength=k)
        for counts in (own, own[::-1], np.zeros(k, np.int64), np.where(np.arange(k) == 0, 1 << 36, 0) // 2, np.bincount(ids, minlength=k)):
            streams = []
            for isa in ISAS:
                if _native.set_isa(isa):
                    streams.append(coder.encode_static(ids, k, counts))
                    assert np.array_equal(coder.decode_static(streams[0], n, k), ids), (isa, kind)
            assert all(np.array_equal(s, streams[0]) for s in streams), kind
            assert streams[0].size <= 16 + -(-n * max(1, (k - 1).bit_length()) // 8)
    if k > 16 and n > 10_000:  # a good sample costs little beside its own counts
        sample = np.bincount(source("bell", k, n, seed=1), minlength=k)
        ids = source("bell", k, n)
        assert coder.encode_static(ids, k, sample).size < 1.05 * coder.encode_static(ids, k).size + 100


@pytest.mark.parametrize("counts", [np.ones(3, int), np.ones((2, 2), int), np.ones(4), np.array([1, -1, 1, 1]),
                                    np.array([1 << 36, 1, 1, 1])], ids=["few", "two axes", "floats", "minus", "many"])
def test_counts_that_fit_no_alphabet_are_refused(counts):
    with pytest.raises(InputError, match="counts must be 4 integers"):
        coder.encode_static(np.arange(4, dtype=np.uint8), 4, counts)
    for given in (np.ones(3, np.uint64), np.array([1, 0, 1, 1], np.uint64), np.full(4, 1 << 52, np.uint64)):
        with pytest.raises(ValueError, match="counts are above 0"):
            _native.rans_encode_static(np.arange(4, dtype=np.uint8), given)


def spread(kind: str, n: int) -> np.ndarray:
    """Ids whose symbols can be ordered for look-ups in registers (native/rans/spread.hpp): few, more than 128, many rare."""
    rng = np.random.default_rng(6)
    if kind == "many":
        return np.clip(np.round(rng.normal(128, 34, n)), 0, 255).astype(np.uint8)
    if kind == "rare":
        p = 1 / np.arange(1, 201) ** 0.9
        return rng.permutation(256)[rng.choice(200, n, p=p / p.sum())].astype(np.uint8)
    return np.clip(np.round(rng.normal(128, 6, n)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["few", "many", "rare"])
def test_long_streams_of_bytes_are_spread_and_every_instruction_set_reads_them(kind):
    ids = spread(kind, 100_003)
    short, long = coder.encode_static(ids[:32767], 256), coder.encode_static(ids, 256)
    assert (short[0], long[0]) == (3, 5)  # modes narrow and spread
    for isa in ISAS:
        if _native.set_isa(isa):
            assert np.array_equal(coder.decode_static(long, ids.size, 256), ids)
            assert np.array_equal(coder.decode_static(short, 32767, 256), ids[:32767])
            assert np.array_equal(coder.encode_static(ids, 256), long)


def test_where_no_order_spreads_the_symbols_they_stay_in_theirs():
    ids = np.repeat(np.arange(255, dtype=np.uint8), np.where(np.arange(255) < 200, 9, 46)[:255] * 10)  # most have f < 16, nothing between
    ids = np.random.default_rng(0).permutation(ids)
    data = coder.encode_static(ids, 256)
    assert ids.size >= 1 << 15
    assert data[0] == 3
    assert np.array_equal(coder.decode_static(data, ids.size, 256), ids)


@pytest.mark.parametrize("kind", ["gauss 5.6 b", "gauss 3 b", "laplace 1.2 b", "binary 0.2 b", "binary 0.01 b", "uniform 7.6 b", "rare"])
def test_size_is_near_the_entropy(kind):
    rng, n = np.random.default_rng(1), 1 << 20
    ids = {
        "gauss 5.6 b": lambda: np.clip(np.round(rng.normal(128, 12, n)), 0, 255),
        "gauss 3 b": lambda: np.clip(np.round(rng.normal(8, 2, n)), 0, 15),
        "laplace 1.2 b": lambda: np.abs(np.round(rng.laplace(0, 0.4, n))),
        "binary 0.2 b": lambda: rng.random(n) < 0.031,
        "binary 0.01 b": lambda: rng.random(n) < 0.0008,
        "uniform 7.6 b": lambda: rng.integers(0, 200, n),
        "rare": lambda: (rng.random(n) < 0.001) * rng.integers(1, 20, n),
    }[kind]().astype(np.uint8)
    assert coder.encode_static(ids, 256).size <= 1.0002 * entropy_bytes(ids) + 150


@pytest.mark.parametrize("k", [1024, 65536])
def test_large_alphabets_are_near_the_entropy_and_their_table(k):
    p = 1 / np.arange(1, k + 1)
    rng = np.random.default_rng(2)
    ids = rng.permutation(k)[rng.choice(k, 1 << 20, p=p / p.sum())].astype(np.uint16)
    assert coder.encode_static(ids, k).size <= 1.0005 * entropy_bytes(ids) + 1.2 * k


def test_ids_outside_are_refused():
    with pytest.raises(InputError, match=r"\[0, 3\)"):
        coder.encode_static(np.array([0, 3], np.uint8), 3)
    with pytest.raises(InputError, match="65536"):
        coder.encode_static(np.array([0], np.uint32), 1 << 17)
    with pytest.raises(InputError, match="integers"):
        coder.encode_static(np.array([0.5]), 3)


def test_a_decoder_told_another_count_or_alphabet_refuses():
    data = coder.encode_static(source("bell", 256, 1000), 256)
    for n, k in ((999, 256), (1001, 256), (0, 256), (1000, 100)):
        with pytest.raises(CorruptError):
            coder.decode_static(data, n, k)


def damaged(data: np.ndarray, rng, flips: int):
    """Every truncation (or many), then random changes of bytes, most of them in the header."""
    for size in range(data.size) if data.size < 400 else [*range(200), *rng.integers(0, data.size, 200)]:
        yield data[:size]
    for _ in range(flips):
        bad = data.copy()
        for _ in range(rng.integers(1, 4)):
            bad[rng.integers(0, min(bad.size, 200) if rng.random() < 0.7 else bad.size)] = rng.integers(0, 256)
        yield bad
    yield np.concatenate([data, data[-1:]])


@pytest.mark.parametrize("kind, k, n", [("bell", 256, 3000), ("bell", 256, 20_000), ("bell", 16, 9000), ("rare", 256, 50_000),
                                                        ("bell", 256, 40_000),
                                        ("bell", 3000, 9000), ("uniform", 11, 100), ("constant", 9, 50), ("skewed", 65536, 5000)])
def test_damaged_streams_end_in_an_error_or_ids(kind, k, n):
    rng, ids = np.random.default_rng(3), source(kind, k, n)
    data, wrong = coder.encode_static(ids, k), 0
    for isa in ISAS:
        if _native.set_isa(isa):
            for bad in damaged(data, rng, 400):
                try:
                    got = coder.decode_static(bad, n, k)
                except CorruptError:
                    continue
                assert got.shape == (n,) and int(got.max()) < k
                wrong += not np.array_equal(got, ids)
    assert wrong < 100 or kind in ("uniform", "constant", "rare")  # those hold raw symbols


def test_random_bytes_end_in_an_error_or_ids():
    rng = np.random.default_rng(4)
    for _ in range(4000):
        n, k = int(rng.integers(0, 300)), int(rng.choice([2, 16, 256, 1000, 65536]))
        data = rng.integers(0, 256, rng.integers(0, 300)).astype(np.uint8)
        if data.size > 1 and n < 128:
            data[:2] = rng.integers(0, 5), n
        try:
            assert coder.decode_static(data, n, k).shape == (n,)
        except CorruptError:
            pass
