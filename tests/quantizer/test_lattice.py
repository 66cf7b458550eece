import numpy as np
import pytest
from through import through

import compand
from compand.quantizer import e8
from compand.stage import Form

torch = pytest.importorskip("torch")
SPECS = """lattice:e8 lattice:e8:bits=1 lattice:e8:bits=3 lattice:e8:bits=4:group=40 lattice:e8:bits=8 lattice:e8:group=32
    lattice:e8:search=rms lattice:e8:bits=5:search=rms lattice:e8:bits=6:scales=float32""".split()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((24, 100), dtype=np.float32)


def error(spec, x):
    return float(((through(compand.parse(spec), x)[0] - x) ** 2).mean())


@pytest.mark.parametrize("spec", SPECS)
def test_corner_cases_and_torch(x, spec):
    q = compand.parse(spec)
    assert str(q) == spec
    for factor in (1, 0, 1e30, 1e-30):
        z = x * np.float32(factor)
        z[0], z[1], z[2, 50] = 0, 3 * factor, 1000 * factor
        y, parts = through(q, z)
        assert np.isfinite(y).all() and np.linalg.norm(y.astype(float) - z) <= 1.01 * np.linalg.norm(z.astype(float))
        assert (y[0] == 0).all()
        t = q.encode(torch.from_numpy(z))
        assert (t["ids"].numpy() != parts["ids"]).mean() < 1e-3
        np.testing.assert_allclose(q.decode(t, Form(*x.shape)).numpy(), y, atol=6 * factor)
        np.testing.assert_array_equal(compand.Codec(q).decode(compand.Codec(q).encode(z)), y)
    for shape in ((1, 1), (3, 1), (1, 5)):
        assert through(q, x[:shape[0], :shape[1]].astype(np.float64))[0].dtype == np.float64


def test_nearest_is_nearest():
    points = e8.shortest(16)[0].astype(np.float64)
    x = np.random.default_rng(0).uniform(-1, 1, (300, 8)).astype(np.float32)
    far = (points**2).sum(1) - 2 * x.astype(np.float64) @ points.T
    own = e8.nearest(x)
    np.testing.assert_allclose(((x - own) ** 2).sum(1), far.min(1) + (x.astype(np.float64) ** 2).sum(1), atol=1e-5)
    np.testing.assert_array_equal(e8.nearest(torch.from_numpy(x)).numpy(), own)


def test_shortest_points_are_the_theta_series():
    points, _, _ = e8.shortest(16)
    norms, counts = np.unique((points**2).sum(1), return_counts=True)
    assert norms.tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert counts.tolist() == [1, 240, 2160, 6720, 17520, 30240, 65536 - 56881]
    ids, inside = e8.ball_ids(points, 16)
    assert inside.all() and (ids == np.arange(65536)).all()
    assert not e8.ball_ids(points[-10:] * 3, 16)[1].any()


@pytest.mark.parametrize("low", [-4, -128])
def test_any_ids_are_a_point_and_come_back(low):
    ids = np.random.default_rng(0).integers(0, -2 * low, (500, 8)).astype(np.float32)
    points = e8.box_points(ids, low)
    np.testing.assert_array_equal(points, e8.nearest(points))
    np.testing.assert_array_equal(e8.box_ids(points, low), ids)


def test_second_moment_of_e8():
    x = np.random.default_rng(0).uniform(-20, 20, (50000, 8)).astype(np.float32)
    assert abs(((x - e8.nearest(x)) ** 2).mean() / 0.07168 - 1) < 0.01  # Conway and Sloane, table 2.3; the grid has 0.08333


def test_beats_scalar_quantizers_at_equal_rate():
    x = np.random.default_rng(2).standard_normal((96, 512), dtype=np.float32)
    assert error("lattice:e8:bits=1", x) < 0.93 * 0.3634
    assert error("lattice:e8", x) < 0.88 * 0.1175
    for bits in (3, 4, 5, 6, 8):
        assert error(f"lattice:e8:bits={bits}", x) < 0.98 * error(f"int:{bits}", x)


@pytest.mark.parametrize("spec", ["lattice", "lattice:e9", "lattice:e8:bits=9", "lattice:e8:group=12"])
def test_refused(spec):
    with pytest.raises(compand.SpecError):
        compand.parse(spec)
