"""Search on codes against search on what they decode to."""

import numpy as np
import pytest

import compand
from compand.op.leaf import leaf
from compand.op.search import search_reference, top

SCANNED = ["klt,grouped:12", "klt,grouped:12:bits=4", "klt,grouped:12:bits=8", "klt:20:power=0,grouped:9:gain=false", "int:8",
           "hadamard,int:8", "center,int:8:per=column", "rotate,int:8:per=tensor", "pca:16,grouped:8",
           "sign", "center,rotate,sign", "sign:complex=true", "pca:15,sign", "pca:15,sign:complex=true", "pq:8x8", "opq:16:bits=4,pq:16x4",
           "pq:5x6", "pq:7x3", "pq:3x7:codewords=float16", "vq:100:dim=5", "vq:256", "int:4", "hadamard,int:3", "int:2:mid=true"]
DECODED = ["int:4:group=8", "int:8:group=8", "sign:8", "pq:4x9", "vq:300"]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 32), dtype=np.float32) * np.exp(-np.arange(32) / 8, dtype=np.float32) + np.float32(0.2)
    return x, x[:9] + 0.1 * rng.standard_normal((9, 32), dtype=np.float32)


def agree(found, expected, q, tolerance):
    """Same scores, best first; rows may swap places where scores nearly agree."""
    scores, rows = found
    assert scores.dtype == np.float32 and rows.dtype == np.int64
    np.testing.assert_allclose(scores, expected[0], rtol=1e-3, atol=tolerance)
    assert (np.diff(scores, axis=1) <= 0).all()
    same = (rows[:, :, None] == expected[1][:, None, :]).any(-1).mean()
    assert same > 0.9


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("spec", SCANNED + DECODED)
def test_agrees_with_decoding(data, spec, metric):
    x, q = data
    codes = compand.Codec(spec).fit(x).encode(x)
    found = compand.search(q, codes, 12, metric=metric)
    if "gain" not in spec and "grouped" in spec and metric != "ip":
        assert (found[1][:, :5] == np.arange(9)[:, None]).any(1).mean() > 0.8  # norms are debiased, decoded ones are not
        return
    unit = q / np.linalg.norm(q, axis=1, keepdims=True) if metric == "cosine" else q
    agree(found, search_reference(unit, codes, 12, metric=metric), q, 5e-3)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("size", [24, 40, 56])
def test_numbers_that_reach_beyond_a_byte(data, size, metric):
    """Of wide columns a multiple is scanned and what is left of it bounded: at 40 bytes of 32 columns, up to 17 steps of it."""
    x, q = data
    codes = compand.Codec(f"klt,ecsq:{size},rans").fit(x).encode(x)
    unit = q / np.linalg.norm(q, axis=1, keepdims=True) if metric == "cosine" else q
    expected = search_reference(unit, codes, 12, metric=metric)
    scores, rows = compand.search(q, codes, 12, metric=metric, recall=1)
    np.testing.assert_allclose(scores, expected[0], rtol=1e-4, atol=0.05 if metric == "l2" else 1e-3)  # norms are debiased
    assert (compand.search(q, codes, 12, metric=metric)[1] == rows).mean() > 0.98
    with pytest.raises(compand.errors.InputError, match="no lists"):
        compand.search(q, codes, 12, recall=0.9)


@pytest.mark.parametrize("spec", SCANNED)
def test_has_a_scan(data, spec):
    assert leaf(compand.Codec(spec).fit(data[0]).encode(data[0]), 1) is not None


SUMS = ["vq:64+vq:32+vq:256", "pq:4x8+vq:16", "center,(klt:12,pq:3x6)+pq:8x4", "klt,grouped:6:gain=false+vq:64:dim=4"]


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("spec", SUMS)
def test_codewords_of_several_terms_are_scanned_together(data, spec, metric):
    x, q = data
    codes = compand.Codec(spec).fit(x).encode(x)
    count = spec.count("+") + 1
    assert leaf(codes, count) is not None
    unit = q / np.linalg.norm(q, axis=1, keepdims=True) if metric == "cosine" else q
    agree(compand.search(q, codes, 12, metric=metric, rerank=0), search_reference(unit, codes, 12, metric=metric), q, 5e-3)
    if spec == SUMS[0]:  # a code for whole rows is scanned whole
        agree(compand.search(q, codes, 12, metric=metric), search_reference(unit, codes, 12, metric=metric), q, 5e-3)


@pytest.mark.parametrize("spec", ["sign+sign", "rotate,(sign+sign+int:4)", "pq:4x8+sign"])
def test_signs_are_scanned_and_scored_again_by_the_rest(data, spec):
    x, q = data
    codes = compand.Codec(spec).fit(x).encode(x)
    agree(compand.search(q, codes, 12, rerank=3000), search_reference(q, codes, 12), q, 5e-3)


@pytest.mark.parametrize("bits", [6, 8])
def test_more_groups_than_a_word_has_room_for(bits):
    x = np.random.default_rng(0).standard_normal((600, 900), dtype=np.float32)
    codes = compand.Codec(f"pq:900x{bits}").fit(x).encode(x)
    agree(compand.search(x[:5], codes, 12), search_reference(x[:5], codes, 12), x, 5e-3)


def test_one_query_and_repeated_search_give_the_same(data):
    x, q = data
    codes = compand.Codec("klt,grouped:12").fit(x).encode(x)
    scores, rows = compand.search(q, codes, 5)
    for i in range(len(q)):
        one, row = compand.search(q[i], codes, 5)
        assert np.array_equal(row[0], rows[i]) and np.allclose(one[0], scores[i], rtol=1e-6)


def test_masks_and_row_numbers(data):
    x, q = data
    for spec in ("klt,grouped:12", "int:4"):
        codes = compand.Codec(spec).fit(x).encode(x)
        mask = np.zeros(len(x), bool)
        mask[[5, 6, 2999]] = True
        scores, rows = compand.search(q, codes, 4, ids=mask)
        assert (np.sort(rows[:, :3]) == [5, 6, 2999]).all() and (rows[:, 3] == -1).all() and np.isneginf(scores[:, 3]).all()
        again = compand.search(q, codes, 4, ids=[2999, 5, 6, 5])
        assert np.array_equal(again[1], rows)


def test_a_sum_is_scanned_then_scored_with_all_terms(data):
    x, q = data
    codes = compand.Codec("klt,grouped:8+int:8").fit(x).encode(x)
    exact = top(q @ x.T, np.broadcast_to(np.arange(len(x)), (len(q), len(x))), 10)[1]

    def recall(rows):
        return (rows[:, :, None] == exact[:, None, :]).any(-1).mean()

    first, short, both = (compand.search(q, codes, 10, **how)[1] for how in ({"terms": 1}, {}, {"rerank": 0}))
    assert recall(first) < recall(short) and recall(short) > 0.9 and recall(both) > 0.9
    assert np.array_equal(compand.search(q, codes, 10, rerank=3000)[1], both)


def test_coded_symbols_are_searched_too(data):
    x, q = data
    plain = compand.Codec("klt,grouped:12").fit(x)
    coded = compand.Codec(plain.stage | compand.parse("bytes,lzma").items[-1])
    a, b = (compand.search(q, c.encode(x), 5) for c in (plain, coded))
    assert np.array_equal(a[1], b[1])


def test_a_file_is_an_index(data, tmp_path):
    x, q = data
    codec = compand.Codec("klt,grouped:12").fit(x)
    with compand.Writer(tmp_path / "x.cpd") as f:
        f.write("x", x, codec)
    with compand.open(tmp_path / "x.cpd") as f:
        _scores, rows = compand.search(q, f["x"].codes(), 5)
    assert np.array_equal(rows, compand.search(q, codec.encode(x), 5)[1])


def test_errors_say_what_to_do(data):
    x, q = data
    codes = compand.Codec("int:8").encode(x)
    for bad, how in [(q[:, 1:], {}), (q, {"metric": "dot"}), (q, {"k": 0}), (q, {"ids": np.ones(3, bool)}), (q, {"ids": [3000]}),
                     (q * np.nan, {})]:
        with pytest.raises(compand.InputError):
            compand.search(bad, codes, **how)
    with pytest.raises(compand.InputError):
        compand.search(q, compand.Codec("int:8").encode(x[0]))


def test_empty_things(data):
    x, q = data
    codec = compand.Codec("int:8")
    assert compand.search(q[:0], codec.encode(x), 3)[1].shape == (0, 3)
    scores, rows = compand.search(q, codec.encode(x[:0]), 3)
    assert (rows == -1).all() and np.isneginf(scores).all()


def test_more_neighbours_than_rows(data):
    x, q = data
    codes = compand.Codec("klt,grouped:12").fit(x).encode(x)
    scores, rows = compand.search(q, codes, 4000)
    assert (np.sort(rows[:, :3000], axis=1) == np.arange(3000)).all() and (rows[:, 3000:] == -1).all()
    assert (np.diff(scores[:, :3000], axis=1) <= 0).all()


@pytest.mark.parametrize("n", [1, 2, 5, 17, 33, 40])
def test_indexes_of_few_rows(n):
    x = np.random.default_rng(n).standard_normal((n, 384)).astype(np.float32)
    codes = compand.Codec("int:8").encode(x)
    with np.errstate(all="raise"):
        _, ids = compand.search(x, codes, k=1)
    assert ids[:, 0].tolist() == list(range(n))


@pytest.mark.parametrize("spec", ["ecsq:24,rans", "ecsq:24:trellis=true,rans"])
def test_laying_out_takes_little_more_memory_than_is_kept(spec):
    import tracemalloc

    from compand.op.leaf import leaf

    x = (np.random.default_rng(0).standard_normal((100_000, 64)) * np.geomspace(40, 0.5, 64)).astype(np.float32)
    codes = compand.Codec(spec).fit(x[:4000]).encode(x)
    tracemalloc.start()
    try:
        rows = leaf(codes, 1).rows
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows.nbytes >= x.size and peak < 2.5 * rows.nbytes
