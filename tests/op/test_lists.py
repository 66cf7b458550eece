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
    seen = []
    try:
        for level in levels:
            for threads in (1, 2, 3):
                _native.set_isa(level)
                _native.set_threads(threads)
                scanner = codes._scanners.get((2, "ip"))
                seen.append(compand.search(q, codes, 7, probes=5))
                assert scanner is None or codes._scanners[2, "ip"] is scanner
    finally:
        _native.set_isa("auto")
        _native.set_threads(0)
    for scores, found in seen[1:]:
        np.testing.assert_array_equal(found, seen[0][1])
        np.testing.assert_array_equal(scores, seen[0][0])


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
    assert 1 <= scanner.probes(0.5) <= scanner.probes(0.9) <= scanner.probes(0.99) <= scanner.probes(1) == 16
    for wrong in ({"recall": 0}, {"recall": 1.5}, {"probes": 0}):
        with pytest.raises(InputError):
            compand.search(q, codes, 10, **wrong)
    with pytest.raises(InputError, match="no lists"):
        compand.search(q, compand.Codec("klt,grouped:12").fit(encoded[0]).encode(encoded[0]), probes=3)


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
