"""Products of codes with codes: integers summed exactly, each group times its two scales in float32, other codes as they decode."""

import numpy as np
import pytest

from compand import Codec
from compand.errors import InputError
from compand.op.coded_product import Weights, exact, levels, product
from compand.stage import Form

RNG = np.random.default_rng(0)
X, W = (RNG.standard_normal((n, 96)).astype(np.float32) for n in (7, 11))


def fitted(spec, x):
    codec = Codec(spec)
    return codec.fit(x) if codec.stage.state(codec.form(x.shape, "float32")) else codec


@pytest.mark.parametrize("spec", ["int:8", "int:4:group=20", "int:1", "int:2:mid=true", "int:6:per=tensor", "int:8:step=0.05",
                                  "int:3:scales=float32"])
def test_levels_are_what_decodes(spec):
    codec = fitted(spec, X)
    parts, form = codec.stage.encode(X), Form(*X.shape)
    y = levels(codec.stage, parts, form)
    scale = np.repeat(y.scale, y.group, axis=1)[:, :96]
    np.testing.assert_allclose(y.ids * scale, codec.stage.decode(parts, form), rtol=3e-7)


@pytest.mark.parametrize("spec", ["table:4", "int:4:sym=false", "int:4:noise=3", "int:4:pow2=true", "int:4:per=column"])
def test_other_grids_have_none(spec):
    codec = fitted(spec, X)
    assert levels(codec.stage, codec.stage.encode(X), Form(*X.shape)) is None


@pytest.mark.parametrize(("inputs", "weights"), [("int:8", "int:8"), ("int:4:group=32", "int:4:group=48"),
                                                 ("int:8:per=tensor", "int:4:group=16"), ("int:1", "int:2:mid=true")])
def test_the_product_is_the_integer_kernel(inputs, weights):
    codec, codes = fitted(inputs, X), fitted(weights, W).encode(W)
    stage, other = codec.stage, codes.codec.stage
    a, b = levels(stage, stage.encode(X), Form(*X.shape)), levels(other, other.encode(W), Form(*W.shape))
    want, step = np.zeros((7, 11), np.float32), int(np.gcd(a.group, b.group))
    for lo in range(0, 96, step):
        acc = [[sum(int(p) * int(q) for p, q in zip(r[lo:lo + step], s[lo:lo + step], strict=True)) for s in b.ids] for r in a.ids]
        want += np.float32(acc) * a.scale[:, lo // a.group if a.scale.shape[1] > 1 else 0, None] * b.scale[None, :, lo // b.group]
    got = product(X, codec, Weights(codes))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(got, codec.decode(codec.encode(X)) @ codes.codec.decode(codes).T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("inputs", "weights"), [("int:4:sym=false", "int:8"), ("table:4", "int:4"), ("int:8", "hadamard,int:8"),
                                                 ("int:8", "vq:8:dim=4")])
def test_other_codes_are_decoded(inputs, weights):
    codec, codes = fitted(inputs, X), fitted(weights, W).encode(W)
    want = np.asarray(codec.decode(codec.encode(X))) @ codes.codec.decode(codes).T
    np.testing.assert_allclose(product(X, codec, Weights(codes)), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("most", [1, 127, 1 << 11, (1 << 15) - 1])
def test_integer_sums_are_exact(most):
    a, b = (RNG.integers(-most, most + 1, (n, 5000)).astype(np.int32) for n in (3, 4))
    np.testing.assert_array_equal(exact(a, b), a.astype(np.int64) @ b.T.astype(np.int64))


def test_refused():
    with pytest.raises(InputError, match="values"):
        product(X, Codec("int:8"), Weights(Codec("int:8").encode(W[:, :50])))
    with pytest.raises(InputError, match="side information"):
        product(X, Codec("scale:absmax:row,int:8"), Weights(Codec("int:8").encode(W)))
    with pytest.raises(InputError, match="no codes|quantizer"):
        product(X, Codec("hadamard"), Weights(Codec("int:8").encode(W)))
