"""The first terms of a sum as codes of their own: what `decode(terms=)` gives, whatever the expression."""

import numpy as np
import pytest

import compand
from compand import Codec
from compand.errors import CompandError, CorruptError, InputError
from compand.fit.stack import choose
from compand.terms import codes_of, count

X = np.random.default_rng(0).standard_normal((96, 64), dtype=np.float32)
SPECS = ["hadamard,(trellis:2+trellis:1+trellis:1)", "(hadamard,int:2+int:2),rans", "(hadamard,trellis:2)+(hadamard,int:3)+lowrank:4",
         "nested:2x4x8", "nested:2x4x8:rule=round:scales=float16:group=32", "hadamard,nested:1x3,rans",
         "vq:16:dim=4+vq:16:dim=4+sparse:0.1", "hadamard,((hadamard,int:2)+int:3),rans", "hadamard,(((hadamard,int:2),rans)+int:3),rans",
         "(hadamard,int:2)+salient:0.25:4", "int:4"]


@pytest.mark.parametrize("spec", SPECS)
def test_first_terms_are_what_decoding_them_gives(spec):
    codec = Codec(spec).fit(X)
    codes = codec.encode(X)
    entry = compand.open(codes.to_bytes())["x"]
    before = 0
    for terms in range(1, count(codec.stage) + 1):
        few = entry.codes(terms=terms)
        assert isinstance(compand.parse(few.codec.spec), compand.stage.Stage)
        np.testing.assert_array_equal(few.codec.decode(few), codec.decode(codes, terms=terms))
        assert before < few.nbytes <= codes.nbytes + (64 if "float16" in spec else 0) * 96
        exact = few.codec.decode(few).astype(np.float64) @ X.T.astype(np.float64)
        assert np.abs(compand.matmul(X, few).T - exact).std() < 0.01 * exact.std()
        before = few.nbytes
    assert entry.codes(terms=count(codec.stage) + 3).nbytes == codes.nbytes
    for bad in (0, -1, 1.5, True):
        with pytest.raises(InputError):
            entry.codes(terms=bad)


def test_a_part_that_is_missing():
    codes = Codec("int:2+int:2").encode(X)
    for b in codes.blocks:
        del b.parts["0.ids"]
    with pytest.raises(CorruptError, match=r"0\.ids"):
        codes_of(codes, 1)


def test_other_terms_are_not_read():
    codes = Codec("int:2+int:3").encode(X)
    data = bytearray(codes.to_bytes())
    at = bytes(data).index(codes.part("1.ids").tobytes())
    data[at] ^= 1
    entry = compand.open(bytes(data))["x"]
    few = entry.codes(terms=1)
    np.testing.assert_array_equal(few.codec.decode(few), codes.codec.decode(codes, terms=1))
    with pytest.raises(CompandError):
        entry.codes()


def test_terms_are_taken_by_what_they_save():
    rng = np.random.default_rng(0)
    costs = [np.cumsum(rng.integers(1, 50, 4)).tolist() for _ in range(12)]
    losses = [np.cumsum(rng.random(4))[::-1].tolist() for _ in range(12)]
    losses[3] = [1.0, 2.0, 2.0, 0.5]  # more terms that cost more, as measured values may have it
    least, most = sum(c[0] for c in costs), sum(c[-1] for c in costs)
    seen = []
    for budget in range(least, most + 1, 7):
        kept = choose(costs, losses, budget)
        assert sum(c[k - 1] for c, k in zip(costs, kept, strict=True)) <= budget
        seen.append(sum(x[k - 1] for x, k in zip(losses, kept, strict=True)))
    assert choose(costs, losses, most) == [4] * 12 and choose(costs, losses, least) == [1] * 12
    assert np.corrcoef(np.arange(len(seen)), seen)[0, 1] < -0.9
    with pytest.raises(InputError, match="first terms"):
        choose(costs, losses, least - 1)
