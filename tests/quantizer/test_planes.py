"""planes keeps every bit of every dtype, and its kernel gives the same planes on every level and for every length."""

import dataclasses

import numpy as np
import pytest

import compand
from compand import _native
from compand.dtypes import NAMES, dtype
from compand.quantizer.planes import joint_reference, split_reference, words_of

LEVELS = ["scalar", "avx2", "avx512"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 5), (300, 64), (9,), (), (3, 2, 4)])
def test_any_bits_come_back(name, shape):
    rng = np.random.default_rng(0)
    n = int(np.prod(shape))
    raw = rng.integers(0, 2 if name == "bool" else 256, n * dtype(name).itemsize, dtype=np.uint8)
    x = raw.view(dtype(name)).reshape(shape)
    codec = compand.Codec("planes")
    y = codec.decode(codec.encode(x))
    assert y.dtype == x.dtype and y.shape == x.shape and y.tobytes() == x.tobytes()


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_kernel_equals_the_reference(size, turn):
    rng = np.random.default_rng(1)
    for n in [*range(131), 20000]:
        words = rng.integers(0, 1 << 63, n, dtype=np.uint64).view(f"u{size}")[:n]
        want = split_reference(words, turn)
        for level in LEVELS:
            if not _native.set_isa(level):
                continue
            for threads in (1, 2) if n > 130 else (1,):
                _native.set_threads(threads)
                planes = _native.planes_split(words, turn)
                assert np.array_equal(planes, want)
                assert np.array_equal(_native.planes_merge(list(planes), turn), words)


def test_kernel_refuses_what_are_no_planes():
    p = np.zeros(3, np.uint8)
    for planes, turn in (([p], 0), ([p, p, p], 0), ([p, p[:2]], 0), ([p, p], 3), ([p, p], -1)):
        with pytest.raises(ValueError):
            _native.planes_merge(planes, turn)
    for planes in ([p, 3], [p, np.zeros(3, np.int8)], [p, np.zeros((3, 1), np.uint8)]):
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            _native.planes_merge(planes, 0)


@pytest.mark.parametrize("size", [2, 4])
def test_joint_kernel_equals_the_reference(size):
    rng = np.random.default_rng(1)
    merge = _native.joint_merge16 if size == 2 else _native.joint_merge32
    top = 8 * size - 9

    def check(words):
        want = None
        for level in LEVELS:
            if not _native.set_isa(level):
                continue
            for threads in (1, 2) if len(words) > 4096 else (1,):
                _native.set_threads(threads)
                low, *planes = _native.joint_split(words)
                want = want or (low, [p.tobytes() for p in joint_reference(words, low)])
                assert (low, [p.tobytes() for p in planes]) == want
                assert np.array_equal(merge(planes[0], list(planes[1]), planes[2], planes[3], low, planes[4]), words)
        return want[0], len(want[1][4])

    for n in [*range(131), 4095, 4097, 20001]:
        words = rng.integers(0, 1 << 63, n, dtype=np.uint64).view(f"u{size}")[:n]  # exponents everywhere: no window
        check(words)
        exponents = 120 - np.minimum(rng.geometric(0.5, n), 90) * (rng.random(n) > 0.1)
        exponents = np.where(rng.random(n) < 0.3, 0, exponents).astype(np.uint64)
        low, escapes = check((words & ~(np.uint64(255) << np.uint64(top)) | exponents << np.uint64(top)).astype(f"u{size}"))
        assert n < 20000 or (low >= 0 and 0 < escapes < n / 256 + 17)


def test_joint_kernel_refuses_planes_that_do_not_fit():
    n = np.zeros(4, np.uint8)
    half, none, escaped = n[:2], n[:0], np.array([0xF0, 0, 0, 0], np.uint8)
    assert _native.joint_merge16(n, [], half, half, 5, none) is not None
    assert _native.joint_merge16(escaped, [], half, half, 5, none) is None
    assert _native.joint_merge16(n, [], half, half, 5, half) is None
    for bad in ((n, [n], half, half, 5, none), (n, [], n, half, 5, none), (n, [], half, half[:1], 5, none),
                (n, [], half, half, -2, none), (n, [], half, half, 256, none)):
        with pytest.raises(ValueError):
            _native.joint_merge16(*bad)
    with pytest.raises(ValueError):
        _native.joint_merge32(n, [n, n[:3]], half, half, 5, none)


def test_hostile_windows_are_corrupt():
    x = np.ones((10, 4), dtype("bfloat16"))
    codec = compand.Codec("planes")
    codes = codec.encode(x)
    for window in ([], [1], [2, 0], [1, 127, 5], [0, 0, 1]):
        block = dataclasses.replace(codes.blocks[0], parts={**codes.blocks[0].parts, "window": np.array(window, np.uint8)})
        with pytest.raises(compand.CorruptError):
            codec.decode(dataclasses.replace(codes, blocks=(block,)))


def test_small_integers_have_empty_high_planes():
    x = np.arange(-5, 5, dtype=np.int64).reshape(2, 5)
    codes = compand.Codec("planes").encode(x)
    assert not codes.symbols("byte7").any() and codes.symbols("byte0").max() == 9


def test_words():
    assert words_of("uint16") == (2, 0, 1) and words_of("int64") == (8, 2, 1) and words_of("float8_e5m2") == (1, 0, 1)
