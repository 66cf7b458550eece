import numpy as np
import pytest

import compand
from compand.quantizer.ecsq import Ecsq
from compand.testing import laws


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((6000, 64), dtype=np.float32) * np.exp(-np.arange(64) / 24, dtype=np.float32)


@pytest.mark.parametrize("option, above", [("", 1.6), (":trellis=true", 1.3)])
def test_bytes_are_met_and_error_is_near_the_bound(x, option, above):
    variance = x.var(0).astype(np.float64)
    for size in (10, 20, 40):
        codec = compand.Codec(f"ecsq:{size}:gain=false{option},rans").fit(x)
        codes = codec.encode(x)
        assert 0.95 * size < codes.nbytes / len(x) < 1.02 * size
        level = 1.0
        while np.log2(np.maximum(variance / level, 1)).sum() / 2 < 8 * size:
            level *= 0.98
        error = ((codec.decode(codes) - x) ** 2).sum(1).mean()
        assert error < above * np.minimum(variance, level).sum()


@pytest.mark.parametrize("option", ["", ":trellis=true"])
def test_gain_removes_the_bias(x, option):
    codec = compand.Codec(f"ecsq:8{option},rans").fit(x)
    x_hat = codec.decode(codec.encode(x))
    assert abs(np.einsum("ij,ij->i", x, x_hat).mean() / np.einsum("ij,ij->i", x, x).mean() - 1) < 0.01


@pytest.mark.parametrize("option", ["", ":trellis=true"])
@pytest.mark.parametrize("size", [16, 56, 90])
def test_search_agrees_with_decoding(x, size, option):
    from compand.op.search import search_reference

    codes = compand.Codec(f"klt,ecsq:{size}{option},rans").fit(x).encode(x)
    scores, rows = compand.search(x[:20], codes, 5)
    expected = search_reference(x[:20], codes, 5)
    np.testing.assert_allclose(scores, expected[0], rtol=1e-3, atol=3e-3)
    assert (rows == expected[1]).mean() > 0.9


def test_a_trellis_of_nothing_and_of_few_rows():
    for x in (np.zeros((50, 5), np.float32), np.ones((3, 5)), np.float32([[1e30, 0, -1e-30]]), np.zeros((4, 1), np.float32)):
        codec = compand.Codec("ecsq:4:trellis=true,rans").fit(x)
        assert np.isfinite(codec.decode(codec.encode(x))).all()
        assert codec.decode(codec.encode(x * 0 if x.any() else x + 7)).shape == x.shape


def test_laws():
    laws.check(Ecsq, examples=6)
