"""Nets of integers: any bytes end well, plain integer loops as the reference, dyadic scales, bounds that keep sums exact."""

import json
from math import prod

import numpy as np
import pytest

import compand
from compand.errors import CompandError, FormatError, InputError, LimitError
from compand.limits import Limits
from compand.op.dyadic import dyadic, rescaled
from compand.op.integer import KEY, IntegerNet, Node, convolved
from compand.testing.mutate import mutants
from compand.writer import Writer

RNG = np.random.default_rng(0)


def conv(o, own, kh, kw, inputs, groups=1, stride=1, pad=(0, 0, 0, 0), low=-128, high=127):
    b, c = dyadic(RNG.uniform(0.001, 0.01, o) * RNG.choice([-1, 1], o))
    arrays = {"weight": RNG.integers(-128, 128, (o, own, kh, kw)).astype(np.int8), "bias": RNG.integers(-500, 500, o).astype(np.int32),
              "multiplier": b, "shift": c}
    return Node("conv", (inputs,), low, high, arrays, stride, groups, pad)


def scaled(op, inputs, *m, low=-128, high=127):
    b, c = dyadic(m)
    return Node(op, inputs, low, high, {"multiplier": b >> (c - c.min()).astype(np.int32), "shift": c[:1] * 0 + c.min()})


def net():
    return IntegerNet((conv(8, 3, 3, 3, 0, stride=2, pad=(0, 1, 0, 1), low=0, high=255), conv(8, 1, 3, 3, 1, 8, pad=(1, 1, 1, 1)),
                       conv(8, 2, 1, 1, 2, 4, low=-32768, high=32767), scaled("add", (1, 3), 0.6, 0.002), scaled("mean", (4,), 0.9 / 20),
                       conv(5, 8, 1, 1, 5, low=-32768, high=32767)), (3, 10, 8))


def plain(node, x):
    """Σ w x of a convolution by its definition."""
    weight, (top, bottom, left, right), s = node.arrays["weight"].astype(np.int64), node.pad, node.stride
    x = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    o, own, kh, kw = weight.shape
    y = np.zeros((len(x), o, (x.shape[2] - kh) // s + 1, (x.shape[3] - kw) // s + 1), np.int64)
    for k, i, j in np.ndindex(o, *y.shape[2:]):
        g = k // (o // node.groups)
        y[:, k, i, j] = (x[:, g * own:(g + 1) * own, i * s:i * s + kh, j * s:j * s + kw] * weight[k]).sum(axis=(1, 2, 3))
    return y


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.cpd"
    net().save(path)
    return path


def test_any_bytes_end_well(file):
    data = file.read_bytes()
    x = RNG.integers(-128, 128, (1, 3, 10, 8))
    ran = 0
    for _, broken in mutants(data, 0, 400):
        try:
            IntegerNet.open(broken).run(x)
            ran += 1
        except CompandError:
            continue
    assert 0 < ran < 400


WRONG = [("op", "pow"), ("op", None), ("op", "mean"), ("inputs", [7]), ("inputs", [0, 0]), ("inputs", [-1]), ("inputs", 3),
         ("inputs", [0.5]), ("low", 1 << 40), ("low", None), ("high", -200), ("high", True), ("stride", 0), ("stride", -1), ("stride", "2"),
         ("groups", 0), ("groups", 3), ("pad", [0, 0]), ("pad", [1 << 30] * 4), ("pad", [-1] * 4), ("pad", {})]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_wrong_records_are_refused(tmp_path, field, value):
    whole = net()
    whole.save(tmp_path / "a.cpd")
    with compand.open(tmp_path / "a.cpd") as f:
        meta, arrays = json.loads(json.dumps(f.meta[KEY])), {n: f[n].array() for n in f}
    meta["nodes"][0][field] = value
    with Writer(tmp_path / "b.cpd", meta={KEY: meta}) as f:
        for name, a in arrays.items():
            f.write(name, a, "raw")
    with pytest.raises(CompandError):
        IntegerNet.open(tmp_path / "b.cpd")


@pytest.mark.parametrize("meta", [{}, {KEY: 3}, {KEY: {}}, {KEY: {"nodes": []}}, {KEY: {"nodes": [3], "shape": [1, 1, 1]}},
                                  {KEY: {"nodes": [{"op": "conv"}], "shape": [1, 1, 1], "low": 0, "high": 1}}])
def test_what_is_no_net(tmp_path, meta):
    with Writer(tmp_path / "a.cpd", meta=meta) as f:
        f.write("x", np.zeros(3, np.float32), "raw")
    with pytest.raises(CompandError):
        IntegerNet.open(tmp_path / "a.cpd")


@pytest.mark.parametrize("shape", [(8, 3, 3, 3, 1, 2), (6, 1, 3, 5, 6, 1), (6, 2, 1, 1, 3, 1), (4, 6, 2, 2, 1, 3), (6, 1, 3, 3, 3, 2)])
@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (1, 0, 2, 1)])
def test_convolutions_are_exact(shape, pad):
    o, own, kh, kw, groups, stride = shape
    node = conv(o, own, kh, kw, 0, groups, stride, pad)
    x = RNG.integers(-128, 256, (2, own * groups, 9, 8)).astype(np.int32)
    want = plain(node, x)
    for largest in (node.largest(256), 1 << 30):  # float32 and float64 carry it
        np.testing.assert_array_equal(convolved(x, node, largest), want)
    assert np.abs(want).max() <= node.largest(256)


def test_a_net_is_its_definition(file):
    whole = IntegerNet.open(file)
    x = RNG.integers(-128, 128, (3, 3, 10, 8))
    tensors = [x]
    for node in whole.nodes:
        b, c = (node.arrays[k].astype(object) for k in ("multiplier", "shift"))  # integers without bounds
        inputs = [tensors[i].astype(object) for i in node.inputs]
        if node.op == "add":
            y = (inputs[0] * b[0] + inputs[1] * b[1] + (1 << c[0] >> 1)) >> c[0]
        else:
            acc = inputs[0].sum(axis=(2, 3), keepdims=True) if node.op == "mean" else \
                plain(node, tensors[node.inputs[0]]).astype(object) + node.arrays["bias"].astype(object)[:, None, None]
            y = np.stack([(acc[:, k] * b[k % len(b)] + (1 << c[k % len(c)] >> 1)) >> c[k % len(c)] for k in range(acc.shape[1])], axis=1)
        tensors.append(np.clip(y, node.low, node.high).astype(np.int64))
    y = whole.run(x)
    np.testing.assert_array_equal(y, tensors[-1][:, :, 0, 0])
    assert y.dtype == np.int32 and len(np.unique(y)) > 5 and whole == whole and net().shape == whole.shape


def test_dyadic():
    m = np.concatenate([RNG.uniform(-4, 4, 500), 2.0 ** RNG.uniform(-30, 30, 500), [1, -1, 0, 2.0 ** 31 - 1, 1 - 2.0 ** -40, 1e-30]])
    b, c = dyadic(m)
    assert b.dtype == np.int32 and c.dtype == np.uint8
    kept = np.abs(m) > 2.0 ** -31
    assert np.abs(b / 2.0 ** c - m)[kept].max() <= 2.0 ** -31 * np.abs(m).max()
    assert (np.abs(b / 2.0 ** c - m)[kept] <= 2.0 ** -30 * np.abs(m)[kept]).all()
    acc = RNG.integers(-2 ** 31 + 1, 2 ** 31, 1000)
    for factor, shift in ((2 ** 31 - 1, 62), (-(2 ** 31) + 1, 31), (3, 0)):
        want = [(int(a) * factor + ((1 << shift) >> 1)) >> shift for a in acc]
        assert rescaled(acc, np.int32(factor), np.uint8(shift)).tolist() == want


def test_refused(file):
    whole = IntegerNet.open(file)
    for x in (np.zeros((1, 3, 10, 8), np.float32), np.zeros((1, 3, 10, 9), np.int64), np.full((1, 3, 10, 8), 300)):
        with pytest.raises(InputError):
            whole.run(x)
    with pytest.raises(LimitError):
        whole.run(np.zeros((1, 3, 10, 8), np.int64), limits=Limits(allocation=100))
    with pytest.raises(FormatError, match="31 bits"):
        IntegerNet((conv(1, 1 << 14, 4, 16, 0),), (1 << 14, 4, 16), low=-(1 << 15), high=(1 << 15) - 1)
    assert whole.run(np.zeros((0, 3, 10, 8), np.int64)).shape == (0, 5)
    assert prod(whole.shape) == 240
