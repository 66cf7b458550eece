from itertools import pairwise

import numpy as np
import pytest
from through import through

import compand
from compand.quantizer.sign import Sign
from compand.quantizer.ternary import Ternary
from compand.stage import Form

torch = pytest.importorskip("torch")
SPECS = """sign sign:64 sign:33 sign:scale=median sign:complex=true sign:10:complex=true sign:7:scale=median ternary ternary:33
    ternary:64:rule=best ternary:rule=absmean ternary:32:rule=median ternary:rule=best ternary:48:scales=float32""".split()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((200, 100), dtype=np.float32)


@pytest.mark.parametrize("spec", SPECS)
def test_corner_cases_and_torch(x, spec):
    q = compand.parse(spec)
    assert str(q) == spec
    for factor in (1, 0, 1e30, 1e-30):
        z = x * np.float32(factor)
        z[0], z[1] = 0, 3 * factor
        y, parts = through(q, z)
        assert np.isfinite(y).all() and (y[0] == 0).all() and np.abs(y).max() <= 6 * factor
        if not getattr(q, "complex", False):
            np.testing.assert_allclose(y[1], z[1], rtol=0.005)
        t = q.encode(torch.from_numpy(z))
        assert (t["ids"].numpy() != parts["ids"]).mean() < 1e-3
        np.testing.assert_allclose(q.decode(t, Form(*x.shape)).numpy(), y, rtol=0.01, atol=4 * factor if factor else 0)
    for shape in ((1, 1), (3, 1), (1, 5)):
        assert through(q, x[:shape[0], :shape[1]].astype(np.float64))[0].dtype == np.float64


def test_gaussian_errors():
    x = np.random.default_rng(1).standard_normal((64, 4096), dtype=np.float32)
    for spec, error in (("sign", 0.3634), ("sign:complex=true", 0.3634), ("ternary:rule=best", 0.1902), ("ternary", 0.1917)):
        y, _ = through(compand.parse(spec), x)
        assert abs(((x - y) ** 2).mean() / error - 1) < 0.02, spec


def test_best_is_best(x):
    heavy = x ** 3
    best = ((heavy - through(Ternary(25, rule="best", scales="float32"), heavy)[0]) ** 2).reshape(200, 4, 25).sum(-1)
    for rule in ("twn", "absmean", "median"):
        other = ((heavy - through(Ternary(25, rule=rule, scales="float32"), heavy)[0]) ** 2).reshape(200, 4, 25).sum(-1)
        assert (best <= other * (1 + 1e-5)).all()


def test_median_scale_of_a_ragged_group():
    x = np.float32([[1, -2, 30, 4, 5]])
    assert Sign(3, scale="median", scales="float32").encode(x)["scale"].tolist() == [[2, 4.5]]


def test_pairs_go_to_the_nearest_root():
    x = np.float32([[2, 1, -1, 3, -5, 0, 1, -2, 7]])
    y, parts = through(Sign(complex=True, scales="float32"), x)
    assert parts["ids"].tolist() == [[0, 1, 2, 3, 0]]
    np.testing.assert_allclose(y, np.float32([[1, 0, 0, 1, -1, 0, 0, -1, 1]]) * 19 / 5)


def test_residual_binarization_gets_better(x):
    for term in ("sign:20", "sign:20:complex=true", "ternary:20"):
        sum_ = compand.parse("+".join([term] * 4))
        parts = sum_.encode(x)
        errors = [((x - sum_.decode(parts, Form(*x.shape), terms)) ** 2).mean() for terms in (1, 2, 3, 4)]
        assert all(b < 0.6 * a for a, b in pairwise(errors)), errors


def test_ternary_packs_five_to_a_byte(x):
    assert compand.Codec("ternary").encode(x).nbytes == 200 * (20 + 2)
