"""Codebooks: reproducible, every codeword used, weights honoured, near the best known error."""

import numpy as np
import pytest

from compand import _native
from compand.errors import FitError
from compand.fit.balance import assign_balanced
from compand.fit.kmeans import kmeans, kmeans_1d


def error(x, codebook, ids, weight=None):
    return np.average(((x.astype(np.float64) - codebook[ids]) ** 2).sum(1), weights=weight)


@pytest.mark.parametrize("options", [{}, {"init": "++"}, {"balanced": True}, {"weight": True}])
def test_same_on_every_level_and_thread_count(options):
    x = np.random.default_rng(0).standard_normal((3000, 6)).astype(np.float32)
    if "weight" in options:
        options = {"weight": np.random.default_rng(1).random(3000)}
    results = []
    for level in ("scalar", "avx2", "avx512"):
        if _native.set_isa(level):
            for threads in (1, 2):
                _native.set_threads(threads)
                results.append(kmeans(x, 70, iterations=8, seed=3, **options))
    for codebook, ids in results:
        assert np.array_equal(codebook, results[0][0]) and np.array_equal(ids, results[0][1])
    assert codebook.dtype == np.float32 and ids.dtype == np.uint32 and codebook.shape == (70, 6)
    assert len(np.unique(ids)) == 70


@pytest.mark.parametrize("init", ["sample", "++"])
def test_finds_separate_clusters_and_uses_every_codeword(init):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((20, 5)) * 100
    x = (centres[rng.integers(0, 20, 4000)] + rng.standard_normal((4000, 5))).astype(np.float32)
    codebook, ids = kmeans(x, 40, init=init)
    assert len(np.unique(ids)) == 40
    if init == "++":
        assert error(x, codebook, ids) < 5.5


def test_empty_codewords_are_revived():
    x = np.concatenate([np.zeros((990, 3)), np.random.default_rng(0).standard_normal((10, 3)) * 50]).astype(np.float32)
    codebook, ids = kmeans(x, 11, iterations=50)
    assert error(x, codebook, ids) < 1e-6


@pytest.mark.parametrize("options", [{"init": "++"}, {}, {"balanced": True}])
def test_fewer_distinct_rows_than_codewords(options):
    x = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    codebook, ids = kmeans(x, 8, **options)
    assert np.isfinite(codebook).all() and (ids < 8).all()
    if not options.get("balanced"):
        assert error(x, codebook, ids) < 1e-12


def test_weights_are_repetitions():
    rng = np.random.default_rng(0)
    x, times = rng.standard_normal((500, 2)).astype(np.float32), rng.integers(0, 4, 500)
    codebook, ids = kmeans(x, 5, weight=times, init="++", iterations=200, tolerance=0)
    for c in range(5):
        mine = ids == c
        assert np.allclose(codebook[c], np.average(x[mine], axis=0, weights=times[mine]), atol=1e-3)


def test_no_worse_than_plain_lloyd():
    x = np.random.default_rng(0).standard_normal((4000, 4)).astype(np.float32)
    codebook, ids = kmeans(x, 64)
    plain = x[:64].astype(np.float64)
    for _ in range(25):
        near = ((x[:, None] - plain[None]) ** 2).sum(-1).argmin(1)
        plain = np.stack([x[near == c].mean(0) if (near == c).any() else plain[c] for c in range(64)])
    near = ((x[:, None] - plain[None]) ** 2).sum(-1).argmin(1)
    assert error(x, codebook, ids) < 1.03 * error(x, plain, near)


def test_balanced_obeys_capacity_at_little_cost():
    rng = np.random.default_rng(0)
    x = rng.laplace(size=(5000, 4)).astype(np.float32)
    codebook, ids = kmeans(x, 37, balanced=True)
    count = np.bincount(ids, minlength=37)
    assert count.max() <= -(-5000 // 37) and count.min() > 100
    random = error(x, codebook, rng.permutation(ids))
    assert error(x, codebook, ids) < 0.2 * random


def test_balanced_assignment_of_far_codewords():
    x = np.random.default_rng(0).standard_normal((101, 3)).astype(np.float32)
    ids, _ = assign_balanced(x, np.array([[0, 0, 0], [1e6, 0, 0], [0, 1e6, 0]], np.float32))
    assert np.bincount(ids).max() <= 34


def best_line(values, k):
    """The optimum by dynamic programming over all splits of the sorted values."""
    v = np.sort(values.astype(np.float64))
    n = len(v)
    s, q = np.concatenate([[0], v.cumsum()]), np.concatenate([[0], (v * v).cumsum()])
    a, b = np.triu_indices(n + 1, 1)
    cost = np.full((n + 1, n + 1), np.inf)
    cost[a, b] = q[b] - q[a] - (s[b] - s[a]) ** 2 / (b - a)
    best = cost[0]
    for _ in range(k - 1):
        best = (best[:, None] + cost).min(0)
    return best[n]


@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_line_is_optimal(k):
    values = np.random.default_rng(k).standard_cauchy((6, 150)).astype(np.float32)
    for row, centroids in zip(values, kmeans_1d(values, k), strict=True):
        assert (np.diff(centroids) >= 0).all()
        found = ((row[:, None].astype(np.float64) - centroids) ** 2).min(1).sum()
        assert found <= best_line(row, k) * (1 + 1e-5) + 1e-9


@pytest.mark.parametrize("k,bound", [(2, 0.3634), (4, 0.1175), (16, 0.009497), (256, 4.5e-5)])
def test_line_reaches_lloyd_max_on_many_values(k, bound):
    values = np.random.default_rng(0).standard_normal((1, 100_000)).astype(np.float32)
    centroids = kmeans_1d(values, k)
    ids = _native.nearest(values.T.copy(), centroids.T.copy())
    assert ((values[0] - centroids[0][ids]) ** 2).mean() < bound * 1.02


def test_line_weights_repeats_and_many_codewords():
    values = np.array([[3, 1, 2, 1, 3]], np.float32)
    assert kmeans_1d(values, 5).tolist() == [[1, 2, 3, 3, 3]]
    assert kmeans_1d(np.array([[0, 1, 10]], np.float32), 2, np.array([3, 1, 1])).tolist() == [[0.25, 10]]
    many = np.random.default_rng(0).standard_normal((2, 5000)).astype(np.float32)
    centroids = kmeans_1d(many, 1000)
    assert (np.diff(centroids, axis=1) >= 0).all()
    _native.set_threads(1)
    assert np.array_equal(centroids, kmeans_1d(many, 1000))


def test_one_dimension_goes_by_the_line():
    x = np.random.default_rng(0).standard_normal((1000, 1)).astype(np.float32)
    codebook, ids = kmeans(x, 8)
    assert np.array_equal(codebook[:, 0], kmeans_1d(x.T, 8)[0]) and np.array_equal(ids, _native.nearest(x, codebook))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: kmeans(x, 11),
        lambda x: kmeans(x, 0),
        lambda x: kmeans(x[0], 1),
        lambda x: kmeans(x, 2, init="magic"),
        lambda x: kmeans(x, 2, weight=np.zeros(10)),
        lambda x: kmeans(x, 2, weight=-np.ones(10)),
        lambda x: kmeans(x, 2, weight=np.ones(9)),
        lambda x: kmeans(x * np.float32(np.nan), 2),
        lambda x: kmeans_1d(x, 4),
        lambda x: kmeans_1d(x * np.float32(np.inf), 1),
        lambda x: kmeans_1d(x, 1, -np.ones((10, 3))),
    ],
)
def test_what_cannot_be_fitted(call):
    with pytest.raises(FitError):
        call(np.ones((10, 3), np.float32))


def test_native_sums_refuse_bad_ids():
    x, ids = np.ones((3, 2), np.float32), np.array([0, 1, 5], np.uint32)
    with pytest.raises(ValueError):
        _native.cluster_sums(x, ids, 5)
    with pytest.raises(ValueError):
        _native.cluster_sums(x, ids[:2], 6)
    sums, totals, spread = _native.cluster_sums(x, ids, 6, np.array([1, 2, 3], np.float32), np.ones(3, np.float32))
    assert sums[5].tolist() == [3, 3] and totals.tolist() == [1, 2, 0, 0, 0, 3] and spread.tolist() == totals.tolist()
