"""The native scale search: the same bits on every level and thread count, and as good as the array-API form."""

import numpy as np
import pytest

from compand import _native
from compand.fit import scale

LEVELS = ["scalar", "avx2", "avx512"]


def grids(bits):
    k = 1 << bits
    return [(k, -(k - 1) / 2)] + ([(k, -k / 2)] if bits > 1 else [])


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_and_threads_agree(bits):
    rng = np.random.default_rng(bits)
    for d in [*range(1, 131), 3000, 40000]:
        x = (rng.standard_normal((3, d)) * np.exp(rng.standard_normal((3, 1)) * 10)).astype(np.float32)
        group = int(rng.integers(1, d + 1))
        for k, z in grids(bits):
            found = []
            for level in LEVELS:
                if not _native.set_isa(level):
                    continue
                for threads in (1, 3):
                    _native.set_threads(threads)
                    found.append(scale.encode_native(x, group, k, z, "bfloat16", "mse"))
            for ids, s in found[1:]:
                np.testing.assert_array_equal(ids, found[0][0])
                np.testing.assert_array_equal(s.view(np.uint32), found[0][1].view(np.uint32))


@pytest.mark.parametrize("dtype", scale.SCALES)
@pytest.mark.parametrize("search", ["mse", "absmax"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_as_good_as_the_readable_form(bits, search, dtype):
    x = np.random.default_rng(0).standard_normal((50, 100), dtype=np.float32) ** 3
    x[0] = 0
    for k, z in grids(bits):
        ids, s = scale.encode_native(x, None, k, z, dtype, search)
        own = scale.fixed_zero(x, k, z, dtype, search)
        if search == "absmax":
            np.testing.assert_allclose(s, own, rtol={"bfloat16": 0.01, "float16": 0.002, "float32": 1e-6}[dtype])  # one step up
        np.testing.assert_array_equal(ids, scale.quantize(x, np.where(s == 0, np.float32(3e38), s), z, k))
        errors = [(((i + z) * a - x) ** 2).sum() for i, a in ((ids, s), (scale.quantize(x, own, z, k), own))]
        np.testing.assert_allclose(errors[0], errors[1], rtol=0.03)
        assert np.array_equal(s, np.float32(s).astype(scale_dtype(dtype)).astype(np.float32))


def scale_dtype(name):
    from compand.dtypes import dtype

    return dtype(name)


def test_hostile_arguments():
    x = np.zeros((2, 3), np.float32)
    for bad in ({"k": 1}, {"k": 257}, {"group": 0}, {"digits": 1}, {"digits": 25}):
        given = {"group": 3, "k": 4, "z": -2.0, "digits": 8, "smallest": 1e-38, "largest": 1e38, "search": True} | bad
        with pytest.raises(ValueError):
            _native.grid_encode(x, ratios=np.float32([1]), **given)
    x[0, 0], x[1, 1] = np.nan, np.inf
    ids, s = scale.encode_native(x, None, 16, -8.0, "bfloat16", "mse")
    assert ids.shape == (2, 3) and s.shape == (2, 1)
    assert scale.encode_native(np.zeros((0, 5), np.float32), 2, 16, -8.0, "bfloat16", "mse")[1].shape == (0, 3)
