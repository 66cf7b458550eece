import numpy as np
import pytest

from compand import parse
from compand.stage import Form
from compand.transform.hadamard import Hadamard, fht, fht_reference

SIZES = [1, 2, 3, 5, 31, 32, 33, 100, 127, 384]


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("spec", ["hadamard", "hadamard:16", "hadamard:odd=pad", "hadamard:20:odd=pad", "hadamard:odd=overlap",
                                  "hadamard:8:odd=overlap:seed=9"])
def test_orthonormal_inverse_and_libraries(hold, normal, spec, d):
    for n in (0, 1, 7):
        x = normal(n, d)
        y = hold(spec, x, 1e-6)
        np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-5)
    hold(spec, normal(3, d, np.float64), 1e-14)


def test_matrix():
    scipy = pytest.importorskip("scipy.linalg")
    for size in (1, 2, 8, 128):
        np.testing.assert_allclose(fht(np.eye(size)), scipy.hadamard(size) / size ** 0.5, atol=1e-15)


@pytest.mark.parametrize("size", [1 << i for i in range(13)])
def test_same_bits_as_reference(normal, size):
    for n in (0, 1, 13, 70_000 // size):
        for dtype in (np.float32, np.float64):
            x = normal(n, size, dtype)
            before = x.copy()
            y = fht(x)
            assert np.array_equal(x, before), "the input was written to"
            assert y.dtype == dtype and np.array_equal(y, fht_reference(x))


def test_spreads_outliers():
    x = np.zeros((1, 384), np.float32)
    x[0, 300] = 1
    assert np.abs(parse("hadamard").forward(x)[0]).max() <= 128 ** -0.5 + 1e-7
    y = np.abs(parse("hadamard:odd=overlap").forward(x)[0])
    assert y.max() <= 256 ** -0.5 + 1e-7
    x[0] = np.random.default_rng(0).standard_t(2, 384)
    assert np.abs(parse("hadamard").forward(x)[0]).max() < np.abs(x).max()


def test_seeds_differ_and_repeat(normal):
    x = normal(2, 64)
    a, b, again = (Hadamard(seed=s).forward(x)[0] for s in (0, 1, 0))
    assert np.array_equal(a, again) and not np.array_equal(a, b)
    assert parse("hadamard").exact


def test_pad_width():
    assert [parse("hadamard:odd=pad").out(Form(1, d)).d for d in (1, 2, 3, 384, 512)] == [1, 2, 4, 512, 512]
    assert parse("hadamard:100:odd=pad").out(Form(1, 130)).d == 192
    assert parse("hadamard:2").out(Form(1, 1 << 40)).d == 1 << 40
