"""Laws of a transform, held over the array libraries."""

import array_api_strict
import numpy as np
import pytest

from compand.array import to_numpy
from compand.spec import parse
from compand.stage import Form

LIBRARIES = {"numpy": np.asarray, "strict": array_api_strict.asarray}
try:
    import torch
except ImportError:
    pass
else:
    LIBRARIES["torch"] = lambda a: torch.from_numpy(np.array(a))


@pytest.fixture
def hold():
    """hold(spec, x, tol) → y: fits, and checks shapes, layout, inverse and agreement of libraries, dtypes and spec text."""

    def check(spec, x, tol=1e-6, agree=1e-5, weight=None):
        stage = parse(spec)
        assert parse(str(stage)) == stage
        form = Form(*x.shape, str(x.dtype))
        fitted = stage.fit(x, weight=weight) if x.size and stage.state(form) else stage
        if x.size:
            fitted.require(form)
        results = {}
        for library, make in LIBRARIES.items():
            own = make(x)
            again = stage.fit(own, weight=None if weight is None else make(weight)) if x.size and stage.state(form) else stage
            for name, a in fitted.arrays().items():
                np.testing.assert_allclose(again.arrays()[name], a, rtol=1e-5, atol=1e-6)
            y, side = fitted.forward(own)
            assert type(y) is type(own) and str(y.dtype) == str(own.dtype), library
            assert tuple(y.shape) == fitted.out(form)[:2]
            layout = fitted.layout(form)
            assert side.keys() == layout.keys()
            assert all(tuple(side[k].shape) == p.shape for k, p in layout.items())
            back = fitted.inverse(y, side, form)
            assert type(back) is type(own) and str(back.dtype) == str(own.dtype) and tuple(back.shape) == x.shape
            largest = np.abs(x).max(initial=1e-30)
            np.testing.assert_allclose(to_numpy(back), x, rtol=0, atol=tol * largest)
            results[library] = to_numpy(y)
        for y in results.values():
            np.testing.assert_allclose(y, results["numpy"], rtol=agree, atol=agree * np.abs(results["numpy"]).max(initial=0))
        assert np.array_equal(to_numpy(fitted.forward(x)[0]), results["numpy"])  # deterministic
        return results["numpy"]

    return check


@pytest.fixture
def normal():
    def draw(n, d, dtype=np.float32, seed=0):
        return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)

    return draw
