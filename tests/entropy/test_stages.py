"""rans and mixed as stages of a spec."""

import numpy as np
import pytest

from compand.entropy.mixed import Mixed
from compand.entropy.rans import Rans
from compand.errors import CorruptError
from compand.symbols import id_dtype

STAGES = (Rans(), Rans(1), Mixed())


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("k", [1, 2, 3, 16, 256, 257, 65536, 65537, 1 << 20, (1 << 32) - 1, 1 << 32])
def test_any_alphabet(stage, k):
    rng = np.random.default_rng(k)
    for shape in ((0, 0), (3, 0), (1, 1), (7, 5), (100, 33)):
        ids = (rng.random(shape) ** 3 * k).astype(id_dtype(k))
        data = stage.encode(ids, k)
        assert data.dtype == np.uint8
        got = stage.decode(data, shape, k)
        assert got.shape == shape and got.dtype == id_dtype(k) and np.array_equal(got, ids)


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_damage(stage):
    rng, ids = np.random.default_rng(0), np.arange(600, dtype=np.uint32).reshape(30, 20) ** 3
    data = stage.encode(ids, 1 << 32)
    for size in (0, 3, 8, 20, data.size // 2):
        with pytest.raises(CorruptError):
            stage.decode(data[:size], ids.shape, 1 << 32)
    for _ in range(200):
        bad = data.copy()
        bad[rng.integers(0, bad.size)] ^= 1 << rng.integers(0, 8)
        try:
            assert stage.decode(bad, ids.shape, 1 << 32).shape == ids.shape
        except CorruptError:
            pass
