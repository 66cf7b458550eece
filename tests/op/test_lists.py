"""Search in inverted lists: all lists visited finds what decoding finds; the same on every instruction set and thread count."""

import numpy as np
import pytest

import compand
from compand import _native
from compand.errors import InputError
from compand.op.leaf import leaf
from compand.op.lists import ListScanner, cells
from compand.op.refine import refiner
from compand.op.search import search_reference

SPECS = ["(vq:16,runs)+(klt,grouped:12)", "vq:16:codewords=float16+(klt,grouped:12:bits=4)", "klt,(vq:16+int:8)",
         "vq:16+(klt,ecsq:16,rans)", "center,(vq:7+grouped:12)"]


def rows(n, d=24, seed=0):
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((12, d))
    x = middles[rng.integers(0, 12, n)] + rng.standard_normal((n, d)) * np.geomspace(1, .2, d)
    return (x * np.float32(0.3)).astype(np.float32)


@pytest.fixture(scope="module")
def encoded():
    x = rows(3000)
    return x, rows(40, seed=1), {spec: compand.Codec(spec).fit(x).encode(x) for spec in SPECS}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_all_lists_find_what_decoding_finds(encoded, spec, metric):
    q, codes = encoded[1], encoded[2][spec]
    scores, found = compand.search(q, codes, 10, metric=metric, recall=1)
    assert isinstance(codes._scanners[2, metric], ListScanner)
    asked = q / np.linalg.norm(q, axis=1, keepdims=True) if metric == "cosine" else q
    want, right = search_reference(asked, codes, 10, metric=metric)
    same = (found[:, :, None] == right[:, None, :]).any(-1).mean()
    if metric == "ip":
        np.testing.assert_allclose(scores, want, rtol=1e-4, atol=1e-4)
        assert same > 0.97
    else:  # norms are estimated without the bias of debiased codes
        assert same > 0.7
    y = codes.codec.decode(codes)
    if metric == "ip":
        np.testing.assert_allclose(scores, np.take_along_axis(q @ y.T, found, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS[:4])
def test_levels_and_threads_agree(encoded, spec):
    codes, q = encoded[2][spec], encoded[1]
    levels = [level for level in ("scalar", "avx2", "avx512") if _native.set_isa(level)]
    seen, other = [], []
    try:
        for level in levels:
            for threads in (1, 2, 3):
                _native.set_isa(level)
                _native.set_threads(threads)
                scanner = codes._scanners.get((2, "ip"))
                seen.append(compand.search(q, codes, 7, probes=5))
                other.append(compand.search(q, codes, 7, recall=0.8))
                assert scanner is None or codes._scanners[2, "ip"] is scanner
    finally:
        _native.set_isa("auto")
        _native.set_threads(0)
    for all_ in (seen, other):
        for scores, found in all_[1:]:
            np.testing.assert_array_equal(found, all_[0][1])
            np.testing.assert_array_equal(scores, all_[0][0])


@pytest.mark.parametrize("n", [1, 2, 3, 17, 63, 64, 65, 127, 128, 129, 130])
def test_odd_sizes_and_one_query_at_a_time(n):
    x = rows(400)
    codec = compand.Codec("(vq:16,runs)+(klt,grouped:12)").fit(x)
    codes = codec.encode(x[:n])
    q = rows(9, seed=2)
    scores, found = compand.search(q, codes, 10, probes=16)
    assert (found >= 0).sum(axis=1).tolist() == [min(n, 10)] * 9
    assert np.isneginf(scores[:, n:]).all()
    for i in range(len(q)):
        one = compand.search(q[i], codes, 10, probes=16)
        np.testing.assert_array_equal(one[1][0], found[i])
        np.testing.assert_allclose(one[0][0], scores[i], rtol=1e-5, atol=1e-6)  # BLAS adds in another order


def test_more_probes_find_more_and_only_rows_of_the_lists_visited(encoded):
    x, q, codes = encoded[0], encoded[1], encoded[2][SPECS[0]]
    truth = np.argsort(-(q @ x.T), axis=1)[:, :10]
    found = {p: compand.search(q, codes, 10, probes=p)[1] for p in (1, 4, 16)}
    recall = [(f[:, :, None] == truth[:, None]).any(-1).mean() for f in found.values()]
    assert recall[0] < recall[1] <= recall[2] + 0.02
    lists = cells(codes).ids
    assert all(len(set(lists[r[r >= 0]])) == 1 for r in found[1])


def test_a_recall_chooses_the_probes(encoded):
    codes, q = encoded[2][SPECS[0]], encoded[1]
    compand.search(q, codes, 10)
    scanner = codes._scanners[2, "ip"]
    scanned = []
    for recall in (0.5, 0.9, 0.99, 1):
        compand.search(q, codes, 10, recall=recall)
        scanned.append(scanner.scanned)
    assert len(q) <= scanned[0] < scanned[1] < scanned[2] <= scanned[3] == len(q) * len(encoded[0])
    for wrong in ({"recall": 0}, {"recall": 1.5}, {"probes": 0}):
        with pytest.raises(InputError):
            compand.search(q, codes, 10, **wrong)
    with pytest.raises(InputError, match="no lists"):
        compand.search(q, compand.Codec("klt,grouped:12").fit(encoded[0]).encode(encoded[0]), probes=3)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("count", [40, 200])
def test_a_query_visits_lists_that_are_not_far_behind_the_best_one(metric, count):
    x, q = rows(6000, seed=3), rows(30, seed=4) * np.linspace(.5, 2, 30, dtype=np.float32)[:, None]
    codes = compand.Codec(f"(vq:{count},runs)+(klt,grouped:12)").fit(x).encode(x)
    q = q / np.linalg.norm(q, axis=1, keepdims=True) if metric == "cosine" else q
    scanner = ListScanner(codes, cells(codes), leaf(codes, 2, 1), metric)
    size = np.bincount(scanner.cells.ids, minlength=count)
    for recall in (0.6, 0.9):
        scanner.search(q, 10, None, None, recall)
        reach = scanner.reach(recall)
        choice = -np.sort(-scanner._choice(q)[:, size > 0], axis=1)
        order = np.argsort(-np.where(size > 0, scanner._choice(q), -np.inf), axis=1, kind="stable")[:, :len(reach)]
        unit = 1 if metric == "l2" else np.linalg.norm(q, axis=1, keepdims=True)
        near = np.cumprod(choice[:, :1] - choice[:, :len(reach)] <= reach * unit, axis=1)
        expected = int((size[order] * near).sum())
        assert abs(scanner.scanned - expected) < 0.05 * expected  # centroids are rounded to bytes


def test_at_equal_recall_a_reach_scans_less_than_as_many_lists_for_every_query():
    x, q = rows(20000, seed=5), rows(300, seed=6)
    codes = compand.Codec("(vq:128,runs)+(klt,grouped:12)").fit(x).encode(x)
    truth = np.argsort(-(q @ x.T), axis=1)[:, :10]
    compand.search(q[:1], codes, 10)
    scanner = codes._scanners[2, "ip"]
    inside = scanner.cells.ids[truth]

    def held(visited):
        return float(np.mean([np.isin(own, lists).mean() for own, lists in zip(inside, visited, strict=True)]))

    choice = scanner._choice(q)
    order = np.argsort(-choice, axis=1, kind="stable")
    reach = scanner.reach(0.9)
    gaps = np.take_along_axis(choice.max(1, keepdims=True) - choice, order, 1)[:, :len(reach)]
    visits = np.cumprod(gaps <= reach * np.linalg.norm(q, axis=1, keepdims=True), axis=1).sum(axis=1)
    recall = held([row[:n] for row, n in zip(order, visits, strict=True)])
    fixed = next(p for p in range(1, 129) if held(order[:, :p]) >= recall)
    scanner.search(q, 10, None, None, 0.9)
    adapted = scanner.scanned
    scanner.search(q, 10, None, fixed)
    assert adapted < 0.97 * scanner.scanned


def test_a_reach_that_rises_or_has_other_numbers_is_refused(encoded):
    codes, q = encoded[2][SPECS[0]], encoded[1]
    scanner = ListScanner(codes, cells(codes), leaf(codes, 2, 1), "ip")
    for reach in ([0.1, 0.2], [0.1, np.nan], [0.1]):
        with pytest.raises(ValueError, match="reach"):
            scanner._search(q, 5, np.zeros(0, np.uint8), 2, np.float32(reach))


def test_lists_padded_to_blocks_give_what_lists_side_by_side_give(encoded, monkeypatch):
    q, codes = encoded[1], encoded[2][SPECS[0]]
    own = cells(codes)
    found = []
    for room in (0.0, 8.0):
        monkeypatch.setattr("compand.op.lists._ROOM", room)
        scanner = ListScanner(codes, own, leaf(codes, 2, 1), "ip")
        assert (len(scanner.order) > len(own.ids)) == (room > 1)
        allowed = np.arange(len(own.ids)) % 3 > 0
        found.append([scanner.search(q, 10, mask, probes) for mask in (None, allowed) for probes in (1, 3, 16)] + [scanner.scanned])
    for a, b in zip(found[0][:-1], found[1][:-1], strict=True):
        assert all(np.array_equal(*both) for both in zip(a, b, strict=True))
    assert found[0][-1] == found[1][-1]


def test_filters_and_rows_out_of_order(encoded):
    x, q, codes = encoded[0], encoded[1], encoded[2][SPECS[0]]
    allowed = np.zeros(len(x), bool)
    allowed[::3] = True
    found = compand.search(q, codes, 10, recall=1, ids=allowed)[1]
    assert (found % 3 == 0).all()
    order = np.argsort(cells(codes).ids, kind="stable")
    sorted_codes = codes.codec.encode(x[order])
    scores, place = compand.search(q, sorted_codes, 10, recall=1)
    again, row = compand.search(q, codes, 10, recall=1)
    np.testing.assert_array_equal(order[place], row)
    np.testing.assert_array_equal(scores, again)
    assert sorted_codes._scanners[2, "ip"].order is None


def test_a_third_term_scores_the_short_list_again(encoded):
    x, q = encoded[0], encoded[1]
    codes = compand.Codec("(vq:16,runs)+(klt,grouped:8)+(klt,ecsq:16,rans)").fit(x).encode(x)
    truth = np.argsort(-(q @ x.T), axis=1)[:, :10]
    few = compand.search(q, codes, 10, recall=1, terms=2)[1]
    more = compand.search(q, codes, 10, recall=1)[1]
    recall = [(f[:, :, None] == truth[:, None]).any(-1).mean() for f in (few, more)]
    assert recall[1] > recall[0] + 0.05


def test_lists_that_are_empty_and_rows_that_are_equal():
    x = np.repeat(rows(4), 300, axis=0)
    codes = compand.Codec("vq:32+int:8").fit(x).encode(x)
    found = compand.search(x[::300], codes, 5, probes=3)[1]
    assert found.shape == (4, 5) and (found >= 0).all()


def test_a_centroid_that_is_not_finite_is_refused(encoded):
    codes = encoded[2]["vq:16+(klt,ecsq:16,rans)"]
    arrays = {k: np.array(v) for k, v in codes.codec.state().items()}
    arrays["0.codebook_"][3, 2] = np.nan
    broken = compand.Codes(compand.Codec(codes.codec.stage.with_arrays(arrays)), codes.shape, codes.dtype, codes.blocks)
    with pytest.raises(compand.CorruptError, match="centroid"):
        compand.search(encoded[1], broken, 5)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("spec", ["(vq:32)+(klt,grouped:8)+(klt,ecsq:8,rans)", "(vq:32)+(klt,refined:8:8,rans)",
                                  "klt,vq:32+grouped:8+ecsq:8", "(vq:32)+(klt,grouped:8)+(klt,grouped:8:bits=8)", "klt,refined:8:8,rans"])
def test_short_lists_are_scored_as_decoding_would(spec, metric):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5000, 32)) * np.exp(-np.arange(32) / 10) + 2 * rng.standard_normal((20, 32))[rng.integers(0, 20, 5000)] + 0.3
    x = x.astype(np.float32)
    q = x[:40] + 0.1 * rng.standard_normal((40, 32), dtype=np.float32)
    codes = compand.Codec(spec).fit(x).encode(x)
    assert refiner(codes, metric)
    scores, rows = compand.search(q, codes, 10, metric=metric, rerank=200, **({"recall": 1} if "vq" in spec else {}))
    unit = q / np.linalg.norm(q, axis=1, keepdims=True) if metric == "cosine" else q
    expected, best = search_reference(unit, codes, 10, metric=metric)
    assert (rows[:, :, None] == best[:, None, :]).any(-1).mean() > 0.97
    agree = rows == best
    np.testing.assert_allclose(scores[agree], expected[agree], rtol=1e-5, atol=1e-3)
