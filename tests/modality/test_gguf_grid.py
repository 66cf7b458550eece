"""GGUF types written: what is packed is what the readers see, errors are near what the field's own quantizer leaves, files come back."""

import numpy as np
import pytest

from compand import CompandError
from compand.errors import InputError, UnsupportedError
from compand.modality import detect
from compand.modality.gguf_grid import GRIDS, Fields, grid, quantize
from compand.modality.gguf_types import TYPES, dequantize
from compand.modality.gguf_write import write_gguf


def random_fields(g, n, seed=0):
    rng = np.random.default_rng(seed)
    subs = g.values // g.sub

    def ints(span):
        return rng.integers(span[0], span[1] + 1, (n, subs)).astype(np.int16) if span else np.ones((n, subs), np.int16)

    d, m = (rng.uniform(0.01, 1, n).astype(np.float16).astype(np.float32) for _ in range(2))
    return Fields(rng.integers(0, len(g.levels), (n, g.values)).astype(np.uint8), d, m if g.offset else np.zeros_like(m),
                  ints(g.scales), ints(g.mins))


@pytest.mark.parametrize("name", GRIDS)
def test_every_field_comes_back_through_the_bytes(name):
    g = grid(name)
    f = random_fields(g, 200)
    blocks = g.pack(f)
    assert blocks.dtype == np.uint8 and blocks.shape == (200, TYPES[g.kind].nbytes)
    np.testing.assert_array_equal(dequantize(g.kind, blocks), g.decode(f))


@pytest.mark.parametrize("name", GRIDS)
def test_nearest_is_nearest(name):
    g = grid(name)
    x = np.random.default_rng(1).uniform(g.levels[0] - 3, g.levels[-1] + 3, (4, 500)).astype(np.float32)
    s, m = np.float32([[1], [-0.7], [2], [1]]), np.float32([[0], [0.5], [0], [-3]])
    got = s * g.levels[g.nearest(x, s, m)] - m
    best = np.abs((s[..., None] * g.levels - m[..., None]) - x[..., None]).min(axis=-1)
    np.testing.assert_allclose(np.abs(got - x), best, atol=1e-4)


BOUNDS = {"Q4_0": .0082, "Q4_1": .0058, "Q5_0": .0021, "Q5_1": .0014, "Q8_0": 4e-5, "Q2_K": .079, "Q3_K": .025, "Q4_K": .0060,
          "Q5_K": .0015, "Q6_K": .00037, "IQ4_NL": .0060, "IQ4_XS": .0061, "TQ2_0": .42}


@pytest.mark.parametrize("name", GRIDS)
def test_error_of_gaussian_weights(name):
    g = grid(name)
    x = np.random.default_rng(2).standard_normal((64, 1024)).astype(np.float32)
    error = np.square(dequantize(g.kind, quantize(name, x).reshape(-1, TYPES[g.kind].nbytes)).reshape(x.shape) - x).mean()
    assert 0.5 * BOUNDS[name] < error < 1.03 * BOUNDS[name]
    scaled = quantize(name, x * 1e-3).reshape(-1, TYPES[g.kind].nbytes)  # float16 scales of small weights are coarser
    assert np.square(dequantize(g.kind, scaled).reshape(x.shape) * 1e3 - x).mean() < 1.2 * BOUNDS[name]


@pytest.mark.parametrize("name", ["Q4_0", "Q2_K", "Q3_K", "Q4_K", "IQ4_XS"])
def test_weights_move_the_error_where_it_counts_less(name):
    g = grid(name)
    x = np.random.default_rng(3).standard_normal((64, 256)).astype(np.float32)
    v = np.where(np.arange(256) % 4 == 0, 100, 1).astype(np.float32)
    plain, weighted = (dequantize(g.kind, quantize(name, x, w).reshape(-1, TYPES[g.kind].nbytes)).reshape(x.shape) for w in (None, v))
    assert (v * (weighted - x) ** 2).mean() < 0.9 * (v * (plain - x) ** 2).mean()


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 3e4, -1e-8, 1e38])
def test_odd_rows(name, value):
    g = grid(name)
    y = dequantize(g.kind, quantize(name, np.full((2, g.values), value, np.float32)).reshape(-1, TYPES[g.kind].nbytes))
    assert np.isfinite(y).all()
    if 1e-3 < abs(value) < 1e4:
        assert np.abs(y - value).max() < 0.02


def test_faults():
    with pytest.raises(InputError, match="whole blocks of 256"):
        quantize("Q4_K", np.zeros((2, 640), np.float32))
    with pytest.raises(InputError, match="finite"):
        quantize("Q8_0", np.full((2, 32), np.nan, np.float32))
    with pytest.raises(UnsupportedError, match="Q4_K"):
        grid("IQ1_S")


def test_a_new_file(tmp_path):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((6, 512)).astype(np.float32)
    ready = quantize("Q3_K", x)
    metadata = {"general.architecture": "llama", "llama.block_count": 3, "rope": 1e4, "flag": True, "words": ["a", "ä"], "big": -5,
                "none": [], "numbers": np.arange(3), "small": np.int32([1, -1])}
    write_gguf(tmp_path / "x.gguf", {"a": ("F32", x), "b": ("BF16", x[0]), "c": ("Q4_K", x), "d": ("Q3_K", ready)}, metadata)
    with detect(tmp_path / "x.gguf") as source:
        got = {i.name: i.load() for i in source.items()}
        assert {k: (v.tolist() if isinstance(v, np.ndarray) else v) for k, v in source.metadata.items()} \
            == metadata | {"numbers": [0, 1, 2], "small": [1, -1]}
    np.testing.assert_array_equal(got["a"], x)
    assert got["c"].shape == got["d"].shape == x.shape and got["b"].shape == (512,)
    np.testing.assert_array_equal(got["d"].reshape(-1, 256), dequantize(11, ready.reshape(-1, 110)))
    for bad in ({"a": ("Q9", x)}, {"a": ("Q4_K", ready)}, {"a": ("F32", np.float32(1))}):
        with pytest.raises(CompandError):
            write_gguf(tmp_path / "y.gguf", bad)
    for bad in ({"k": [1, "a"]}, {"k": None}, {"k": 1 << 70}):
        with pytest.raises(InputError):
            write_gguf(tmp_path / "y.gguf", {}, bad)
    assert not (tmp_path / "y.gguf").exists()
