import array_api_strict
import numpy as np
import pytest

from compand import Codec, SpecError, parse
from compand.array import to_numpy
from compand.stage import Form

torch = pytest.importorskip("torch")


def low(n, d, rank, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d)) + noise * rng.standard_normal((n, d))
    return x.astype(np.float32)


@pytest.mark.parametrize("spec", ["lowrank:1", "lowrank:4", "lowrank:4:value=float8", "lowrank:4:value=float32"])
@pytest.mark.parametrize(("n", "d"), [(1, 4), (30, 4), (17, 33), (200, 64)])
def test_near_the_optimum_in_every_library(spec, n, d):
    x = low(n, d, 6)
    stage = parse(spec)
    assert parse(str(stage)) == stage and not stage.exact
    fitted, form = stage.fit(x), Form(n, d)
    fitted.require(form)
    best = np.sqrt(np.square(np.linalg.svd(x)[1][stage.rank:]).sum())
    results = []
    for make in (np.asarray, lambda a: torch.from_numpy(a.copy()), array_api_strict.asarray):
        parts = fitted.encode(make(x))
        assert tuple(parts["coefficients"].shape) == fitted.layout(form)["coefficients"].shape
        back = fitted.decode(parts, form)
        assert type(back) is type(make(x))
        results.append(to_numpy(back))
    slack = {"float8": 0.04, "float16": 2e-3, "float32": 1e-5}[stage.value] * np.linalg.norm(x)
    for y in results:
        assert best - 1e-3 <= np.linalg.norm(x - y) <= best + slack
    np.testing.assert_allclose(results[1], results[0], atol=slack * 0.1)


def test_zero_constant_and_tiny():
    for x in (np.zeros((5, 3)), np.ones((4, 4)), np.full((1, 1), 7.0), low(9, 9, 2) * 1e-25, low(9, 9, 2) * 1e25):
        x = x.astype(np.float32)
        codec = Codec(f"lowrank:{min(2, x.shape[1])}").fit(x)
        y = codec.decode(codec.encode(x))
        assert np.linalg.norm(x.astype(float) - y) <= 0.02 * np.linalg.norm(x.astype(float))


def test_sum_beats_either():
    x = low(256, 64, 4, 0.3)
    errors = {}
    for spec in ("int:3:group=64", "lowrank:4", "lowrank:4+int:3:group=64"):
        codec = Codec(spec).fit(x)
        errors[spec] = np.square(x - codec.decode(codec.encode(x))).sum()
    assert errors["lowrank:4+int:3:group=64"] < 0.25 * min(errors["int:3:group=64"], errors["lowrank:4"])


def test_weights_are_honoured():
    x, weight = low(200, 16, 12, 0.5), np.geomspace(1, 1000, 16, dtype=np.float32)[None]
    errors = {}
    for name, w in (("plain", None), ("weighted", weight)):
        codec = Codec("lowrank:3:value=float32").fit(x, weight=w)
        errors[name] = (weight * np.square(x - codec.decode(codec.encode(x)))).sum()
    assert errors["weighted"] < 0.9 * errors["plain"]
    best = np.square(np.linalg.svd(x * np.sqrt(weight))[1][3:]).sum()
    np.testing.assert_allclose(errors["weighted"], best, rtol=1e-2)


def test_deterministic_blocks_and_float64():
    x = low(3000, 400, 3)
    codec = Codec("lowrank:3").fit(x)
    codes = codec.encode(x)
    assert len(codes.blocks) == 2 and codec == Codec("lowrank:3").fit(x)
    assert np.array_equal(codec.decode(codes, rows=slice(2700, 2800)), codec.decode(codes)[2700:2800])
    y = codec.decode(codec.encode(x.astype(np.float64)))
    assert y.dtype == np.float64 and np.abs(y - x).max() < 0.1


def test_refusals():
    with pytest.raises(SpecError, match="rank is at most"):
        Codec("lowrank:9").fit(np.zeros((20, 8), np.float32))
    with pytest.raises(SpecError):
        parse("lowrank:0")
