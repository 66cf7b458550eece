import numpy as np
import pytest

from compand import SpecError, parse
from compand.array import rounded
from compand.stage import Form, Part
from compand.transform.scale import Scale

SPECS = ["scale", "scale:absmax", "scale:std", "scale:rms:column", "scale:absmax:column", "scale:std:column", "scale:rms:row",
         "scale:absmax:row", "scale:std:row", "scale:norm:row", "scale:absmax:group=16", "scale:rms:group=7", "scale:std:group=7",
         "scale:norm:group=7", "scale:absmax:row:dtype=float16", "scale:rms:group=3:dtype=float32"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 33), (17, 1), (20, 64), (5, 37)])
def test_inverse_and_libraries(hold, normal, spec, n, d):
    hold(spec, normal(n, d))
    hold(spec, normal(n, d, np.float64) * 1e6)


@pytest.mark.parametrize("spec", SPECS)
def test_zero_rows_and_constants(hold, spec):
    x = np.zeros((4, 40), np.float32)
    assert not hold(spec, x).any()
    x[1] = 3
    x[2, :20] = -1e-20
    hold(spec, x)


def test_what_scales_mean(normal):
    x = normal(50, 64) * np.exp(normal(50, 1, seed=1))
    y, _ = Scale("norm", "row").forward(x)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, rtol=0.004)
    y, _ = Scale("norm", "row", dtype="float32").forward(x)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, rtol=1e-6)
    y, _ = Scale("rms", "column").fit(x).forward(x)
    np.testing.assert_allclose(np.sqrt((y ** 2).mean(0)), 1, rtol=1e-6)
    y, _ = Scale("std", group=10).forward(x)
    np.testing.assert_allclose(y[:, 60:].std(1), 1, rtol=0.005)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e4, 1e30])
def test_absmax_does_not_exceed_one(normal, dtype, size):
    if dtype == "float16" and size not in (1e-3, 1.0, 1e4):
        pytest.skip("outside the range of float16")
    x = normal(500, 8, np.float64) * size
    y, side = Scale("absmax", "row", dtype=dtype).forward(x)
    assert np.abs(y).max() <= 1 and np.abs(y).max(1).min() > 0.99
    assert np.array_equal(rounded(side["scale"], dtype), side["scale"])


def test_outside_the_range_stays_finite():
    for dtype in ("bfloat16", "float16", "float32"):
        for size in (1e-300, 1e-40, 1e-8, 1e38, 1e300):
            x = np.array([[size, -size / 2, 0.0]])
            stage = Scale("rms", "row", dtype=dtype)
            y, side = stage.forward(x)
            assert np.isfinite(y).all()
            np.testing.assert_allclose(stage.inverse(y, side, Form(1, 3, "float64")), x, rtol=1e-6)


def test_weight():
    x = np.array([[1, 100], [3, 100], [1000, 100]], np.float32)
    scale = parse("scale:rms:column").fit(x, weight=np.array([[1.0], [1.0], [0.0]])).scale_
    np.testing.assert_allclose(scale, [5 ** 0.5, 100], rtol=1e-6)


def test_layout():
    assert parse("scale:absmax:group=10").layout(Form(100, 24)) == {"scale": Part((100, 3), "bfloat16")}
    assert parse("scale:absmax:row").layout(Form(5, 0))["scale"].shape == (5, 0)


def test_refusals():
    for spec in ("scale:rms:column:group=4", "scale:norm", "scale:norm:column"):
        with pytest.raises(SpecError):
            parse(spec)
