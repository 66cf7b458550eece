import itertools

import numpy as np
import pytest

from compand import InputError
from compand.fit.allocate import allocate
from compand.fit.search import Array, Search, measure, search


@pytest.fixture(scope="module", autouse=True)
def needs_scipy():
    pytest.importorskip("scipy.optimize")


def best(costs, lost, budget):
    """Every choice tried."""
    choices = itertools.product(range(costs.shape[1]), repeat=costs.shape[0])
    t = range(costs.shape[0])
    return min(sum(lost[i, s] for i, s in zip(t, c, strict=True)) for c in choices
               if sum(costs[i, s] for i, s in zip(t, c, strict=True)) <= budget)


@pytest.mark.parametrize("seed", range(8))
def test_as_good_as_trying_all(seed):
    rng = np.random.default_rng(seed)
    costs = rng.integers(1, 100, (5, 4)).astype(float)
    lost = rng.random((5, 4)) * 1000 / costs
    budget = (costs.min(1).sum() + costs.max(1).sum()) / 2
    choice = allocate(costs, lost, budget)
    t = np.arange(5)
    assert costs[t, choice].sum() <= budget
    assert lost[t, choice].sum() == pytest.approx(best(costs, lost, budget), rel=2e-3)
    dual = allocate(costs, lost, distortion=lost[t, choice].sum())
    assert lost[t, dual].sum() <= lost[t, choice].sum() * (1 + 1e-12) and costs[t, dual].sum() <= budget


def test_bytes_go_where_they_help():
    bits = np.array([2, 4, 8])
    choice = allocate(np.tile(bits * 1000.0, (2, 1)), [[100, 10, 1], [1, 0.1, 0.01]], budget=10_000)
    assert choice.tolist() == [2, 0]


def test_what_does_not_fit_is_not_chosen():
    assert allocate([[np.inf, 5], [1, 5]], [[0, 1], [0, 0]], budget=10).tolist() == [1, 0]


def test_refusals():
    with pytest.raises(InputError, match="least bytes reachable"):
        allocate([[5, 9]], [[1, 0]], budget=4)
    with pytest.raises(InputError, match="no spec fits tensor 1"):
        allocate([[1], [np.inf]], [[1], [1]], budget=9)
    with pytest.raises(InputError, match="budget"):
        allocate([[1]], [[1]])
    with pytest.raises(InputError, match="tensors, specs"):
        allocate([1], [1], 1)


def test_many_tensors_are_quick_and_kept_to():
    rng = np.random.default_rng(0)
    n, bits = rng.integers(1, 100, (150, 1)) * 1000, np.array([1, 2, 3, 4, 5, 6, 8, 9])
    costs, lost = n * bits / 8, n * 4.0**-bits * (1 + 0.1 * rng.random((150, 8)))
    budget = n.sum() * 4.5 / 8
    choice = allocate(costs, lost, budget)
    total = costs[np.arange(150), choice].sum()
    assert 0.999 * budget < total <= budget


def arrays():
    rng = np.random.default_rng(1)
    made = [rng.standard_normal((64, 64), dtype=np.float32) * s for s in (1, 100)]
    return [Array(str(i), x.shape, "float32", lambda rows=None, x=x: x if rows is None else x[rows]) for i, x in enumerate(made)]


def test_search_weighs_and_skips():
    ladder = ["int:2", "int:4", "int:8", "int:4:group=0x"]
    ladder = ladder[:3]
    even = search(arrays(), ladder, budget=6500)
    assert even == ["int:4", "int:4"]
    first, second = arrays()
    tilted = search([first._replace(weight=1e4), second], ladder, budget=7000)
    assert tilted[0] == "int:8" and tilted[1] == "int:2"
    exact = search([first._replace(lossy=False), second], ladder, budget=21_000)
    assert exact[0] == "raw"


def test_search_keeps_what_is_not_finite():
    x = np.ones((64, 64), np.float32)
    x[0, 0] = np.inf
    found = search([Array("x", x.shape, "float32", lambda rows=None: x)], ["int:4"], max_error=0.5)
    assert found == ["raw"]


def test_rejected_trials_are_not_chosen_again():
    first, _ = arrays()
    found = Search([first], ["int:4", "int:8"], "raw").run()
    assert found.choose(max_error=0.2)[0].spec == "int:4"
    found.reject(0, "int:4", 0.5)
    assert found.choose(max_error=0.2)[0].spec == "int:8"


def test_measure_scales_rows_and_skips_what_does_not_fit():
    x = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    assert measure(x, "int:8", 640).nbytes == 10 * measure(x, "int:8").nbytes
