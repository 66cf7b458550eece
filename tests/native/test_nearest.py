"""Nearest codewords against float64 brute force, ties to the lowest id."""

import numpy as np
import pytest

from compand import _native

LEVELS = ["scalar", "avx2", "avx512"]


def brute(x, codebook):
    """Squared distances (n, k) in float64, dimensions added in order; argmin takes the lowest id."""
    total = np.zeros((len(x), len(codebook)))
    for j in range(x.shape[1]):
        with np.errstate(invalid="ignore"):  # inf - inf
            total += (x[:, j, None].astype(np.float64) - codebook[None, :, j].astype(np.float64)) ** 2
    total[np.isnan(total)] = np.inf
    return total


def check(x, codebook):
    distances = brute(x, codebook)
    expected = distances.argmin(1) if len(x) else np.zeros(0)
    index = _native.NearestIndex(codebook)
    for level in LEVELS:
        if not _native.set_isa(level):
            continue
        for threads in (1, 2):
            _native.set_threads(threads)
            ids, found = index.search_distances(x)
            assert ids.dtype == np.uint32
            assert np.array_equal(ids, expected)
            assert np.array_equal(index.search(x), expected)
            with np.errstate(over="ignore"):
                assert np.array_equal(found, distances.min(1).astype(np.float32) if len(x) else found)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 17, 32, 64, 130, 131])
def test_ids_equal_brute_force(d):
    rng = np.random.default_rng(d)
    for n, k in ((0, 3), (1, 1), (5, 2), (67, 63), (130, 64), (33, 65), (300, 1000)):
        x, codebook = (rng.standard_normal((size, d)).astype(np.float32) for size in (n, k))
        check(x, codebook)


def test_odd_sizes():
    rng = np.random.default_rng(0)
    for size in range(1, 131):
        check(rng.standard_normal((size, 4)).astype(np.float32), rng.standard_normal((131 - size, 4)).astype(np.float32))


@pytest.mark.parametrize("d", [1, 2, 8, 16, 33])
@pytest.mark.parametrize("mean", [300, 3000, 1e6])
def test_conditioning(d, mean):
    rng = np.random.default_rng(d)
    check(*((mean + rng.standard_normal((size, d))).astype(np.float32) for size in (200, 500)))


@pytest.mark.parametrize("d", [2, 8, 20])
def test_rounding_alone_would_decide(d):
    """Grids make exact ties; clusters far from the mean make float32 scores useless."""
    rng = np.random.default_rng(d)
    check(rng.integers(-2, 3, (200, d)).astype(np.float32) / 2, rng.integers(-1, 2, (300, d)).astype(np.float32))
    side = np.where(rng.random((400, 1)) < 0.5, 1e4, -1e4)
    check((side[:200] + rng.standard_normal((200, d))).astype(np.float32),
          (side[200:] + rng.standard_normal((200, d))).astype(np.float32))
    check((rng.standard_normal((100, d)) * 1e6).astype(np.float32), rng.standard_normal((200, d)).astype(np.float32))
    near = rng.standard_normal((1, d)).astype(np.float32)
    steps = np.nextafter(np.repeat(near, 200, 0), np.where(rng.random((200, d)) < 0.5, np.inf, -np.inf).astype(np.float32))
    check(rng.standard_normal((100, d)).astype(np.float32), steps)
    check(steps[:100], steps)


@pytest.mark.parametrize("d", [1, 2, 8])
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-20, 1e18, 1e30, 3e38])
def test_scales(d, scale):
    rng = np.random.default_rng(d)
    x, codebook = ((rng.uniform(-1, 1, (size, d)) * scale).astype(np.float32) for size in (100, 150))
    check(x, codebook)


def test_duplicates_take_the_lowest_id():
    rng = np.random.default_rng(0)
    for d in (1, 3, 8):
        codebook = np.repeat(rng.standard_normal((40, d)).astype(np.float32), 7, axis=0)
        x = rng.standard_normal((100, d)).astype(np.float32)
        check(x, codebook)
        check(x, np.zeros((500, d), np.float32))
        assert set(_native.nearest(x, codebook) % 7) == {0}
    zeros = np.array([[-0.0, 0.0], [0.0, -0.0], [1, 1]], np.float32)
    check(zeros, zeros)


@pytest.mark.parametrize("d", [1, 2, 9])
def test_not_finite(d):
    rng = np.random.default_rng(d)
    x, codebook = (rng.standard_normal((size, d)).astype(np.float32) for size in (60, 90))
    for value in (np.nan, np.inf, -np.inf):
        x[rng.integers(0, 60, 5), rng.integers(0, d, 5)] = value
        codebook[rng.integers(1, 90, 20), rng.integers(0, d, 20)] = value
    codebook[0, -1] = np.nan
    check(x, codebook)
    check(x, np.full((3, d), np.nan, np.float32))
    bad = ~np.isfinite(x).all(1)
    assert bad.any() and not _native.nearest(x, codebook)[bad].any()


def test_line_ties_and_thresholds():
    """Every float32 around every midpoint, with both orders of the ids."""
    rng = np.random.default_rng(0)
    for k in (2, 3, 16, 17, 200):
        values = rng.standard_normal(k).astype(np.float32) * np.float32(10) ** rng.integers(-3, 3, k)
        values = np.concatenate([values, values[: k // 2]]).astype(np.float32)
        middle = np.sort(values)
        middle = ((middle[1:].astype(np.float64) + middle[:-1]) / 2).astype(np.float32)
        x = np.concatenate([np.nextafter(middle, np.float32(-np.inf)), middle, np.nextafter(middle, np.float32(np.inf)), values])
        check(x[:, None], values[:, None])
    check(np.array([[0.0], [1.0], [2.0]], np.float32), np.array([[2.0], [0.0]], np.float32))


@pytest.mark.parametrize("d,k", [(1, 16), (2, 256), (8, 100), (16, 300)])
def test_groups(d, k):
    rng = np.random.default_rng(d)
    x, codebooks = rng.standard_normal((500, 5 * d)).astype(np.float32), rng.standard_normal((5, k, d)).astype(np.float32)
    ids = _native.nearest_grouped(x, codebooks, 2)
    assert ids.shape == (500, 5) and ids.dtype == np.uint16
    index = _native.NearestIndex(codebooks)
    assert (index.m, index.k, index.d) == (5, k, d)
    together, distances = index.search_distances(x)
    for m in range(5):
        expected, far = _native.nearest_distances(np.ascontiguousarray(x[:, m * d : (m + 1) * d]), codebooks[m])
        assert np.array_equal(ids[:, m], expected) and np.array_equal(together[:, m], expected)
        assert np.array_equal(distances[:, m], far)
    if k <= 256:
        assert np.array_equal(index.search(x, itemsize=1), ids)


def test_few_rows_and_many_codewords_share_the_codewords():
    rng = np.random.default_rng(0)
    x, codebook = rng.standard_normal((9, 8)).astype(np.float32), rng.standard_normal((70_000, 8)).astype(np.float32)
    check(x, codebook)
    many = rng.standard_normal((3000, 8)).astype(np.float32)
    index = _native.NearestIndex(codebook[:5000])
    whole = index.search(many)
    assert np.array_equal(whole, np.concatenate([index.search(many[i : i + 97]) for i in range(0, 3000, 97)]))


def test_unaligned():
    raw = np.random.default_rng(0).standard_normal(1 + 130 * 3).astype(np.float32)
    check(raw[1:].reshape(130, 3), raw[:-1].reshape(130, 3)[:70])


@pytest.mark.parametrize(
    "call",
    [
        lambda x: _native.nearest(x, np.zeros((3, 5), np.float32)),
        lambda x: _native.nearest(x, np.zeros((0, 4), np.float32)),
        lambda x: _native.nearest(np.zeros((3, 0), np.float32), np.zeros((2, 0), np.float32)),
        lambda x: _native.nearest(x, np.zeros((300, 4), np.float32), 1),
        lambda x: _native.nearest(x, np.zeros((3, 4), np.float32), 3),
        lambda x: _native.nearest_grouped(x, np.zeros((3, 2, 4), np.float32)),
    ],
)
def test_bad_sizes_are_value_errors(call):
    with pytest.raises(ValueError):
        call(np.zeros((3, 4), np.float32))


@pytest.mark.parametrize("d", [4, 5, 8, 11, 16, 19, 32, 61, 64, 100, 130])
def test_int8_sieve_keeps_ids(d):
    """Sizes for which AVX-512 first sieves by int8 scores: data it separates, data it cannot, extreme scales, ties."""
    rng = np.random.default_rng(d)

    def draw(n, k, scale=1.0, mean=0.0):
        return ((mean + scale * rng.standard_normal((size, d))).astype(np.float32) for size in (n, k))

    check(*draw(150, 333))
    check(*draw(150, 64, 1, 3000))
    for scale in (1e-42, 1e-31, 1e-20, 1e17, 1e18, 1e35):
        check(*draw(70, 130, scale))
    x, codebook = draw(300, 700)
    side = np.sign(rng.standard_normal((700, 1))) * 1e4
    check((x * 1e-3 + side[:300]).astype(np.float32), (codebook * 1e-3 + side).astype(np.float32))  # tight clusters
    check(x[:100], (codebook * 10.0 ** rng.uniform(-9, 9, (700, 1))).astype(np.float32))  # codewords of all lengths
    check((x[:100] * 10.0 ** rng.uniform(-9, 9, (100, 1))).astype(np.float32), codebook)
    check(x, np.repeat(codebook[:100], 5, 0))
    check(x[:70], np.repeat(codebook[:1], 200, 0))
    check(np.round(x[:100]), np.round(rng.uniform(-1, 1, (500, d))).astype(np.float32))  # exact ties
    steps = np.nextafter(np.repeat(codebook[:1], 300, 0), np.where(rng.random((300, d)) < 0.5, np.inf, -np.inf).astype(np.float32))
    check(steps[:66], steps)
    heavy = (codebook[:, :1] ** 9 * codebook).astype(np.float32)  # a few codewords much longer than the others, near ones closer together
    check(x[:100], heavy)
    check((heavy[:100] * 1.01).astype(np.float32), heavy)
    spike = codebook.copy()
    spike[:, 3] *= 1e5  # one dimension takes all int8 levels
    check(x[:100], spike)
    check((spike[:100] + 0.1).astype(np.float32), spike)


@pytest.mark.parametrize("d", [8, 33])
def test_int8_sieve_not_finite(d):
    rng = np.random.default_rng(0)
    x, codebook = (rng.standard_normal((size, d)).astype(np.float32) for size in (130, 200))
    for value in (np.nan, np.inf, -np.inf, 3e38):
        x[rng.integers(0, 130, 9), rng.integers(0, d, 9)] = value
        if value < 1e38:
            codebook[rng.integers(0, 200, 30), rng.integers(0, d, 30)] = value
    codebook[:64] = np.nan  # a whole group
    check(x, codebook)
    codebook[100, 5] = 3e38
    check(x, codebook)
    check(x, np.full((100, d), np.inf, np.float32))


@pytest.mark.parametrize("k", [64, 65, 1024, 1025, 1088, 3000])
def test_int8_sieve_partial_segments_and_batches(k):
    rng = np.random.default_rng(k)
    codebook = rng.standard_normal((k, 8)).astype(np.float32)
    x = rng.standard_normal((40, 8)).astype(np.float32)
    x[::7] *= 1e-6  # a row much smaller than those it shares a scale with
    expected = brute(x, codebook).argmin(1)
    index = _native.NearestIndex(codebook)
    for n in range(41):
        assert np.array_equal(index.search(x[:n]), expected[:n])


@pytest.mark.parametrize("d", [8, 20])
def test_int8_sieve_mixed_tiles_and_split(d):
    """Rows it separates between rows it cannot; few rows share the codewords among the threads."""
    rng = np.random.default_rng(0)
    codebook = rng.standard_normal((1500, d)).astype(np.float32)
    codebook[700:] = codebook[700] + 1e-4 * rng.standard_normal((800, d)).astype(np.float32)
    x = rng.standard_normal((700, d)).astype(np.float32)
    x[128:300] = codebook[700] + 1e-4 * rng.standard_normal((172, d)).astype(np.float32)
    x[::50] = codebook[700]
    check(x, codebook)
    wide, many = (rng.standard_normal((size, d)).astype(np.float32) for size in (9, 20_000))
    check(wide, many)
    many[10_000:] = many[0] + 1e-3 * rng.standard_normal((10_000, d)).astype(np.float32)
    check(np.concatenate([wide, many[:1]]), many)
