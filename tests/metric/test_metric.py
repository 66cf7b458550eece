import math

import numpy as np
import pytest

from compand import InputError
from compand.metric import Tally, errors, overall, recall


def test_errors_of_known_arrays():
    e = errors(np.float32([[3, 4], [0, 0]]), np.float32([[3, 4.5], [0, 0]]))
    assert (e.values, e.relative, e.maximum, e.exact) == (4, 0.1, 0.5, False)
    assert e.snr == pytest.approx(20) and e.cosine == e.cosine_min == pytest.approx(27 / (5 * math.hypot(3, 4.5)))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "uint64", "bool", "complex64", "bfloat16"])
def test_equal_arrays_are_exact(dtype):
    import ml_dtypes

    x = np.arange(24).reshape(4, 6).astype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    e = errors(x, x.copy())
    assert e.exact and e.relative == 0 and e.snr == math.inf and e.cosine_min == 1


def test_bits_decide_about_exact():
    assert not errors(np.float32([0.0]), np.float32([-0.0])).exact
    assert errors(np.float32([0.0]), np.float32([-0.0])).relative == 0
    x = np.float32([1, np.nan, np.inf])
    assert errors(x, x.copy()).exact
    e = errors(x, np.float32([1.5, np.nan, np.inf]))
    assert e.relative == 0.5 and not e.exact


def test_blocks_sum_up():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 50, 7))
    tally = Tally()
    for at in range(0, 50, 9):
        tally.add(x[at:at + 9], y[at:at + 9])
    assert tally.errors() == pytest.approx(errors(x, y))


def test_odd_shapes():
    assert errors(np.zeros((0, 3)), np.zeros((0, 3))).exact
    assert errors(np.float32(2), np.float32(1)).relative == 0.5
    assert math.isnan(errors(np.zeros((2, 2)), np.zeros((2, 2))).cosine)
    with pytest.raises(InputError, match="shapes"):
        errors(np.zeros(3), np.zeros(4))


def test_overall_counts_scales_alike():
    small, large = errors(np.full(10, 1e-3), np.full(10, 1.1e-3)), errors(np.full(10, 1e3), np.full(10, 1.1e3))
    assert overall([small, large, errors(np.arange(99), np.arange(99))]) == pytest.approx(0.1)
    assert overall([]) == 0


def test_recall_against_a_plain_search():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 16))
    x_hat = x + 0.3 * rng.standard_normal(x.shape)

    def nearest(base):
        unit = base / np.linalg.norm(base, axis=1, keepdims=True)
        scores = x / np.linalg.norm(x, axis=1, keepdims=True) @ unit.T
        np.fill_diagonal(scores, -np.inf)
        return np.argsort(-scores, axis=1)[:, :10]

    plain = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(nearest(x), nearest(x_hat), strict=True)])
    assert recall(x, x_hat) == pytest.approx(plain, abs=1e-3)
    assert recall(x, x) == 1
    with pytest.raises(InputError, match="more than 10 rows"):
        recall(x[:10], x[:10])


def test_recall_over_blocks(monkeypatch):
    from compand.metric import neighbours

    x = np.random.default_rng(0).standard_normal((100, 8))
    whole = recall(x, x + 0.1 * x[::-1])
    monkeypatch.setattr(neighbours, "BLOCK_ROWS", 7)
    assert recall(x, x + 0.1 * x[::-1]) == whole
