"""planes keeps every bit of every dtype, and its kernel gives the same planes on every level and for every length."""

import numpy as np
import pytest

import compand
from compand import _native
from compand.dtypes import NAMES, dtype
from compand.quantizer.planes import split_reference, words_of

LEVELS = ["scalar", "avx2", "avx512"]


@pytest.fixture(autouse=True)
def level_and_threads():
    yield
    _native.set_isa("auto")
    _native.set_threads(0)


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


def test_exponents_are_a_plane():
    x = (np.random.default_rng(0).standard_normal((1000, 8)) * 0.02).astype(dtype("bfloat16"))
    exponents = compand.Codec("planes").encode(x).symbols("byte1")
    assert np.array_equal(exponents, (x.view(np.uint16) >> 7 & 255).astype(np.uint8))
    assert np.unique(exponents).size < 30


def test_small_integers_have_empty_high_planes():
    x = np.arange(-5, 5, dtype=np.int64).reshape(2, 5)
    codes = compand.Codec("planes").encode(x)
    assert not codes.symbols("byte7").any() and codes.symbols("byte0").max() == 9


def test_words():
    assert words_of("uint16") == (2, 0, 1) and words_of("int64") == (8, 2, 1) and words_of("float8_e5m2") == (1, 0, 1)
