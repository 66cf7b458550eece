import numpy as np
import pytest

import compand
from compand.quantizer.trellis import FACTORS, ROWS, Trellis, levels
from compand.stage import Form

torch = pytest.importorskip("torch")


def plain(q, parts, n, d):
    """The decoding that the module's text describes, one value at a time."""
    y = np.zeros((n, d), np.float32)
    bits = np.unpackbits(parts["bits"], bitorder="little").astype(np.int64)
    at = 0
    for top in range(0, n, ROWS):
        rows = min(ROWS, n - top)
        own = bits[at:at + rows * d * q.bits]
        at += len(own)
        order = [(r, c) for pair in range(0, d, 2) for r in range(rows) for c in range(pair, min(pair + 2, d))]
        for i, (r, c) in enumerate(order):
            window = sum(int(own[(i * q.bits + b) % len(own)]) << b for b in range(16))
            y[top + r, c] = sum((p & 255) + (p >> 8) - 255 for p in (window * m % 65536 for m in q.multipliers))
    group = q.group or d
    return y * np.repeat(parts["scale"].astype(np.float32), group, axis=1)[:, :d]


@pytest.mark.parametrize("spec", ["trellis:1", "trellis:2:memory=12", "trellis:3:group=5", "trellis:4:factors=2", "trellis:3:memory=16"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 1), (5, 7), (16, 4), (17, 1), (33, 15), (40, 2)])
def test_decodes_as_documented(spec, shape):
    q = compand.parse(spec)
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    walk = q.walk(x)
    first = walk.block(x, 0, shape[1])
    parts = q.encode(x)
    y = q.decode(parts, Form(*shape))
    np.testing.assert_array_equal(y, plain(q, parts, *shape))
    assert np.square(y - x).sum() <= np.square(first - x).sum() * 1.01
    assert parts["bits"].nbytes == -(-shape[0] * shape[1] * q.bits // 8)


def test_factors_are_sound():
    for (many, memory, bits), (multipliers, ratio) in FACTORS.items():
        stage = Trellis(bits, factors=many, memory=memory)
        table = levels(stage)
        assert len(multipliers) == many and abs(table.mean()) < 16 and np.abs(table.astype(int)).max() * stage.fullscale <= 32640
        assert all(0 < m < 65536 and m % (1 << (16 - memory)) == 0 for m in multipliers) and 0.8 < ratio < 1.4


@pytest.mark.parametrize(("spec", "most"), [("trellis:1", 0.55), ("trellis:2", 0.75), ("trellis:3", 1.0), ("trellis:4", 1.45),
                                            ("trellis:2:memory=16", 0.7), ("trellis:3:memory=16:factors=2", 0.6)])
def test_distance_to_the_bound_of_a_gaussian(spec, most):
    x = np.random.default_rng(0).standard_normal((32, 512), dtype=np.float32)
    q = compand.parse(spec)
    y = q.decode(q.encode(x), Form(*x.shape))
    assert 10 * np.log10(np.square(y - x).mean() / np.square(x).mean() * 4 ** q.bits) < most


def test_extremes():
    x = np.random.default_rng(0).standard_normal((20, 50), dtype=np.float32)
    for factor in (0, 1e30, 1e-30):
        z = x * np.float32(factor)
        z[3] = 0
        z[4, 7] = 1000 * factor
        y = Trellis(3, memory=12).decode(Trellis(3, memory=12).encode(z), Form(*z.shape))
        assert np.isfinite(y).all() and (y[3] == 0).all()
        assert np.linalg.norm(y.astype(float) - z) <= np.linalg.norm(z.astype(float))


def test_torch_and_blocks_of_rows():
    x = np.random.default_rng(0).standard_normal((70, 16384), dtype=np.float32)
    codec = compand.Codec("trellis:1:memory=12")
    codes = codec.encode(x)
    assert len(codes.blocks) == 2 and codes.part("0.bits" if "0.bits" in codes.blocks[0].parts else "bits").nbytes == 70 * 16384 // 8
    y = codec.decode(codes)
    np.testing.assert_array_equal(codec.decode(codes, rows=slice(65, 70)), y[65:])
    t = codec.decode(codec.encode(torch.from_numpy(x[:16])), like=torch.zeros(1))
    np.testing.assert_array_equal(t.numpy(), codec.decode(codec.encode(x[:16])))


def test_blocks_of_columns_from_the_last_to_the_first():
    x = np.random.default_rng(0).standard_normal((21, 101), dtype=np.float32)
    q = Trellis(2, memory=12, group=50)
    walk, y = q.walk(x), np.empty_like(x)
    for lo, hi in ((96, 101), (64, 96), (0, 64)):
        y[:, lo:hi] = walk.block(x, lo, hi)
    parts = {"bits": walk.parts()["bits"], "scale": walk.parts()["scale"]}
    np.testing.assert_array_equal(q.decode(parts, Form(*x.shape)), y)
    assert np.square(y - x).mean() < 0.11
