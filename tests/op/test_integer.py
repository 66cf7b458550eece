"""Nets of integers: any bytes end well, plain integer loops as the reference, dyadic scales, bounds that keep sums exact."""

import copy
import json
import pickle
from math import prod

import numpy as np
import pytest

import compand
from compand import _native
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


LEVELS = [level for level in ("scalar", "avx2", "avx512") if _native.set_isa(level)]
_native.set_isa("auto")


def same_everywhere(whole, x):
    """Hold every level of instructions, on one thread and on three, to the reference."""
    want = whole.reference(x)
    for level in LEVELS:
        for threads in (1, 3):
            _native.set_isa(level)
            _native.set_threads(threads)
            np.testing.assert_array_equal(whole.run(x), want)
    return want


def pixels(whole, n=2, dtype=np.int64):
    return RNG.integers(whole.low, whole.high + 1, (n, *whole.shape)).astype(dtype)


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


NONE = (0, 0, 0, 0)
KERNELS = {  # outputs, input channels, groups, height and width of the kernel, stride, pad
    "pixels": (70, 37, 1, 1, 1, 1, NONE), "pixels, apart": (9, 16, 1, 1, 1, 2, NONE), "pixels, padded": (9, 5, 1, 1, 1, 1, (1, 2, 3, 4)),
    "pixels in groups": (64, 32, 2, 1, 1, 1, NONE), "first layer": (32, 3, 1, 3, 3, 2, (0, 1, 0, 1)),
    "dense": (20, 35, 1, 3, 2, 1, (2, 0, 1, 1)), "groups of 16": (48, 36, 3, 3, 3, 1, (1, 1, 1, 1)),
    "groups of 3": (12, 20, 4, 2, 3, 2, (1, 1, 1, 1)), "depthwise 3": (37, 37, 37, 3, 3, 1, (1, 1, 1, 1)),
    "depthwise 5": (16, 16, 16, 5, 5, 2, (1, 2, 1, 2)), "depthwise 4 x 9": (5, 5, 5, 4, 9, 3, (0, 0, 4, 4)),
    "depthwise, bare": (18, 18, 18, 5, 5, 1, NONE), "depthwise, large": (17, 17, 17, 11, 11, 1, (5, 5, 5, 5)),
    "depthwise, twice": (34, 17, 17, 3, 3, 1, (1, 1, 1, 1)), "only padding": (3, 3, 3, 3, 3, 1, (40, 3, 40, 3))}
RANGES = [(-128, 127), (0, 255), (-127, 128), (5, 77), (-3000, 3000), (32700, 32790), (-40, -3)]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("inputs", RANGES)
def test_kernels_are_the_reference(name, inputs):
    o, c, groups, tall, wide, stride, pad = KERNELS[name]
    for low, high in ((0, 255), (-32768, 32767)):
        node = conv(o, c // groups, tall, wide, 0, groups, stride, pad, low, high)
        whole = IntegerNet((node,), (c, 13, 11), *inputs)
        y = same_everywhere(whole, pixels(whole))
        assert len(np.unique(y)) > 1


def test_large_pictures_in_strips_and_chunks():
    whole = IntegerNet((conv(40, 3, 3, 3, 0, stride=2, pad=(0, 1, 0, 1), low=0, high=255), conv(40, 1, 5, 5, 1, 40, pad=(2, 2, 2, 2)),
                        conv(17, 40, 1, 1, 2), conv(6, 17, 3, 3, 3, pad=(1, 1, 1, 1))), (3, 150, 131))
    same_everywhere(whole, pixels(whole, 1))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
def test_batches(n):
    whole = net()
    same_everywhere(whole, pixels(whole, n))


def test_copies_run_too():
    whole = net()
    x = pixels(whole)
    y = whole.run(x)
    for other in (copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))):
        np.testing.assert_array_equal(other.run(x), y)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_integers_of_every_type(dtype):
    whole = IntegerNet((conv(4, 2, 3, 3, 0),), (2, 5, 6), 0, 100)
    x = pixels(whole, 2, dtype)
    np.testing.assert_array_equal(whole.run(x), whole.reference(x))
    np.testing.assert_array_equal(whole.run(x[:, :, ::-1]), whole.reference(x[:, :, ::-1]))


@pytest.mark.parametrize("shift", [0, 1, 20, 62])
def test_results_beyond_32_bits_are_clipped(shift):
    for node in (conv(20, 16, 1, 1, 0, low=-5, high=99), conv(16, 1, 3, 3, 0, 16), conv(16, 16, 2, 2, 0, low=-32768, high=32767)):
        node.arrays["multiplier"][:] = RNG.choice([2 ** 31 - 1, -(2 ** 31)], len(node.arrays["bias"]))
        node.arrays["shift"][:] = shift
        whole = IntegerNet((node,), (16, 3, 5))
        same_everywhere(whole, pixels(whole))


@pytest.mark.parametrize("shift", [0, 1, 31, 62])
def test_sums_of_every_kind(shift):
    for multiplier in ((2 ** 31 - 1, -(2 ** 31)), (1 << 20, -3)):
        given = {"multiplier": np.int32(multiplier), "shift": np.uint8([shift])}
        for low, high in ((-128, 127), (-30000, 60000)):
            wide = conv(19, 19, 1, 1, 0, low=-32768, high=32767)
            whole = IntegerNet((wide, Node("add", (1, 0), low, high, given), Node("add", (0, 0), low, high, given)), (19, 3, 5))
            same_everywhere(whole, pixels(whole))
            mean = Node("mean", (2,), low, high, {"multiplier": np.int32([multiplier[0]]), "shift": given["shift"]})
            whole = IntegerNet((*whole.nodes[:2], mean), (19, 3, 5))
            same_everywhere(whole, pixels(whole))


@pytest.mark.parametrize("layers", [300, 4000])
def test_tensors_that_grow_are_refused(layers):
    grow = tuple(conv(3, 3 if i else 1, 1, 1, i, pad=(64, 64, 64, 64)) for i in range(layers))
    whole = IntegerNet(grow, (1, 1, 1))
    with pytest.raises((FormatError, LimitError)):
        whole.run(np.zeros((1, 1, 1, 1), np.int32))


def test_the_native_net_checks_for_itself():
    made = _native.IntegerNet((16, 4, 4), -128, 127)
    one = conv(8, 16, 3, 3, 0).arrays
    right = {"input": 0, **one, "stride": 1, "groups": 1, "pad": (0, 0, 0, 0), "low": 0, "high": 255}
    for wrong in ({"input": 1}, {"stride": 0}, {"groups": 0}, {"groups": 2}, {"pad": (65, 0, 0, 0)}, {"low": 256}, {"high": 1 << 16},
                  {"shift": np.full(8, 63, np.uint8)}, {"shift": np.zeros(7, np.uint8)}, {"bias": np.full(8, 2 ** 31 - 1, np.int32)},
                  {"weight": np.zeros((8, 16, 5, 5), np.int8)}, {"weight": np.zeros((8, 0, 3, 3), np.int8)},
                  {"multiplier": np.zeros(9, np.int32)}):
        with pytest.raises(ValueError):
            made.conv(**right | wrong)
    with pytest.raises(ValueError, match="without layers"):
        made.run(np.zeros((1, 16, 4, 4), np.int32))
    made.conv(**right)
    two = np.ones(2, np.int32), np.zeros(1, np.uint8), 0, 255
    for a, b in ((0, 1), (0, 2), (7, 0)):
        with pytest.raises(ValueError):
            made.add(a, b, *two)
    with pytest.raises(ValueError):
        made.mean(0, *two)
    for shape in ((1, 16, 4, 5), (1, 8, 4, 4)):
        with pytest.raises(ValueError):
            made.run(np.zeros(shape, np.int32))
    assert made.run(np.zeros((1, 16, 4, 4), np.int32)).shape == (1, 8, 2, 2)
    with pytest.raises(ValueError, match="first pictures"):
        made.add(0, 0, *two)
    with pytest.raises(ValueError):
        _native.IntegerNet((0, 4, 4), 0, 1)


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
