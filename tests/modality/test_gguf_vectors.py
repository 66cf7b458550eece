"""IQ2 and IQ3 written: bytes that the reader gives back, the nearest codes, descent that never loses."""

import itertools

import numpy as np
import pytest

pytest.importorskip("gguf", reason="compand[gguf] is not installed")

from compand.fit.descend import descend
from compand.modality.gguf_grid import grid, quantize, writable
from compand.modality.gguf_types import TYPES, dequantize
from compand.modality.gguf_vectors import NAMES, Vectors


@pytest.mark.parametrize("name", NAMES)
def test_any_fields_come_back(name):
    g, rng, n = grid(name), np.random.default_rng(0), 40
    signs = rng.integers(0, 256, (n, 32), dtype=np.uint8)
    if g.even:
        odd = np.unpackbits(signs[..., None], axis=2).sum(axis=2) & 1
        signs ^= (odd << 7).astype(np.uint8)
    f = Vectors(rng.integers(0, len(g.table), (n, 256 // g.table.shape[1])).astype(np.uint16), signs,
                rng.uniform(0, 2, n).astype(np.float16).astype(np.float32), rng.integers(0, 16, (n, 256 // g.sub)).astype(np.int16))
    blocks = g.pack(f)
    assert blocks.shape == (n, TYPES[g.kind].nbytes) and blocks.dtype == np.uint8 and name in writable()
    np.testing.assert_array_equal(dequantize(g.kind, blocks), g.decode(f))


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ3_XXS", "IQ3_S"])
def test_the_nearest_codes(name):
    g, rng = grid(name), np.random.default_rng(1)
    x, s, weight = rng.standard_normal((3, 8)).astype(np.float32), np.float32([0.05, 0.07, 0.2]), rng.uniform(0.5, 2, 8).astype(np.float32)
    _, _, found = g.nearest(x, s, weight)
    width = g.table.shape[1]
    for row, unit, own in zip(x, s, found, strict=True):
        best = np.inf
        for signs in itertools.product((1, -1), repeat=8):
            if g.even and signs.count(-1) % 2:
                continue
            e = sum((weight[c:c + width] * (unit * np.array(signs[c:c + width]) * g.table - row[c:c + width]) ** 2).sum(axis=1).min()
                    for c in range(0, 8, width))
            best = min(best, e)
        assert (weight * (unit * own - row) ** 2).sum() == pytest.approx(best, rel=1e-4)
        assert not g.even or (own < 0).sum() % 2 == 0


@pytest.mark.parametrize("name", NAMES)
def test_descent(name):
    g, rng = grid(name), np.random.default_rng(0)
    x = rng.standard_normal((999, 16)) @ rng.standard_normal((16, 512)) + 0.3 * rng.standard_normal((999, 512))
    w, h = rng.standard_normal((32, 512)).astype(np.float32), x.T @ x / 999

    def lost(f):
        return np.square((g.decode(f).reshape(w.shape) - w) @ x.T).mean()

    plain = lost(g.fit(w.reshape(-1, 256), np.tile(np.diag(h).reshape(2, 256), (32, 1))))
    first, second = (descend(g, w, h, sweeps=n) for n in (0, 2))
    assert lost(first) < 0.5 * plain and lost(second) < 0.95 * lost(first)
    np.testing.assert_array_equal(dequantize(g.kind, g.pack(second)), g.decode(second))


@pytest.mark.parametrize("name", NAMES)
def test_odd_weights(name):
    for x in (np.zeros((2, 256)), np.full((1, 256), 1e38), np.full((1, 256), 1e-30), -np.ones((1, 512))):
        y = dequantize(grid(name).kind, quantize(name, x).reshape(-1, TYPES[grid(name).kind].nbytes))
        assert np.isfinite(y).all() and (np.abs(x).max() != 1 or np.abs(y.reshape(x.shape) - x).max() < 0.5)
