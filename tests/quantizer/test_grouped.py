import numpy as np
import pytest

import compand
from compand.quantizer.grouped import Grouped
from compand.testing import laws


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((4000, 24), dtype=np.float32) * np.exp(-np.arange(24) / 6, dtype=np.float32)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_bytes_are_as_asked_and_error_falls(x, bits):
    errors = []
    for size in (4, 6, 9):
        codec = compand.Codec(Grouped(size, bits=bits, gain=False)).fit(x)
        codes = codec.encode(x)
        assert codes.nbytes <= size * len(x) and codes.nbytes >= (size - 1) * len(x)
        errors.append(float(((codec.decode(codes) - x) ** 2).sum() / (x**2).sum()))
    assert errors[0] > 1.4 * errors[1] > 1.9 * errors[2]


def test_near_the_rate_distortion_bound(x):
    """At 8 bytes a row within a factor 3 of what an ideal Gaussian code of that size would leave."""
    codec = compand.Codec(Grouped(8, gain=False)).fit(x)
    error = ((codec.decode(codec.encode(x)) - x) ** 2).sum(1).mean()
    variance, level = np.sort(x.var(0))[::-1], 1.0
    while np.log2(np.maximum(variance / level, 1)).sum() / 2 < 64:
        level *= 0.98
    assert error < 3 * np.minimum(variance, level).sum()


def test_gain_removes_the_bias_of_inner_products(x):
    for gain, low, high in [(True, 0.99, 1.01), (False, 0.5, 0.985)]:
        codec = compand.Codec(Grouped(6, gain=gain)).fit(x)
        x_hat = codec.decode(codec.encode(x))
        assert low < np.einsum("ij,ij->i", x, x_hat).mean() / np.einsum("ij,ij->i", x, x).mean() < high


def test_weights_move_codewords(x):
    w = np.ones((1, 24), np.float32)
    w[0, 12:] = 1000
    plain, weighted = (compand.Codec(Grouped(8, gain=False)).fit(x, weight=v) for v in (None, w))
    tail = [((c.decode(c.encode(x)) - x)[:, 12:] ** 2).mean() for c in (plain, weighted)]
    assert tail[1] < 0.8 * tail[0]


def test_laws():
    laws.check(Grouped, examples=6)


def test_many_rows_are_sampled():
    x = np.random.default_rng(3).standard_normal((40_000, 3), dtype=np.float32)
    codec = compand.Codec(Grouped(3)).fit(x)
    assert np.linalg.norm(codec.decode(codec.encode(x)) - x) < 0.25 * np.linalg.norm(x)
