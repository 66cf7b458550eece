"""Order-1, mixed, parametric and given models of the rANS coder."""

import math
import pathlib
import zlib

import numpy as np
import pytest

from compand import _native
from compand.entropy import coder
from compand.entropy.blocks import BlockDecoder, BlockEncoder
from compand.errors import CorruptError, InputError

ISAS = ("scalar", "avx2", "avx512")


def markov(k: int, n: int, seed: int = 0) -> np.ndarray:
    """Each id near the one before."""
    rng = np.random.default_rng((seed, k, n))
    steps = np.round(rng.laplace(0, max(k / 30, 0.4), n)).astype(np.int64)
    walk = np.abs(np.cumsum(steps)) % (2 * k)
    return np.minimum(walk, 2 * k - 1 - walk).astype(np.uint8)


def agree(encode, decode, ids):
    """Streams of every instruction set are the same and decode to ids."""
    streams = []
    for isa in ISAS:
        if _native.set_isa(isa):
            streams.append(encode())
            assert np.array_equal(decode(streams[0]), ids), isa
    assert all(np.array_equal(s, streams[0]) for s in streams)
    return streams[0]


def survives(data: np.ndarray, decode, tries: int, seed: int = 0):
    """Truncated, flipped and random bytes end in ids or CorruptError."""
    rng = np.random.default_rng(seed)
    sizes = range(data.size) if data.size < 300 else [*range(150), *rng.integers(0, data.size, 100)]
    cases = [data[:size] for size in sizes]
    for _ in range(tries):
        bad = data.copy()
        for _ in range(rng.integers(1, 4)):
            bad[rng.integers(0, min(bad.size, 150) if rng.random() < 0.7 else bad.size)] = rng.integers(0, 256)
        cases.append(bad)
        cases.append(rng.integers(0, 256, rng.integers(0, 200)).astype(np.uint8))
    for case in cases:
        try:
            decode(case)
        except CorruptError:
            pass


@pytest.mark.parametrize("k", [1, 2, 3, 16, 17, 200, 256])
def test_order1_round_trip(k):
    for n in [*range(0, 131, 7), 129, 130, 4096, 5003, 70_001]:
        ids = markov(k, n)
        agree(lambda: coder.encode_order1(ids, k), lambda d: coder.decode_order1(d, n, k), ids)  # noqa: B023


@pytest.mark.parametrize("k, c", [(16, 1), (16, 300), (256, 4096), (2, 7)])
def test_given_contexts_round_trip(k, c):
    for n in (0, 1, 130, 5003, 70_001):
        rng = np.random.default_rng((k, c, n))
        contexts = rng.integers(0, c, n)
        ids = ((contexts * 7 + rng.geometric(0.5, n)) % k).astype(np.uint8)
        agree(lambda: coder.encode_order1(ids, k, contexts, c),  # noqa: B023
              lambda d: coder.decode_order1(d, n, k, contexts, c), ids)  # noqa: B023


def test_order1_blocks_and_threads():
    ids, streams = markov(256, 3_000_000), []
    for threads in (1, 2):
        _native.set_threads(threads)
        streams.append(coder.encode_order1(ids, 256))
        assert np.array_equal(coder.decode_order1(streams[0], ids.size, 256), ids)
    assert np.array_equal(*streams)


def test_order1_is_near_its_entropy_and_never_far_above_order0():
    ids = markov(32, 1 << 20)
    pairs = np.bincount(ids[:-1].astype(int) * 32 + ids[1:], minlength=1024).reshape(32, 32)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -np.nansum(pairs * np.log2(pairs / pairs.sum(1, keepdims=True)))
    assert coder.encode_order1(ids, 32).size < 1.002 * bits / 8 + 1000
    noise = np.random.default_rng(0).integers(0, 200, 10_000).astype(np.uint8)
    assert coder.encode_order1(noise, 200).size <= coder.encode_static(noise, 200).size + 1


def test_order1_survives_damage():
    ids = markov(256, 9000)
    survives(coder.encode_order1(ids, 256), lambda d: coder.decode_order1(d, 9000, 256), 600)
    contexts = ids.astype(int) // 2
    survives(coder.encode_order1(ids, 256, contexts, 128), lambda d: coder.decode_order1(d, 9000, 256, contexts, 128), 300)


@pytest.mark.parametrize("k", [1, 2, 16, 17, 256])
@pytest.mark.parametrize("width", [0, 1, 48])
def test_mixed_round_trip(k, width):
    for n in (0, 1, 2, 3, 64, 130, 4999):
        ids = markov(k, n)
        data = coder.encode_mixed(ids, k, width)
        assert np.array_equal(coder.decode_mixed(data, n, k, width), ids)


def test_mixed_beats_static_where_rows_resemble_each_other():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 16, 48)
    ids = (base + (rng.random((400, 48)) < 0.2) * rng.integers(0, 16, (400, 48))) % 16
    assert coder.encode_mixed(ids, 16, 48).size < 0.6 * coder.encode_static(ids, 16).size


@pytest.mark.parametrize("k", [2, 16, 17, 256, 1000, 65536])
@pytest.mark.parametrize("n, width", [(4095, 7), (4096, 0), (6001, 48), (20_003, 1)])
def test_mixed_agrees_between_instruction_sets(k, n, width):
    ids = markov(256, n).astype(np.int64) * (k - 1) // 255
    agree(lambda: coder.encode_mixed(ids, k, width), lambda d: coder.decode_mixed(d, n, k, width), ids)


def test_mixed_reads_its_first_format():
    data = bytes.fromhex("8827f746f602efee8064b7f4070ab91c0a3d37")
    assert np.array_equal(coder.decode_mixed(data, 5000, 16, 16), np.arange(5000) % 16)


def test_mixed_is_small_where_ids_say_little_about_each_other():
    ids = np.clip(np.round(np.random.default_rng(0).normal(8, 2, 100_000)), 0, 15).astype(np.uint8)
    assert coder.encode_mixed(ids, 16).size < 1.01 * coder.encode_static(ids, 16).size


def test_mixed_survives_damage():
    survives(coder.encode_mixed(markov(16, 5000), 16, 10), lambda d: coder.decode_mixed(d, 5000, 16, 10), 300)
    survives(coder.encode_mixed(markov(16, 700), 16, 10), lambda d: coder.decode_mixed(d, 700, 16, 10), 300)


def models(n: int, seed: int, top: int = 64):
    rng = np.random.default_rng(seed)
    return rng.integers(-800, 800, n).astype(np.int32), rng.integers(0, top, n).astype(np.uint8), rng


def draw(family: str, rng, mean, scale):
    sample = {"gaussian": rng.normal, "laplace": rng.laplace, "logistic": rng.logistic}[family]
    return np.round(sample(mean / 16, coder.SCALES[scale])).astype(np.int32)


@pytest.mark.parametrize("family", coder.FAMILIES)
@pytest.mark.parametrize("top", [45, 64])
def test_parametric_round_trip(family, top):
    for n in (0, 1, 2, 63, 64, 65, 130, 5003, 30_001):
        mean, scale, rng = models(n, n, top)
        x = draw(family, rng, mean, scale)
        if n > 60:
            x[:4] = -(1 << 31), (1 << 31) - 1, 4000, -4000
            mean[4:6] = -(1 << 31), (1 << 31) - 1
        agree(lambda: coder.encode_parametric(x, mean, scale, family),  # noqa: B023
              lambda d: coder.decode_parametric(d, mean, scale, family), x)  # noqa: B023


def test_parametric_blocks_and_threads():
    mean, scale, rng = models(2_200_000, 1)
    x, streams = draw("gaussian", rng, mean, scale), []
    for threads in (1, 2):
        _native.set_threads(threads)
        streams.append(coder.encode_parametric(x, mean, scale))
        assert np.array_equal(coder.decode_parametric(streams[0], mean, scale), x)
    assert np.array_equal(*streams)


def ideal_bits(family: str, x, mean, scale) -> float:
    cdf = {"gaussian": lambda z: 0.5 * math.erfc(-z / math.sqrt(2)),
           "laplace": lambda z: 0.5 * math.exp(z) if z < 0 else 1 - 0.5 * math.exp(-z),
           "logistic": lambda z: 1 / (1 + math.exp(-z))}[family]
    total = 0.0
    for (m, s), count in zip(*np.unique(np.stack([np.abs(x - mean / 16), scale], 1), axis=0, return_counts=True), strict=True):
        sigma = coder.SCALES[int(s)]
        p = cdf((-m + 0.5) / sigma) - cdf((-m - 0.5) / sigma)  # the lower tail, where nothing cancels
        total -= count * math.log2(p)
    return total


@pytest.mark.parametrize("family, most", [("gaussian", 1.001), ("laplace", 1.0015), ("logistic", 1.0015)])
def test_parametric_is_near_the_ideal_code_length(family, most):
    mean, scale, rng = models(1 << 18, 2, 50)
    scale = np.clip(scale, 12, 49)
    mean %= 64
    x = draw(family, rng, mean, scale)
    assert coder.encode_parametric(x, mean, scale, family).size * 8 <= most * ideal_bits(family, x, mean, scale) + 8 * 100


def test_parametric_survives_damage():
    mean, scale, rng = models(6000, 3)
    x = draw("laplace", rng, mean, scale)
    data = coder.encode_parametric(x, mean, scale, "laplace")
    survives(data, lambda d: coder.decode_parametric(d, mean, scale, "laplace"), 500)


def test_parametric_tables_are_the_published_ones():
    text = (pathlib.Path(__file__).parents[2] / "native/rans/curves.inc").read_bytes().replace(b"\r\n", b"\n")
    made = b"".join(np.asarray(_native.rans_curve(f, s, m), "<i4").tobytes() for f in range(3) for s in range(64) for m in range(16))
    assert (_native.rans_curves_version(), zlib.crc32(text), zlib.crc32(made)) == (1, CURVES_INC, CURVES)
    for family in range(3):
        assert all(sum(_native.rans_curve(family, s, 3)[1:]) == 1 << 14 for s in range(64))


CURVES_INC, CURVES = 0x15e7efe4, 0x31f02bf8


@pytest.mark.parametrize("p", [1, 8, 10, 14, 16])
def test_given_tables_round_trip(p):
    for n in (0, 1, 130, 20_000):
        rng = np.random.default_rng((p, n))
        inner = np.sort(rng.integers(0, (1 << p) + 1, (n, 5)), axis=1)
        cdf = np.concatenate([np.zeros((n, 1), np.int64), inner, np.full((n, 1), 1 << p)], 1)
        ids = (rng.integers(0, 1 << p, (n, 1)) >= cdf[:, 1:]).sum(1)

        def encode():
            encoder = BlockEncoder(p)
            for part in np.array_split(np.arange(n), 3):  # noqa: B023
                encoder.encode(ids[part], cdf[part])  # noqa: B023
            return encoder.finish()

        def decode(data):
            decoder = BlockDecoder(data)
            got = [decoder.decode(cdf[part]) for part in np.array_split(np.arange(n), 7)]  # noqa: B023
            decoder.finish()
            return np.concatenate(got)

        data = agree(encode, decode, ids)
        survives(data, decode, 30 if n < 1000 else 10)


def test_given_tables_are_checked():
    encoder = BlockEncoder(4)
    with pytest.raises(InputError, match="row 1"):
        encoder.encode(np.array([0, 0]), np.array([[0, 8, 16], [0, 9, 15]]))
    with pytest.raises(InputError, match="frequency 0"):
        encoder.encode(np.array([1]), np.array([[0, 16, 16]]))
    with pytest.raises(InputError, match="cdf must be"):
        encoder.encode(np.array([1]), np.array([0, 16]))
    encoder.encode(np.array([0]), np.array([[0, 8, 16]]))
    decoder = BlockDecoder(encoder.finish())
    with pytest.raises(CorruptError, match="not asked"):
        decoder.finish()
    with pytest.raises(InputError, match="row 0"):
        decoder.decode(np.array([[1, 8, 16]]))
