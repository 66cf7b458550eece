import numpy as np
import pytest

from compand import Codec, InputError, SpecError, parse
from compand.transform.compand import Compand

SIGNED = ["compand", "compand:power:0.1", "compand:power:4", "compand:mu", "compand:mu:10", "compand:a", "compand:a:1",
          "compand:tan", "compand:tan:0.01", "compand:tan:1.5"]
LOGS = ["compand:log2", "compand:log-sqrt2", "compand:log2:4"]


@pytest.mark.parametrize("spec", SIGNED)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 50), (40, 1), (30, 17)])
def test_inverse_and_libraries(hold, normal, spec, n, d):
    for size in (1e-3, 1.0, 1e20):
        hold(spec, normal(n, d) * np.float32(size), 5e-6)
    hold(spec, normal(n, d, np.float64), 1e-6)  # scale_ is float32


@pytest.mark.parametrize("spec", SIGNED + LOGS)
def test_zeros_and_constants(hold, spec):
    tol = 1e-6 if spec in SIGNED else 1.0
    hold(spec, np.zeros((3, 4), np.float32), 1e30)
    hold(spec, np.full((3, 4), 7, np.float32), tol)


@pytest.mark.parametrize("spec", LOGS)
def test_logarithms(hold, normal, spec):
    x = np.exp(normal(50, 20))
    x /= x.sum(1, keepdims=True)
    x[0, :3] = 0
    octaves = 4 if spec.endswith("4") else 15
    y = hold(spec, x, max(2.0 ** -octaves, 1e-6) * 1.001)
    assert y.max() <= 1e-6 and y.min() >= -octaves * (2 if "sqrt" in spec else 1)
    with pytest.raises(InputError, match="compand:mu"):
        parse(spec).fit(-x)
    with pytest.raises(InputError):
        parse(spec).fit(x).forward(-x)


@pytest.mark.parametrize("spec", SIGNED)
def test_odd_monotone_and_normalised(spec):
    x = np.linspace(-3, 3, 301)[None]
    y, _ = parse(spec).fit(x).forward(x)
    np.testing.assert_allclose(y, -y[:, ::-1], atol=1e-12)
    assert (np.diff(y[0]) > 0).all() and np.isclose(y.max(), 1)


def test_relative_error_of_float32():
    x = np.geomspace(1e-6, 1, 1000, dtype=np.float32)[None]
    for spec, bound in (("compand:power:0.5", 2.0 ** -21), ("compand:power:0.1", 10 * 2.0 ** -22), ("compand:power:2", 2.0 ** -21),
                        ("compand:mu", 2.0 ** -19), ("compand:a", 2.0 ** -19), ("compand:tan", 2.0 ** -22)):
        stage = parse(spec).fit(x)
        y, side = stage.forward(x)
        assert (np.abs(stage.inverse(y, side, None) / x - 1) <= bound).all(), spec


def test_beyond_what_fit_saw():
    stage = Compand("tan").fit(np.ones((1, 1)))
    y, side = stage.forward(np.array([[1.5, 100.0]]))
    np.testing.assert_allclose(stage.inverse(y, side, None), [[1.5, 1.56]], rtol=1e-6)
    for curve in ("power", "mu", "a", "log2"):
        stage = Compand(curve).fit(np.ones((1, 1)))
        y, side = stage.forward(np.array([[3.0]]))
        np.testing.assert_allclose(stage.inverse(y, side, None), [[3.0]], rtol=1e-6)
        assert np.isfinite(stage.inverse(np.array([[1e300]]), side, None)).all()


def test_gain_on_laplace():
    """Bell-shaped values with one scale: companding beats uniform steps at 4 bits."""
    x = np.random.default_rng(0).laplace(size=(200, 64)).astype(np.float32)
    errors = {}
    for spec in ("int:4:per=tensor:search=absmax", "compand:power:0.5,int:4:per=tensor:search=absmax"):
        codec = Codec(spec).fit(x)
        errors[spec] = np.square(x - codec.decode(codec.encode(x))).mean()
    plain, ours = errors.values()
    assert ours < 0.6 * plain


def test_amounts():
    for text in ("compand:power:5", "compand:tan:2", "compand:log2:0.5", "compand:cubic"):
        with pytest.raises(SpecError):
            parse(text)
    assert not parse("compand").exact
