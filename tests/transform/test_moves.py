"""reshape, blocks, permute: stages that only move values."""

import numpy as np
import pytest

from compand import Codec, CompandError, FitError, SpecError, parse
from compand.dtypes import NAMES, dtype
from compand.stage import Form
from compand.transform.permute import Permute


@pytest.mark.parametrize(("spec", "n", "d"), [
    ("reshape:8", 3, 24), ("reshape:1", 4, 5), ("reshape:5", 0, 5), ("reshape:24", 1, 24),
    ("blocks:8x8", 16, 24), ("blocks:3x5", 7, 11), ("blocks:2x2:width=6", 5, 24), ("blocks:1x1", 1, 1), ("blocks:8x8", 0, 9),
    ("blocks:4x3:width=7", 2, 63), ("permute", 6, 9), ("permute", 1, 1), ("reshape:8,hadamard,scale:rms:row", 3, 24),
])
def test_inverse_and_libraries(hold, normal, spec, n, d):
    hold(spec, normal(n, d))


@pytest.mark.parametrize("name", NAMES)
def test_without_loss(name):
    data = np.random.default_rng(1).integers(0, 2 if name == "bool" else 256, (17, 12 * dtype(name).itemsize), np.uint8)
    x = data.view(dtype(name))
    for spec in ("reshape:4,raw", "blocks:3x5,raw", "blocks:2x2:width=4,reshape:2,raw"):
        codec = Codec(spec)
        assert codec.stage.raw
        y = codec.decode(codec.encode(x))
        assert y.dtype == x.dtype and y.tobytes() == x.tobytes()


def test_mixes_with_lossy_stages():
    assert str(parse("hadamard,reshape:8,rotate")) == "hadamard,reshape:8,rotate"
    with pytest.raises(SpecError, match="keeps every bit"):
        parse("hadamard,reshape:8,raw")


def test_several_blocks_of_rows(normal):
    x = normal(1000, 4100)
    for spec in ("blocks:5x7,raw", "reshape:41,raw"):
        codec = Codec(spec)
        codes = codec.encode(x)
        assert len(codes.blocks) > 1 and np.array_equal(codec.decode(codes, rows=slice(300, 500)), x[300:500])


def test_weights_travel():
    weight = np.arange(24.0).reshape(2, 12)
    form = Form(2, 12)
    assert np.array_equal(parse("reshape:4").carry(weight, form), weight.reshape(6, 4))
    assert np.array_equal(parse("reshape:4").carry(weight[:, :1], form), np.repeat(weight[:, :1], 3, 0) * np.ones(4))
    assert np.array_equal(parse("blocks:2x3").carry(weight, form), parse("blocks:2x3").forward(weight)[0])
    stage = Permute(order_=np.arange(12, dtype=np.int32)[::-1])
    assert np.array_equal(stage.carry(weight, form), weight[:, ::-1])
    assert np.array_equal(parse("hadamard").carry(weight, form), weight.mean(1, keepdims=True))
    assert parse("hadamard").carry(weight[:1], form) is None


def test_chain_fit_carries_weight(normal):
    x, weight = normal(40, 8), np.ones((40, 8), np.float32)
    weight[:, 4:] = 0
    mean = parse("reshape:4,center").fit(x, weight=weight).arrays()["1.mean_"]
    np.testing.assert_allclose(mean, x[:, :4].mean(0), atol=1e-6)


def test_permute_orders_and_checks(normal):
    x = normal(100, 4) * np.array([1, 4, 2, 3], np.float32)
    stage = parse("permute").fit(x)
    assert stage.order_.tolist() == [1, 3, 2, 0]
    assert parse("permute").fit(x, weight=np.array([[100.0, 1, 1, 1]])).order_.tolist() == [0, 1, 3, 2]
    for order in ([0, 0, 1, 2], [-1, 0, 1, 2], [9, 0, 1, 2 ** 31 - 1]):
        bad = Permute(order_=np.array(order, np.int32))
        with pytest.raises(FitError):
            bad.require(Form(2, 4))
        assert bad.inverse(x, {}, Form(100, 4)).shape == x.shape


@pytest.mark.parametrize(("spec", "d", "match"), [("reshape:7", 24, "try reshape:6"), ("blocks:8x8", 7, "smaller than a tile"),
                                                  ("blocks:2x2:width=5", 24, "divide")])
def test_refusals(spec, d, match):
    with pytest.raises(SpecError, match=match):
        parse(spec).out(Form(8, d))
    for text in ("blocks:8", "blocks:8x8x8", "blocks:0x4", "blocks:65x1", "reshape:0"):
        with pytest.raises(CompandError):
            parse(text)
