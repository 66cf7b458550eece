import numpy as np
import pytest

from compand import Codec, FitError, SpecError, parse
from compand.fit.subspace import subspace


def correlated(n, d, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * 0.95 ** np.arange(d) @ rng.standard_normal((d, d))
    return (x + rng.standard_normal(d)).astype(np.float32)


@pytest.mark.parametrize("spec", ["pca", "pca:whiten=true"])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 5), (50, 1), (40, 7), (200, 65), (20, 33)])
def test_all_directions_lose_nothing(hold, spec, n, d):
    if "whiten" in spec and n <= d:
        pytest.skip("whitening magnifies directions without variance")
    hold(spec, correlated(n, d), 1e-4, 1e-2)


def test_orthonormal_ordered_and_optimal():
    x = correlated(500, 20)
    stage = parse("pca:5").fit(x)
    np.testing.assert_allclose(stage.basis_.T @ stage.basis_, np.eye(5), atol=1e-6)
    y, side = stage.forward(x)
    assert y.shape == (500, 5) and (np.diff(y.var(0)) <= 0).all()
    error = np.square(x - stage.inverse(y, side, None)).sum()
    np.testing.assert_allclose(error, np.square(np.linalg.svd(x - x.mean(0))[1][5:]).sum(), rtol=1e-3)
    assert (stage.basis_.max(0) >= -stage.basis_.min(0)).all()
    white, _ = parse("pca:5:whiten=true").fit(x).forward(x)
    np.testing.assert_allclose(white.var(0), 1, rtol=1e-3)
    assert not stage.exact


def test_constants_and_one_row():
    for x in (np.full((5, 3), 2, np.float32), np.zeros((4, 6), np.float32), np.ones((1, 4), np.float32)):
        for spec in ("pca", "pca:2", "pca:2:whiten=true"):
            stage = parse(spec).fit(x)
            y, side = stage.forward(x)
            np.testing.assert_allclose(stage.inverse(y, side, None), x, atol=1e-5)


def test_column_weight_is_the_error_that_is_minimised():
    x, weight = correlated(400, 12), np.geomspace(1, 1000, 12)[None]
    errors = {}
    for name, w in (("plain", None), ("weighted", weight)):
        stage = parse("pca:4").fit(x, weight=w)
        y, side = stage.forward(x)
        errors[name] = (weight * np.square(x - stage.inverse(y, side, None))).sum()
    assert errors["weighted"] < 0.9 * errors["plain"]
    z = (x - x.mean(0)) * np.sqrt(weight)
    np.testing.assert_allclose(errors["weighted"], np.square(np.linalg.svd(z)[1][4:]).sum(), rtol=1e-2)


def test_row_weight_and_zero_weight():
    x = correlated(60, 6)
    weight = np.zeros((60, 1))
    weight[:30] = 1
    a, b = parse("pca").fit(x, weight=weight), parse("pca").fit(x[:30])
    np.testing.assert_allclose(a.basis_, b.basis_, atol=1e-4)
    with pytest.raises(FitError):
        parse("pca").fit(x, weight=weight * 0)


def test_wide_rows_by_iteration():
    x = correlated(300, 1100)
    s, exact = subspace(x, 8), np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(s.variance, exact[1][:8] ** 2 / 300, rtol=1e-6)
    np.testing.assert_allclose(np.abs(s.basis.T @ exact[2][:8].T), np.eye(8), atol=1e-3)
    assert np.array_equal(subspace(x, 8).basis, s.basis)


def test_refusals():
    with pytest.raises(SpecError, match="pca:10"):
        Codec("pca:11,int:8").fit(np.zeros((5, 10), np.float32))
    with pytest.raises(FitError, match="8,192"):
        subspace(np.zeros((2, 9000), np.float32), 9000)
