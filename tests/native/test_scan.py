"""The scan kernels against table look-ups in NumPy; the same hits on every instruction set and number of threads."""

import numpy as np
import pytest

from compand import _native
from compand.array import total
from compand.symbols import pack

LEVELS = ["scalar", "avx2", "avx512"]
EMPTY = np.zeros(0, np.float32)


KINDS = [4, 6, 8, "columns"]  # bits of codewords; or bytes that are numbers


def case(n, groups, bits, seed=0, term=False, spread=1.0):
    """An index of random ids, its float tables for some queries, and the exact scores (q, n)."""
    columns, bits = bits == "columns", 8 if bits == "columns" else bits
    rng = np.random.default_rng([seed, n, groups, bits])
    ids = rng.integers(0, 1 << bits, (n, groups)).astype(np.uint8)
    gain = rng.uniform(0.5, 2, n).astype(np.float32)
    extra = rng.standard_normal(n).astype(np.float32) if term else EMPTY
    q, k = 7, 1 << bits
    if columns:
        sizes, width, books, zero = np.zeros(0, np.int32), groups, EMPTY, -128.0
        queries = rng.standard_normal((q, width)).astype(np.float32)
        sums = queries @ (ids.astype(np.float32) + zero).T
    else:
        sizes = rng.integers(1, 4, groups).astype(np.int32)
        width, zero = int(sizes.sum()), 0.0
        books = (rng.standard_normal((width, k)) * spread ** -np.arange(width)[:, None]).astype(np.float32)
        queries = rng.standard_normal((q, width)).astype(np.float32)
        sums, at = np.zeros((q, n), np.float32), 0
        for g, size in enumerate(sizes):
            sums += (queries[:, at:at + size] @ books[at:at + size])[:, ids[:, g]]
            at += size
    index = _native.scan_index(pack(ids, k), groups, bits, gain, extra, books.ravel(), sizes, zero)
    factors = rng.standard_normal(q).astype(np.float32) if term else EMPTY
    scores = sums * gain + (factors[:, None] * extra if term else 0)
    return index, queries, factors, scores


def find(index, queries, factors, k, shortlist, allowed=None, groups=None):
    bits = np.zeros(0, np.uint8) if allowed is None else np.packbits(allowed, bitorder="little")
    return index.search(queries, np.zeros(len(queries), np.float32), factors, k, shortlist, groups or index.groups, bits)


@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize("term", [False, True])
def test_whole_short_list_is_the_exact_order(bits, term):
    for n, groups in [(1, 1), (63, 3), (64, 8), (65, 9), (130, 17), (1000, 33)]:
        index, queries, factors, exact = case(n, groups, bits, term=term)
        k = min(n, 20)
        scores, rows = find(index, queries, factors, k, n)
        order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        np.testing.assert_allclose(scores, np.take_along_axis(exact, order, 1), rtol=2e-4, atol=1e-3)
        np.testing.assert_allclose(np.take_along_axis(exact, rows, 1), scores, rtol=2e-4, atol=1e-3)


@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize("spread", [1.0, 1.05])
def test_the_integer_ranking_is_close_to_exact(bits, spread):
    index, queries, factors, exact = case(3000, 60, bits, spread=spread)
    _, rows = find(index, queries, factors, 10, 30)
    order = np.argsort(-exact, axis=1)[:, :10]
    assert (rows[:, :, None] == order[:, None, :]).any(-1).mean() > 0.98


@pytest.mark.parametrize("bits", KINDS)
def test_every_level_and_thread_count_gives_the_same(bits):
    for n in [*range(0, 131, 13), 63, 64, 65, 127, 128, 129, 9000]:
        for groups in (1, 2, 7, 31):
            index, queries, factors, _ = case(n, groups, bits, term=n % 2 == 1)
            allowed = np.random.default_rng(n).random(n) < 0.7 if n % 3 == 0 else None
            found = []
            for level in LEVELS:
                if not _native.set_isa(level):
                    continue
                for threads in (1, 3):
                    _native.set_threads(threads)
                    found.append(find(index, queries, factors, 5, 11, allowed, max(1, groups - 1)))
            for scores, rows in found[1:]:
                assert np.array_equal(rows, found[0][1])
                assert scores.tobytes() == found[0][0].tobytes()


@pytest.mark.parametrize("level", LEVELS)
def test_ties_go_to_the_lowest_row(level):
    if not _native.set_isa(level):
        pytest.skip(f"no {level} here")
    ids = np.zeros((5000, 4), np.uint8)
    index = _native.scan_index(pack(ids, 16), 4, 4, np.ones(5000, np.float32), EMPTY, np.ones(64, np.float32), np.ones(4, np.int32), 0.0)
    for threads in (1, 3):
        _native.set_threads(threads)
        scores, rows = find(index, np.ones((2, 4), np.float32), EMPTY, 6, 100)
        assert rows.tolist() == [[0, 1, 2, 3, 4, 5]] * 2 and (scores == 4).all()


@pytest.mark.parametrize("bits", KINDS)
def test_masks_and_missing_rows(bits):
    index, queries, factors, _exact = case(300, 5, bits)
    allowed = np.zeros(300, bool)
    allowed[[3, 77, 299]] = True
    scores, rows = find(index, queries, factors, 5, 50, allowed)
    assert (np.sort(rows[:, :3]) == [3, 77, 299]).all()
    assert (rows[:, 3:] == -1).all() and np.isneginf(scores[:, 3:]).all()
    _, rows = find(index, queries, factors, 5, 50, np.zeros(300, bool))
    assert (rows == -1).all()


def test_wrong_sizes_are_refused():
    index, queries, factors, _ = case(10, 3, 6)
    for bad in [queries[:, 1:], np.concatenate([queries, queries], axis=1)]:
        with pytest.raises(ValueError):
            find(index, np.ascontiguousarray(bad), factors, 5, 5)
    with pytest.raises(ValueError):
        index.search(queries, np.zeros(7, np.float32), EMPTY, 5, 5, 3, np.zeros(1, np.uint8))
    with pytest.raises(ValueError):
        _native.scan_index(np.zeros((4, 4), np.uint8), 4, 6, np.ones(4, np.float32), EMPTY, EMPTY, np.ones(4, np.int32), 0.0)
    with pytest.raises(ValueError):
        _native.scan_index(np.zeros((4, 3), np.uint8), 4, 6, np.ones(4, np.float32), EMPTY, EMPTY, np.full(4, -1, np.int32), 0.0)
    with pytest.raises(TypeError):
        _native.Scan()


@pytest.mark.parametrize("k", [16, 64, 256, 3])
def test_nearest_codewords(k):
    rng = np.random.default_rng(k)
    sizes = np.array([1, 2, 0, 5], np.int32)
    x = rng.standard_normal((333, 9)).astype(np.float32)
    books = rng.standard_normal((8, k)).astype(np.float32)
    half = np.stack([(books[a:b] ** 2).sum(0) / 2 for a, b in [(0, 1), (1, 3), (3, 3), (3, 8)]]).astype(np.float32)
    found = []
    for level in LEVELS:
        if _native.set_isa(level):
            found.append(_native.scan_encode(x, books.ravel(), half, sizes, k))
    assert all(np.array_equal(a, b) for f in found for a, b in zip(f, found[0], strict=True))
    ids, dots, squares = found[0]
    np.testing.assert_allclose(squares, (x ** 2).sum(1), rtol=1e-5)
    products = np.zeros(333, np.float32)
    for g, (a, b) in enumerate([(0, 1), (1, 3), (3, 3), (3, 8)]):
        cost = ((x[:, a:b, None] - books[None, a:b]) ** 2).sum(1)
        assert (np.take_along_axis(cost, ids[:, g:g + 1].astype(int), 1)[:, 0] <= cost.min(1) + 1e-5).all()
        products += np.einsum("ij,ji->i", x[:, a:b], books[a:b][:, ids[:, g]])
    np.testing.assert_allclose(dots, products, rtol=1e-4, atol=1e-4)
    total, count = _native.scan_sums(x, ids, np.zeros(0, np.float32), sizes, k)
    assert (count.sum(1) == 333).all()
    np.testing.assert_allclose(total.sum(1), x[:, :8].sum(0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_bounded_search_finds_exactly_the_best(metric):
    """Columns of falling worth, so that the bound skips vectors; ties and masks included."""
    rng = np.random.default_rng(1)
    for n, width, lead in [(1, 1, 1), (63, 5, 4), (130, 70, 20), (5000, 130, 64), (5000, 130, 130), (3000, 67, 16), (9000, 300, 60)]:
        worth = np.exp(-np.arange(width) / 20).astype(np.float32)
        ids = np.clip(rng.standard_normal((n, width)) * 40 * worth + 128, 0, 255).astype(np.uint8)
        ids[n // 2:] = ids[: n - n // 2]  # each twice
        gain = rng.uniform(0.9, 1.1, n).astype(np.float32)
        gain[n // 2:] = gain[: n - n // 2]
        units = rng.uniform(0.5, 2, width).astype(np.float32)
        term = EMPTY if metric == "ip" else -(((ids - 128.0) * gain[:, None]) ** 2).sum(1).astype(np.float32)
        queries = rng.standard_normal((9, width)).astype(np.float32) * worth * units
        factors = EMPTY if metric == "ip" else np.full(9, 0.01, np.float32)
        exact = (queries.astype(np.float64) @ (ids - 128.0).T) * gain + (0 if metric == "ip" else 0.01 * term.astype(np.float64))
        allowed = rng.random(n) < 0.8
        index = _native.scan_index(ids, width, 8, gain, term, EMPTY, np.zeros(0, np.int32), -128.0, units, lead)
        k = min(n, 100 if n == 3000 else 10)
        found = []
        for level in LEVELS:
            if not _native.set_isa(level):
                continue
            for threads in (1, 3):
                _native.set_threads(threads)
                found.append([find(index, queries, factors, k, k, mask) for mask in (None, allowed)])
        for mask, (scores, rows) in zip((np.ones(n, bool), allowed), found[0], strict=True):
            truth = np.where(mask, exact, -np.inf)
            order = np.argsort(-truth, axis=1, kind="stable")[:, :k]
            best = np.take_along_axis(truth, order, 1)
            np.testing.assert_allclose(scores, best, rtol=1e-4, atol=1e-3)
            real = np.isfinite(best)
            apart = np.abs(np.diff(best, axis=1, prepend=np.inf)) > 1e-3
            assert (rows == order)[real & apart & np.roll(apart, -1, axis=1)].all()
            same = np.nonzero((scores[:, 1:] == scores[:, :-1]) & np.isfinite(scores[:, 1:]))
            assert (rows[:, 1:][same] > rows[:, :-1][same]).all()
        for others in found[1:]:
            for (scores, rows), (first, numbers) in zip(others, found[0], strict=True):
                assert np.array_equal(rows, numbers) and scores.tobytes() == first.tobytes()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("first", [True, False])
def test_bounded_search_of_rows_that_mislead_it(level, first, request):
    """The best rows together in the first block looked at, or none of them there: the guessed floor is far too high, or low."""
    if not _native.set_isa(level):
        pytest.skip(f"no {level} here")
    request.addfinalizer(lambda: _native.set_isa("auto"))
    rng = np.random.default_rng(2)
    ids = rng.integers(118, 139, (6400, 40)).astype(np.uint8)
    best = np.arange(64) if first else np.arange(64 * 50, 64 * 51)
    query = rng.standard_normal((5, 40)).astype(np.float32)
    ids[best] = np.clip(128 + 100 * np.sign(query[0]) + rng.integers(-9, 9, (64, 40)), 0, 255)
    gain, units = np.ones(6400, np.float32), np.ones(40, np.float32)
    index = _native.scan_index(ids, 40, 8, gain, EMPTY, EMPTY, np.zeros(0, np.int32), -128.0, units, 16)
    exact = query.astype(np.float64) @ (ids - 128.0).T
    scores, rows = find(index, query, EMPTY, 10, 10, None)
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :10], rtol=1e-4)
    assert set(rows[0].tolist()) <= set(best.tolist())


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_bound_with_a_margin_finds_the_same_on_every_level_and_nearly_all(metric, request):
    """A margin too small to be safe: what is found depends on vectors and queries alone, and `exact` on nothing."""
    request.addfinalizer(lambda: (_native.set_isa("auto"), _native.set_threads(0)))
    rng = np.random.default_rng(4)
    n, width, lead, fine = 6000, 260, 32, 250
    units = np.where(np.arange(width) < fine, np.exp(-np.arange(width) / 60), 0.02).astype(np.float32)
    centres = rng.standard_normal((60, width)) * 40
    ids = np.clip(centres[rng.integers(0, 60, n)] * 0.7 + rng.standard_normal((n, width)) * 28 + 128, 0, 255).astype(np.uint8)
    gain = rng.uniform(0.9, 1.1, n).astype(np.float32)
    v = (ids - 128.0) * gain[:, None] * units
    queries = np.ascontiguousarray(v[:40] * units, np.float32)
    term = EMPTY if metric == "ip" else -(v ** 2).sum(1).astype(np.float32)
    factors = EMPTY if metric == "ip" else np.full(40, 0.5, np.float32)
    exact = queries.astype(np.float64) @ ((ids - 128.0) * gain[:, None]).T + (0 if metric == "ip" else 0.5 * term.astype(np.float64))
    truth = np.argsort(-exact, axis=1, kind="stable")[:, :10]
    typical = float(np.median(np.linalg.norm(v[:, :lead], axis=1)))
    index = _native.scan_index(ids, width, 8, gain, term, EMPTY, np.zeros(0, np.int32), -128.0, units, lead, fine, typical, 0.05)
    found, safe = [], []
    for level in LEVELS:
        if not _native.set_isa(level):
            continue
        for threads in (1, 3):
            _native.set_threads(threads)
            for some in (queries, queries[:3]):  # a few are scanned in another order, without a guess
                scores, rows = find(index, some, factors[:len(some)], 10, 10)
                found.append((scores[:3].tobytes(), rows[:3].tolist()))
            assert 0.7 < (rows[:, :, None] == truth[:3, None, :]).any(-1).mean() < 1
            bits = np.zeros(0, np.uint8)
            safe.append(index.search(queries, np.zeros(40, np.float32), factors, 10, 10, width, bits, True)[1])
    assert all(one == found[0] for one in found)
    assert all((one == truth).all() for one in safe)


def test_bounds_need_a_zero_of_halves():
    ids, units = np.zeros((4, 8), np.uint8), np.ones(8, np.float32)
    with pytest.raises(ValueError, match="small multiple of 1/2"):
        _native.scan_index(ids, 8, 8, np.ones(4, np.float32), EMPTY, EMPTY, np.zeros(0, np.int32), 0.25, units, 4)


def test_a_zero_of_halves_is_exact():
    rng = np.random.default_rng(1)
    ids, q = rng.integers(0, 256, (500, 64), dtype=np.uint8), rng.standard_normal((20, 64), dtype=np.float32)
    units, gain = np.geomspace(9, 0.1, 64).astype(np.float32), rng.uniform(0.9, 1.1, 500).astype(np.float32)
    scores = (q * units) @ (ids - np.float32(127.5)).T * gain
    index = _native.scan_index(ids, 64, 8, gain, EMPTY, EMPTY, np.zeros(0, np.int32), -127.5, units, 16)
    found = index.search(q * units, np.zeros(20, np.float32), EMPTY, 5, 22, 64, np.zeros(0, np.uint8), True)
    assert np.array_equal(found[1], np.argsort(-scores, axis=1)[:, :5])
    np.testing.assert_allclose(found[0], -np.sort(-scores, axis=1)[:, :5], rtol=1e-4)


def test_turned_queries_are_those_of_numpy_on_every_level(request):
    request.addfinalizer(lambda: _native.set_isa("auto"))
    rng = np.random.default_rng(3)
    for n, d, k in [(0, 5, 3), (1, 384, 384), (7, 33, 1), (6, 20, 70), (9, 3, 85), (50, 130, 33), (97, 300, 1), (25, 128, 64)]:
        x, m = rng.standard_normal((n, d), dtype=np.float32), rng.standard_normal((d, k), dtype=np.float32)
        found = [_native.scan_turned(x, m) for level in LEVELS if _native.set_isa(level)]
        np.testing.assert_allclose(found[0], x @ m, rtol=1e-4, atol=1e-4)
        assert all(y.tobytes() == found[0].tobytes() for y in found)
        alone = [_native.scan_turned(x[i:i + 1], m) for i in range(n)]  # one by one another loop does it
        assert not n or np.concatenate(alone).tobytes() == found[0].tobytes()
        mean, scale = rng.standard_normal(d, dtype=np.float32), rng.standard_normal(k, dtype=np.float32)
        moved = [_native.scan_turned(x, m, mean, scale) for level in LEVELS if _native.set_isa(level)]
        assert all(y.tobytes() == moved[0].tobytes() for y in moved)
        assert moved[0].tobytes() == (_native.scan_turned(x - mean, m) * scale).tobytes()
    with pytest.raises(ValueError, match="row for each column"):
        _native.scan_turned(np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match="mean must have"):
        _native.scan_turned(np.zeros((2, 3), np.float32), np.zeros((3, 4), np.float32), np.zeros(4, np.float32))


@pytest.mark.parametrize("d", [0, 1, 2, 7, 64, 385])
def test_products_of_rows_are_those_of_total(d):
    rng = np.random.default_rng(d)
    x, y = (rng.standard_normal((70, d)).astype(np.float32) for _ in range(2))
    squares, dots = _native.row_products(x, y)
    wide = x.astype(np.float64)
    np.testing.assert_array_equal(squares, total(wide * wide)[:, 0])
    np.testing.assert_array_equal(dots, total(wide * y)[:, 0])
    with pytest.raises(ValueError, match="same shape"):
        _native.row_products(x, y[:3])


def test_values_are_codewords_times_scales_and_zero_after_the_last_group():
    rng = np.random.default_rng(0)
    sizes, k, d = np.int32([1, 3, 0, 2]), 64, 9
    books, ids = rng.standard_normal((6, k)).astype(np.float32), rng.integers(0, k, (130, 4)).astype(np.uint8)
    scale = rng.standard_normal(130).astype(np.float32)
    want = np.zeros((130, d), np.float32)
    for g, (at, size) in enumerate(zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True)):
        want[:, at:at + size] = books[at:at + size].T[ids[:, g]]
    np.testing.assert_array_equal(_native.scan_values(ids, books.ravel(), sizes, k, scale, d), want * scale[:, None])
    ids[5, 2] = k
    with pytest.raises(ValueError, match="below k"):
        _native.scan_values(ids, books.ravel(), sizes, k, scale, d)
    with pytest.raises(ValueError, match="wider"):
        _native.scan_values(ids % k, books.ravel(), sizes, k, scale, 5)
    with pytest.raises(ValueError, match="scale"):
        _native.scan_values(ids % k, books.ravel(), sizes, k, scale[:4], d)
