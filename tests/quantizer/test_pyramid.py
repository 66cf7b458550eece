import math
from itertools import pairwise, product

import numpy as np
import pytest
from through import through

import compand
from compand.errors import CorruptError
from compand.quantizer.fsq import FSQ
from compand.quantizer.pyramid import Pyramid, count, enumerate_, pulses, vectors
from compand.stage import Form

torch = pytest.importorskip("torch")
SPECS = ["pyramid:8", "pyramid:3:dim=7", "pyramid:128:dim=2", "pyramid:1:dim=1", "pyramid:24", "pyramid:5:dim=100", "fsq:8x8x4", "fsq:2",
         "fsq:65536x65536", "fsq:3x5x7x2x9x3x11", "fsq:8x8x8x8x8x8x8x8x8x8x8x4", "fsq:65536x65536x65536x65536",
         "pyramid:4:dim=8:scales=float32"]


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((60, 100), dtype=np.float32)


@pytest.mark.parametrize("spec", SPECS)
def test_corner_cases_torch_and_packing(x, spec):
    q = compand.parse(spec)
    assert str(q) == spec
    for factor in (1, 0, 1e30, 1e-30):
        z = x * np.float32(factor)
        z[0], z[1] = 0, 3 * factor
        fitted = q.fit(z)
        y, parts = through(fitted, z)
        assert np.isfinite(y).all() and np.linalg.norm(y.astype(float) - z) <= 1.01 * np.linalg.norm(z.astype(float))
        if q.name == "pyramid":
            assert (y[0] == 0).all()
        if factor in (1, 0):
            t = fitted.encode(torch.from_numpy(z))
            assert all((np.asarray(t[name]) == parts[name]).all() for name in parts if name != "scale")
            np.testing.assert_allclose(fitted.decode(t, Form(*x.shape)).numpy(), y)
            np.testing.assert_array_equal(compand.Codec(fitted).decode(compand.Codec(fitted).encode(z)), y)
    for shape in ((1, 1), (3, 1), (1, 5)):
        z = x[:shape[0], :shape[1]].astype(np.float64)
        assert through(q.fit(z), z)[0].dtype == np.float64


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 5), (2, 7), (3, 4), (4, 3), (5, 2), (6, 1)])
def test_every_vector_has_its_number(n, k):
    y = np.array([v for v in product(range(-k, k + 1), repeat=n) if sum(map(abs, v)) == k])
    assert len(y) == count(n, k)
    index = enumerate_(y, k)
    assert sorted(index.tolist()) == list(range(len(y)))
    np.testing.assert_array_equal(vectors(index, n, k), y)


def test_large_numbers():
    rng = np.random.default_rng(0)
    for n, k in ((16, 24), (24, 16), (1000, 5), (9, 128), (2, 128)):
        most = count(n, k)
        assert most < 1 << 63
        index = rng.integers(0, most, 2000, dtype=np.uint64)
        index[:2] = 0, most - 1
        y = vectors(index, n, k)
        assert (np.abs(y).sum(1) == k).all()
        np.testing.assert_array_equal(enumerate_(y, k), index)


def test_pulses_are_near_the_best():
    x = np.random.default_rng(0).standard_normal((200, 3))
    y = np.array([v for v in product(range(-5, 6), repeat=3) if sum(map(abs, v)) == 5])
    best = (x @ (y / np.linalg.norm(y, axis=1, keepdims=True)).T).max(1)
    own = pulses(x, 5)
    own = (x * own).sum(1) / np.linalg.norm(own, axis=1)
    assert (own > best * 0.97).all() and (own > best * 0.9999).mean() > 0.9


def test_more_pulses_less_error(x):
    errors = [((through(Pyramid(k, dim=10), x)[0] - x) ** 2).mean() for k in (2, 4, 8, 16, 32)]
    assert all(b < 0.7 * a for a, b in pairwise(errors)), errors


def test_a_number_too_large_is_corrupt(x):
    q = Pyramid(24)
    parts = q.encode(x)
    parts["high"][3, 2] = q.layout(Form(60, 100))["high"].k - 1
    parts["ids"][3, 2] = 0xFFFFFFFF
    with pytest.raises(compand.CorruptError):
        q.decode(parts, Form(60, 100))


def test_fsq_grids(x):
    z = x[:, :3] * np.float32([1, 10, 100]) + np.float32([0, 50, -900])
    q = FSQ((8, 16, 32)).fit(z)
    y, _ = through(q, z)
    relative = ((y - z) ** 2).mean(0) / z.var(0)
    assert relative[0] < 0.06 and relative[1] < 0.02 and relative[2] < 0.008
    weight = np.where(np.arange(60) < 6, 100, 1).astype(np.float32)[:, None]
    first = [((through(f, z)[0] - z)[:6] ** 2 / z.var(0)).sum() for f in (q, FSQ((8, 16, 32)).fit(z, weight=weight))]
    assert first[1] < first[0]


@pytest.mark.parametrize("spec", ["pyramid:0", "pyramid:129", "pyramid:60:dim=60", "fsq:1x4", "fsq:65536x65536x65536x65536x2", "fsq:70000"])
def test_refused(spec):
    with pytest.raises(compand.SpecError):
        compand.parse(spec)


WIDE = ["fsq:8x8x8x8x8x8x8x8x8x8x8x4", "fsq:65536x65536x65536x65536", "fsq:3x5x7x1000x60000"]


@pytest.mark.parametrize("spec", WIDE)
def test_numbers_above_32_bits_are_exact(spec, x):
    stage = compand.Codec(spec).fit(x).stage
    rng, n = np.random.default_rng(0), len(stage.levels)
    levels = rng.integers(0, stage.levels, (500, n))
    y = (levels.astype(np.float32) + stage.zero_) * stage.scale_
    parts, again = stage.quantize(y)
    numbers = parts["ids"].astype(np.uint64) | parts["high"].astype(np.uint64) << np.uint64(32)
    expected = [sum(int(v) * math.prod(stage.levels[:j]) for j, v in enumerate(row)) for row in levels]
    assert numbers[:, 0].tolist() == expected
    assert np.array_equal(again, y) and np.array_equal(stage.decode(parts, Form(500, n)), y)
    readable = stage._encode(y)
    assert all(np.array_equal(readable[name].astype(np.uint64), parts[name].astype(np.uint64)) for name in parts)


def test_a_number_above_the_last_vector_is_refused(x):
    stage = compand.Codec(WIDE[2]).fit(x).stage
    parts = {"ids": np.full((2, 1), 2**32 - 1, np.uint32), "high": np.full((2, 1), 1, np.uint32)}
    with pytest.raises(CorruptError, match="below"):
        stage.decode(parts, Form(2, 5))
