"""Bits found by trying: on the small random Llama of test_language."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_language import TEXT, make  # noqa: E402

from compand.integration.language import Language  # noqa: E402
from compand.integration.language_evolve import _child, evolve  # noqa: E402
from compand.integration.language_slopes import nbytes  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("llama"))


def test_children_keep_the_size():
    cost = {f"w{i}": [10.0 * (i + 1) * b for b in (1, 2, 3, 4)] for i in range(6)}
    parent, rng = dict.fromkeys(cost, 1), np.random.default_rng(0)
    budget = sum(cost[n][1] for n in cost)
    children = [c for _ in range(50) if (c := _child(parent, cost, budget, rng)) is not None]
    assert len(children) > 25 and all(sum(cost[n][i] for n, i in c.items()) <= budget for c in children)
    assert all(any(c[n] > parent[n] for n in c) for c in children)
    assert _child(dict.fromkeys(cost, 3), cost, 1e9, rng) is None  # nothing can go up


def test_trying_betters_a_bad_start(model):
    language = Language(model)
    language.whole()
    ids = language.tokens(TEXT, 32, 3)
    names = [n for n in language.items if "layers.0" in n and "proj" in n]
    sizes = {n: language.items[n].shape for n in names}
    ladder = {n: [f"hadamard,int:{b}" for b in (2, 3, 4, 6)] for n in names}
    start = {n: ladder[n][2 if "q_proj" in n or "k_proj" in n else 1] for n in names}  # bits where this model minds least
    budget, seen = sum(nbytes(s, *sizes[n]) for n, s in start.items()), []
    specs, loss = evolve(language, ids, {n: np.eye(sizes[n][1]) for n in names}, start, ladder, sizes, budget, importance={},
                         generations=6, progress=lambda *a: seen.append(float(a[2].split()[1])))
    language.close()
    assert specs != start and sum(nbytes(s, *sizes[n]) for n, s in specs.items()) <= budget
    assert seen == sorted(seen, reverse=True) and seen[-1] == pytest.approx(loss, abs=1e-4)
