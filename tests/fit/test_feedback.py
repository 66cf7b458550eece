import numpy as np
import pytest

from compand import Codec
from compand.errors import FitError, InputError
from compand.fit.feedback import encode
from compand.fit.hessian import Hessian, carried, damped, loss
from compand.stage import Form

D = 96


@pytest.fixture(scope="module")
def layer():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, D)) * np.exp(0.5 * rng.standard_normal(D))
    x = x @ (rng.standard_normal((D, D)) / D**0.5 + 0.5 * np.eye(D))
    h = Hessian(D)
    h.add(x[:1000].reshape(10, 100, D))
    h.add(x[1000:])
    assert np.allclose(h.matrix, x.T @ x / 2000, rtol=1e-4)
    return rng.standard_normal((70, D)).astype(np.float32), h.matrix


# spec and how many times smaller the error must get
@pytest.mark.parametrize(("spec", "gain"), [
    ("int:3", 1.5), ("int:4:group=32", 1.5), ("int:4:group=40", 1.5), ("int:3:sym=false:group=32", 1.4), ("table:8:group=32", 1.4),
    ("table:gauss3", 1.5), ("table:8:per=row", 1.3), ("float:e2m1", 1.3), ("hadamard,int:3", 1.5),
    ("scale:rms:per=row,int:3:per=tensor", 1.4),
    ("lattice:e8", 1.2), ("lattice:e8:bits=4", 1.3), ("lattice:e8:bits=3:group=40", 1.2), ("hadamard,lattice:e8:group=128", 1.3),
    ("pyramid:12", 1.2), ("pyramid:12:dim=20", 1.2), ("hadamard,trellis:2:memory=12", 1.5), ("trellis:3:memory=12:group=48", 1.3),
    ("hadamard,(trellis:3:memory=12+trellis:2:memory=12)", 1.5), ("trellis:3:memory=12:group=48+trellis:1:memory=12", 1.3),
    ("hadamard,lattice:e8:group=32", 1.4),
    ("lattice:e8:group=40", 1.3), ("lattice:e8:bits=3:group=40", 1.3), ("vq:64:dim=5", 1.1),
    ("vq:64:dim=2", 1.3), ("vq:16:dim=2+vq:16:dim=2", 1.3), ("pq:48x4", 1.2), ("sparse:0.02+int:3:group=32", 1.4),
    ("lowrank:4+(hadamard,int:3)", 1.4), ("int:3:group=32,rans", 1.4),
])
def test_outputs_are_nearer_at_the_same_size(layer, spec, gain):
    w, h = layer
    fed = encode(spec, w, h)
    plain = fed.codec.encode(w)
    before, after = (loss(fed.codec.decode(c) - w, h) for c in (plain, fed))
    assert after * gain < before
    assert fed.nbytes == plain.nbytes or "rans" in spec
    assert np.array_equal(Codec.decompress(fed.to_bytes()), fed.codec.decode(fed))


def test_two_trellises_have_the_error_of_their_bits_together(layer):
    w, h = layer
    specs = ("hadamard,(trellis:4:memory=12+trellis:2:memory=12)", "hadamard,trellis:4:memory=12", "hadamard,int:6")
    two, one, uniform = (encode(spec, w, h) for spec in specs)
    error = [loss(c.codec.decode(c) - w, h) for c in (two, one, uniform)]
    assert error[0] < error[1] / 8 and error[0] < 0.8 * error[2]


@pytest.mark.parametrize(("spec", "gain"), [
    ("hadamard,trellis:2:memory=12", 1.04), ("trellis:3:memory=12:group=48", 1.02), ("hadamard,trellis:1:memory=12", 1.1),
    ("hadamard,(trellis:4:memory=12+trellis:2:memory=12)", 1.04), ("int:3:group=32", 1.1), ("hadamard,table:gauss3", 1.1),
])
@pytest.mark.parametrize("rows", [70, 5])
def test_sweeps_lower_the_error_further(layer, spec, gain, rows):
    w, h = layer[0][:rows, :D - 1], layer[1][:D - 1, :D - 1]
    error = []
    for sweeps in (0, 1, 4):
        codes = encode(spec, w, h, sweeps=sweeps)
        assert np.array_equal(Codec.decompress(codes.to_bytes()), codes.codec.decode(codes))
        error.append(loss(codes.codec.decode(codes) - w, damped(h, 0.01) * np.trace(h) / len(h)))
    assert error[2] * (gain if rows > 16 else 1.0) < error[0] and error[2] <= error[1] <= error[0]


def test_column_order_and_blocks(layer):
    w, h = layer
    error = {order: loss(c.codec.decode(c) - w, h) for order in ("natural", "activity") for c in (encode("int:2", w, h, order=order),)}
    assert error["activity"] < error["natural"] * 1.05
    small, large = (loss(c.codec.decode(c) - w, h) for b in (4, 48) for c in (encode("trellis:3:memory=12", w, h, block=b),))
    assert small < large


def test_identity_is_plain_rounding(layer):
    w, _ = layer
    for spec in ("int:4:group=32", "table:gauss2"):
        c = encode(spec, w, np.eye(D))
        fed, plain = (np.square(c.codec.decode(other) - w).sum() for other in (c, c.codec.encode(w)))
        assert np.isclose(fed, plain, rtol=2e-3)


def test_hessians_without_rank_and_dead_columns(layer):
    w, _ = layer
    for h in (np.zeros((D, D)), np.outer(np.ones(D), np.ones(D)), np.diag(np.arange(D) % 2.0)):
        for spec in ("int:3", "trellis:2:memory=12"):
            assert np.isfinite((c := encode(spec, w, h)).codec.decode(c)).all()
    assert np.linalg.eigvalsh(damped(np.diag(np.arange(4.0)) - 0.5, 0.01)).min() > 0


def test_carried_is_exact(layer):
    w, h = layer
    form = Form(len(w), D)
    for spec in ("hadamard", "rotate", "permute", "hadamard:odd=pad"):
        chain = Codec(f"{spec},int:8").fit(w).stage
        e = np.random.default_rng(1).standard_normal((5, chain.out(form).d)).astype(np.float32)
        x = chain.inverse(e, {}, form._replace(n=5)) - chain.inverse(np.zeros_like(e), {}, form._replace(n=5))
        assert np.isclose(loss(e, carried(h, chain.transforms, form)), loss(x, h), rtol=1e-3)


def test_what_cannot_be_fed_back_is_refused(layer):
    w, h = layer
    with pytest.raises(InputError, match="keeps every bit"):
        encode("planes,rans", w, h)
    with pytest.raises(InputError, match="96 by 96"):
        encode("int:4", w, h[:3])
    with pytest.raises(InputError, match="is not linear|side information"):
        encode("compand:mu,int:4", w, h)
    with pytest.raises(FitError, match="no inputs"):
        _ = Hessian(3).matrix
    with pytest.raises(InputError, match="the layer takes 3"):
        Hessian(3).add(np.zeros((2, 4)))


def test_low_rank_gives_back_what_the_outputs_lost(layer):
    w, h = layer
    alone, with_rank = (encode(spec, w, h) for spec in ("hadamard,int:2:mid=true", "(hadamard,int:2:mid=true)+lowrank:8"))
    plain = with_rank.codec.fit(w).encode(w)
    errors = [loss(c.codec.decode(c) - w, h) for c in (alone, with_rank, plain)]
    assert errors[1] < 0.7 * errors[0] and errors[1] < 0.5 * errors[2]
    assert np.array_equal(Codec.decompress(with_rank.to_bytes()), with_rank.codec.decode(with_rank))
    best = np.linalg.svd((alone.codec.decode(alone) - w) @ np.linalg.cholesky(damped(h, 0)))[1]
    assert np.isclose(errors[1], np.square(best[8:]).sum() * np.trace(h) / D, rtol=0.02)
    three = encode("sparse:0.01+(hadamard,int:3)+lowrank:4:value=float32", w, h)
    assert loss(three.codec.decode(three) - w, h) < errors[1]


def test_importance_of_tokens():
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    twice, once = Hessian(4), Hessian(4)
    twice.add(np.concatenate([x, x[:10]]))
    once.add(x, importance=np.where(np.arange(50) < 10, 2, 1))
    np.testing.assert_allclose(twice.matrix, once.matrix, rtol=1e-5)


@pytest.mark.parametrize("spec", ["hadamard,trellis:2:memory=12", "int:3:group=32", "hadamard,vq:64:dim=4", "scale,int:3",
                                  "sign:group=16+sign:group=16"])
def test_rows_make_up_for_each_other(spec):
    rng = np.random.default_rng(5)

    def curvature(d):
        a = rng.standard_normal((d, d)) * np.exp(-np.arange(d) / d * 4)
        return a @ a.T / d

    w, h, g = rng.standard_normal((200, 96)).astype(np.float32), curvature(96), curvature(200)
    alone, both = (encode(spec, w, h, outputs=o) for o in (None, g))
    loss = [float(np.einsum("ij,ij->", g @ e, e @ h)) for e in (c.codec.decode(c) - w for c in (alone, both))]
    assert alone.nbytes == both.nbytes and loss[1] < 0.9 * loss[0]


def test_curvature_of_outputs_must_fit():
    w = np.ones((32, 16), np.float32)
    with pytest.raises(InputError, match="32 by 32"):
        encode("int:3:group=8", w, np.eye(16), outputs=np.eye(16))


def test_each_term_of_a_sum_may_make_up_for_its_own_error(layer):
    w, h = layer
    spec = "hadamard,(trellis:2:memory=12+trellis:2:memory=12)"
    each, whole, alone = encode(spec, w, h, each=True), encode(spec, w, h), encode("hadamard,trellis:2:memory=12", w, h)
    np.testing.assert_array_equal(each.codec.decode(each, terms=1), alone.codec.decode(alone))
    error = {name: [loss(c.codec.decode(c, terms=t) - w, h) for t in (1, 2)] for name, c in (("each", each), ("whole", whole))}
    assert error["each"][0] < 0.8 * error["whole"][0] and error["each"][1] < 0.3 * error["each"][0]
    assert each.nbytes == whole.nbytes


@pytest.mark.parametrize("spec", ["vq:64:dim=4", "hadamard,vq:64:dim=5:codewords=float16", "pq:24x5", "vq:32:dim=4+vq:32:dim=4",
                                  "hadamard,vq:16:dim=2,rans"])
def test_codewords_and_their_choice_settle(layer, spec):
    w, h = layer
    found = [encode(spec, w, h, sweeps=sweeps) for sweeps in (0, 1, 4)]
    error = [loss(c.codec.decode(c) - w, damped(h, 0.01)) for c in found]
    assert error[1] < 0.85 * error[0] and error[2] < 0.98 * error[1]
    assert found[1].codec.spec == found[0].codec.spec and found[1].codec.nbytes == found[0].codec.nbytes
    assert found[1].nbytes == found[0].nbytes or "rans" in spec
    assert np.array_equal(Codec.decompress(found[2].to_bytes()), found[2].codec.decode(found[2]))


def test_each_codeword_is_the_best_where_it_is_chosen(layer):
    from compand.fit.codewords import Term

    w, h = layer
    h = damped(h, 0.01).astype(np.float32)
    codes = encode("vq:16:dim=4", w, h)
    term = Term(codes.codec.stage, w, h, codes.symbols("ids"))
    before = loss(term.values() - w, h)
    term.move(w)
    moved = loss(term.values() - w, h)
    assert moved < before
    gradient = term.gathered((term.values() - w) @ h)
    start = Term(codes.codec.stage, w, h, codes.symbols("ids"))
    assert np.abs(gradient).max() < 0.05 * np.abs(start.gathered((start.values() - w) @ h)).max()
    term.choose(w)
    after = loss(term.values() - w, h)
    last = term.ids.shape[1] - 1  # nothing was chosen after it
    for k in range(16):
        ids, term.ids = term.ids, term.ids.copy()
        term.ids[:, last] = k
        e = term.values() - w
        assert (np.einsum("ij,ij->i", e @ h, e) >= _rows(ids, term, w, h) * (1 - 1e-4) - 1e-3).all()
        term.ids = ids
    assert after < moved


def _rows(ids, term, w, h):
    kept, term.ids = term.ids, ids
    e = term.values() - w
    term.ids = kept
    return np.einsum("ij,ij->i", e @ h, e)


@pytest.mark.parametrize("spec", ["sign:complex=true", "hadamard,sign:complex=true+sign:complex=true", "nested:2x4",
                                  "hadamard,nested:2x4:rule=round", "hadamard,nested:2x4x6:group=32"])
def test_complex_signs_and_nested_bits_are_fed_back(layer, spec):
    w, h = layer
    fed = encode(spec, w, h)
    plain = fed.codec.encode(w)
    before, after = (loss(fed.codec.decode(c) - w, h) for c in (plain, fed))
    assert after * 1.2 < before and fed.nbytes == plain.nbytes
    assert np.array_equal(Codec.decompress(fed.to_bytes()), fed.codec.decode(fed))
    if "nested" in spec:
        swept = encode(spec, w, h, sweeps=2)
        assert loss(swept.codec.decode(swept) - w, h) < after and np.isfinite(fed.codec.decode(fed, terms=1)).all()
