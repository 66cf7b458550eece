import numpy as np
import pytest

import compand
from compand import _native
from compand.op.search import search_reference
from compand.quantizer.refined import Refined
from compand.testing import laws


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((6000, 64), dtype=np.float32) * np.exp(-np.arange(64) / 24, dtype=np.float32)


def test_laws():
    laws.check(Refined, examples=4)


def test_both_codes_take_their_bytes_and_the_whole_is_unbiased(x):
    codec = compand.Codec("klt,refined:12:12,rans").fit(x)
    codes = codec.encode(x)
    assert 22.5 < codes.nbytes / len(x) < 24.5
    y = codec.decode(codes)
    assert abs((x * y).sum() / (x * x).sum() - 1) < 0.03
    coarse = compand.Codec("klt,grouped:12").fit(x)
    assert ((y - x) ** 2).sum() < 0.5 * ((coarse.decode(coarse.encode(x)) - x) ** 2).sum()


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("spec", ["klt,refined:12:20,rans", "klt,refined:12:20:trellis=true,rans", "refined:16:16:bits=4,rans",
                                  "klt,grouped:12+int:8", "center,grouped:16+ecsq:20"])
def test_a_short_list_is_scored_by_all_terms(x, spec, metric):
    q = x[:15] + np.float32(0.1)
    codes = compand.Codec(spec).fit(x).encode(x)
    unit = q / np.linalg.norm(q, axis=1, keepdims=True) if metric == "cosine" else q
    expected = search_reference(unit, codes, 5, metric=metric)
    found = []
    for level in ("scalar", "avx2", "avx512"):
        if _native.set_isa(level):
            found.append(compand.search(q, codes, 5, metric=metric, rerank=300))
    _native.set_isa("auto")
    scores, rows = found[0]
    np.testing.assert_allclose(scores, expected[0], rtol=1e-3, atol=3e-3)
    assert (rows == expected[1]).mean() > 0.9
    assert all(np.array_equal(rows, r) and np.array_equal(scores, s) for s, r in found[1:])


def test_sums_refuse_rows_that_are_not_there(x):
    rows, q = np.zeros((5, 70), np.uint8), np.zeros((2, 70), np.float32)
    ids = np.int64([[0, 4], [3, 2]])
    assert _native.scan_sums_of(rows + np.uint8(1), q + np.float32(1), ids, 1.0).tolist() == [[140, 140], [140, 140]]
    for bad in (ids + 1, ids - 1, ids[:1]):
        with pytest.raises(ValueError):
            _native.scan_sums_of(rows, q, np.ascontiguousarray(bad), 0.0)
    with pytest.raises(ValueError):
        _native.scan_sums_of(rows, np.ascontiguousarray(q[:, 1:]), ids, 0.0)
