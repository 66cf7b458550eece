import numpy as np
import pytest

import compand
from compand.testing import laws
from compand.transform.klt import Klt


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(1)
    return (rng.standard_normal((2000, 20)) * np.exp(-np.arange(20) / 4) @ rng.standard_normal((20, 20)) + 1).astype(np.float32)


def test_comes_back(x):
    for power in (0, 0.5, 1):
        t = Klt(power=power).fit(x)
        y, side = t.forward(x)
        assert not side
        x_hat = t.inverse(y, {}, None)
        assert np.linalg.norm(x - x_hat) < 2e-3 * np.linalg.norm(x)


def test_columns_are_uncorrelated_and_fall(x):
    y, _ = Klt().fit(x).forward(x)
    c = np.cov(y.T)
    assert np.abs(c - np.diag(np.diag(c))).max() < 2e-2 * c.max()
    assert (np.diff(np.diag(c)) < 1e-3 * c[0, 0]).all()


def test_power_one_turns_squared_error_into_the_error_of_inner_products(x):
    t = Klt(power=1).fit(x)
    y, _ = t.forward(x)
    noise = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32) * 0.01
    e = t.inverse(y + noise, {}, None) - x
    scores = np.mean([np.mean((x[i] @ e.T) ** 2) for i in range(0, 2000, 20)])
    per_coordinate = np.mean(noise ** 2) * 20
    assert 0.7 < scores / (per_coordinate * (x.astype(float) @ Klt().fit(x).basis_[:, :1]).__pow__(2).mean()) < 1.4


def test_wrong_width(x):
    with pytest.raises(compand.SpecError):
        compand.Codec("klt:30,int:8").fit(x)


def test_laws(monkeypatch):
    monkeypatch.setattr(laws, "DONE_WITH", "float:e5m2:scale=none")  # a scale of a row may fall either way in torch
    laws.check(Klt, examples=6)


def test_queries_decide_which_directions_matter():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 8), dtype=np.float32) * np.float32([4, 4, 4, 4, 1, 1, 1, 1])
    q = np.zeros((50, 8), np.float32)
    q[:, 4:] = rng.standard_normal((50, 4))  # of no use to ask for the strong half
    own, asked = (compand.Codec("klt:power=1,grouped:4:bits=4").fit(x, **kw) for kw in ({}, {"queries": q}))
    error = [np.square((codec.decode(codec.encode(x)) - x) @ q.T).mean() for codec in (own, asked)]
    assert error[1] < 0.5 * error[0]
    assert compand.Codec("(vq:4)+(klt,grouped:4:bits=4)").fit(x, queries=q).stage.items[1].transforms[0].scale_.argmax() == 0


@pytest.mark.parametrize("spec, queries", [("klt,int:8", np.zeros((3, 7))), ("klt,int:8", np.full((3, 8), np.nan)),
                                           ("klt,int:8", np.zeros((0, 8))),
                                           ("grouped:4:bits=4", np.ones((3, 8))), ("center,klt,int:8", np.ones((3, 8)))])
def test_queries_that_cannot_be_used_are_refused(spec, queries):
    x = np.random.default_rng(0).standard_normal((100, 8), dtype=np.float32)
    with pytest.raises(compand.errors.InputError):
        compand.Codec(spec).fit(x, queries=queries)
