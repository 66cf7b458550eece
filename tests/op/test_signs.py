"""Signs against signs and against numbers, held to what they decode to; the kernel to NumPy, on every instruction set."""

import numpy as np
import pytest

import compand
from compand import _native
from compand.op.search import search_reference
from compand.op.signs import sign_scanner

LEVELS = ["scalar", "avx2", "avx512"]
NONE = np.zeros(0, np.uint8)


def case(n, bits, terms, planes, seed=0, term=False):
    rng = np.random.default_rng([seed, n, bits, terms, planes])
    rows, asked = rng.integers(0, 2, (n, terms, bits)), rng.integers(0, 2, (5, planes, bits))
    gain, weights = rng.uniform(.5, 2, (n, terms)).astype(np.float32), rng.standard_normal((5, planes)).astype(np.float32)
    extra, factors = (rng.standard_normal(m).astype(np.float32) if term else np.zeros(0, np.float32) for m in (n, 5))
    scores = np.zeros((5, n), np.float32)
    for t in range(terms):  # the order of the kernel, so that scores are equal
        sums = np.zeros((5, n), np.float32)
        for p in range(planes):
            dots = (2 * asked[:, p] - 1) @ (2 * rows[:, t] - 1).T
            sums += weights[:, p, None] * dots.astype(np.float32)
        scores += gain[:, t] * sums
    if term:
        scores += factors[:, None] * extra
    lines, own = (np.packbits(a, axis=2, bitorder="little") for a in (rows, asked))
    return _native.signs_index(lines, bits, gain, extra), own, weights, factors, scores


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n, bits, terms, planes", [(1, 1, 1, 1), (63, 8, 1, 1), (64, 31, 2, 2), (65, 33, 1, 8), (700, 384, 3, 3),
                                                    (130, 1030, 1, 32)])
def test_kernel_gives_the_scores_of_numpy(level, n, bits, terms, planes):
    if not _native.set_isa(level):
        pytest.skip(f"no {level} here")
    try:
        for term in (False, True):
            index, lines, weights, factors, expected = case(n, bits, terms, planes, term=term)
            for k in (min(n, 9), n + 3):
                for threads in (1, 3):
                    _native.set_threads(threads)
                    scores, rows = index.search(lines, weights, factors, k, NONE)
                    order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
                    assert np.array_equal(rows[:, :n], order)
                    assert np.array_equal(scores[:, :n], np.take_along_axis(expected, order, 1))
                    assert (rows[:, n:] == -1).all() and np.isneginf(scores[:, n:]).all()
    finally:
        _native.set_isa("auto")
        _native.set_threads(0)


def test_masks_and_bits_past_the_last_sign():
    index, lines, weights, factors, expected = case(200, 13, 2, 2)
    allowed = np.arange(200) % 3 == 0
    scores, rows = index.search(lines, weights, factors, 5, np.packbits(allowed, bitorder="little"))
    order = np.argsort(-np.where(allowed, expected, -np.inf), axis=1, kind="stable")[:, :5]
    assert np.array_equal(rows, order)
    lines[:, :, -1] |= 0xE0
    assert np.array_equal(index.search(lines, weights, factors, 5, np.packbits(allowed, bitorder="little"))[0], scores)


def test_sizes_are_checked():
    lines, gain, none = np.zeros((4, 2, 3), np.uint8), np.ones((4, 2), np.float32), np.zeros(0, np.float32)
    for bad in [(lines, 25, gain, none), (lines, 16, gain, none), (lines, 0, gain, none), (lines, 24, gain[:3], none),
                (lines, 24, gain[:, :1].copy(), none), (lines, 24, gain, np.ones(3, np.float32)),
                (np.zeros((4, 17, 3), np.uint8), 24, np.ones((4, 17), np.float32), none)]:
        with pytest.raises(ValueError):
            _native.signs_index(*bad)
    index, weights = _native.signs_index(lines, 24, gain, none), np.ones((1, 2), np.float32)
    for bad in [(lines[:1, :, :2].copy(), weights, none, 1, NONE), (lines[:1], weights[:, :1].copy(), none, 1, NONE),
                (lines[:1], weights, none, 0, NONE), (lines[:1], weights, np.ones(2, np.float32), 1, NONE),
                (lines[:1], weights, none, 1, np.zeros(2, np.uint8)),
                (np.zeros((1, 33, 3), np.uint8), np.ones((1, 33), np.float32), none, 1, NONE)]:
        with pytest.raises(ValueError):
            index.search(*bad)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1500, 37), dtype=np.float32) + np.float32(0.1)
    return x, x[:9] + 0.3 * rng.standard_normal((9, 37), dtype=np.float32)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("spec, native", [("sign", True), ("rotate,(sign+sign+sign)", True), ("center,sign", False),
                                          ("sign:complex=true", False), ("pca:20,sign", False), ("klt,grouped:12", False),
                                          ("int:8:group=8", False)])
def test_symmetric_search_compares_what_both_decode_to(data, spec, native, metric):
    x, q = data
    codes = compand.Codec(spec).fit(x).encode(x)
    codec, how = codes.codec, {"rerank": 0} if "+" in spec else {}
    scanner = sign_scanner(codes, spec.count("+") + 1, metric)
    assert bool(scanner and scanner.keeps_products) == native
    unit = q / np.linalg.norm(q, axis=1, keepdims=True) if metric == "cosine" else q
    y = codec.decode(codec.encode(unit))
    y = y / np.linalg.norm(y, axis=1, keepdims=True) if metric == "cosine" else y
    expected = search_reference(y, codes, 12, metric=metric)[0]
    found, rows = compand.search(q, codes, 12, metric=metric, symmetric=True, **how)
    if "grouped" not in spec or metric == "ip":
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=5e-3)
    assert (np.diff(found, axis=1) <= 0).all() and rows.shape == (9, 12)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("spec", ["sign+sign", "rotate,(sign+sign)", "center,(sign+sign+sign)"])
def test_all_terms_of_signs_are_scanned(data, spec, metric):
    x, q = data
    codes = compand.Codec(spec).fit(x).encode(x)
    unit = q / np.linalg.norm(q, axis=1, keepdims=True) if metric == "cosine" else q
    expected = search_reference(unit, codes, 12, metric=metric)
    scores, rows = compand.search(q, codes, 12, metric=metric, rerank=0)
    assert sign_scanner(codes, spec.count("+") + 1, metric) is not None
    np.testing.assert_allclose(scores, expected[0], rtol=1e-3, atol=1e-2)
    assert (rows == expected[1]).mean() > 0.95


def test_a_short_list_of_signs_is_scored_by_all_terms(data):
    x, q = data
    codes = compand.Codec("rotate,(sign+int:8)").fit(x).encode(x)
    y = codes.codec.decode(codes.codec.encode(q))
    scores, rows = compand.search(q, codes, 5, rerank=1500, symmetric=True)
    expected = search_reference(y, codes, 5)
    assert np.array_equal(rows, expected[1])
    np.testing.assert_allclose(scores, expected[0], rtol=1e-4, atol=1e-3)
    empty = codes.codec.encode(x[:0])
    assert (compand.search(q, empty, 5, symmetric=True)[1] == -1).all()
    assert compand.search(q[:0], codes, 5, symmetric=True)[1].shape == (0, 5)
