"""NumPy as an array-API library gives what array_api_compat's does, without loading it."""

import subprocess
import sys

import array_api_compat
import numpy as np
import pytest

from compand import array, numpy_api

THEIRS = array_api_compat.array_namespace(np.zeros(0))
RNG = np.random.default_rng(0)
FLOATS = np.concatenate([RNG.standard_normal(97), [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40]]).astype(np.float32)
ARRAYS = (FLOATS, FLOATS.astype(np.float64), FLOATS[None, :10] * np.ones((3, 1), np.float32), np.arange(-5, 90, dtype=np.int8),
          RNG.integers(0, 255, (7, 9), np.uint8), np.zeros((0, 4), np.float32), np.float32(3.25)[()])


def same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("x", ARRAYS, ids=lambda x: f"{x.dtype}{list(x.shape)}")
def test_functions_agree(x):
    for low, high in ((None, None), (0, None), (None, 0), (-1, 1), (-300, 300), (-0.0, 0.5), (np.float64(0.1), np.float32(2))):
        if x.dtype.kind in "iu" and (isinstance(low, float) or x.dtype == np.uint8):
            continue
        ours, theirs = numpy_api.clip(x, low, high), THEIRS.clip(x, low, high)  # theirs may turn -0 into 0
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs, equal_nan=x.dtype.kind == "f"), (low, high)
    assert same(numpy_api.astype(x, np.float64), THEIRS.astype(x, np.float64))
    assert numpy_api.astype(x, x.dtype, copy=False) is x
    if x.ndim:
        for descending in (False, True):
            assert same(numpy_api.sort(x, descending=descending), THEIRS.sort(x, descending=descending))
            order = numpy_api.argsort(x, axis=0, descending=descending)
            assert same(order, THEIRS.argsort(x, axis=0, descending=descending))
        order = numpy_api.argsort(x)
        assert same(numpy_api.take_along_axis(x, order), THEIRS.take_along_axis(x, order))


def test_clipped_zeros_keep_their_sign():
    assert np.signbit(numpy_api.clip(np.float32([-0.0, 0.0] * 40), 0, 0.0)).tolist() == [True, False] * 40


def test_bounds_may_be_arrays():
    x, low = RNG.standard_normal((5, 1)).astype(np.float32), RNG.standard_normal(4)
    assert same(numpy_api.clip(x, low), THEIRS.clip(x, low)) and numpy_api.clip(x, low).shape == (5, 4)


def test_coding_loads_nothing_more():
    code = ("import sys, numpy as np, compand; x = np.ones((9, 8), np.float32); c = compand.Codec('hadamard,int:4:group=8');"
            "c.decode(c.encode(x)); print([m for m in ('array_api_compat.numpy', 'numpy.f2py', 'numpy.testing') if m in sys.modules])")
    if array._NUMPY is not numpy_api:
        pytest.skip("before NumPy 2.1 array_api_compat's is used")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
