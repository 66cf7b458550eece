"""Native layers whose keys and values someone else keeps, and those of encoders."""

import numpy as np
import pytest

from compand import _native


def test_native_sizes_are_checked():
    def plain(n, d):
        return _native.Plain(np.zeros((n, d), np.float32))

    one = np.ones(32, np.float32)
    weights = [plain(32, 32), plain(16, 32), plain(16, 32), plain(32, 32), plain(48, 32), plain(48, 32), plain(32, 48)]
    norms = [one, None, one, None, None, None]
    with pytest.raises(ValueError, match="multiple of 16"):
        _native.Layers(32, 48, 4, 2, 8, 1e-6, 1.0, False, 0.0)
    layers = _native.Layers(32, 48, 2, 1, 16, 1e-6, 1.0, False, 0.0)
    with pytest.raises(ValueError, match="7 weights"):
        layers.layer(weights[:5], [None] * 7, norms, 0)
    with pytest.raises(ValueError, match="q_proj"):
        layers.layer([weights[1], *weights[1:]], [None] * 7, norms, 0)
    layers.layer(weights, [None] * 7, norms, 0)
    x, starts, angles = np.ones((2, 3, 32), np.float32), np.zeros(2, np.int64), np.ones((1, 3, 8), np.float32)
    with pytest.raises(ValueError, match="no last norm"):
        _native.Pass(layers, x, starts)
    layers.ends(one)
    with pytest.raises(ValueError, match="starts"):
        _native.Pass(layers, x, starts[:1])
    kept = np.zeros((2, 2, 1, 3, 16), np.float32)
    steps = _native.Pass(layers, x, starts)
    with pytest.raises(ValueError, match="turns"):
        steps.attend(kept[0], kept[1], 0, 0)
    with pytest.raises(ValueError, match="angles"):
        steps.project(kept, angles[:, :2], angles)
    with pytest.raises(ValueError, match="keys and values"):
        steps.project(kept[:, :1].copy(), angles, angles)
    steps.project(kept, angles, angles)
    with pytest.raises(ValueError, match="not all"):
        steps.result()
    for keys, values, offset, position in ((kept[0], kept[1], 0, 1), (kept[0], kept[1], 1, 0), (kept[0][:, :, :2], kept[1][:, :, :2], 0, 0),
                                           (kept[0].astype(np.float64), kept[1], 0, 0), (kept[0], kept[1][:1], 0, 0)):
        with pytest.raises(ValueError, match="cache"):
            steps.attend(keys, values, offset, position)
    steps.attend(kept[0], kept[1], 0, 0)
    assert steps.result().shape == (2, 3, 32)


@pytest.mark.parametrize("level", ["scalar", "avx2", "avx512"])
@pytest.mark.parametrize("brain", [False, True])
def test_attention_has_the_same_bits_on_every_instruction_set(level, brain):
    """Odd numbers of keys, 3 heads of one kind, windows and starts; against float64."""
    rng = np.random.default_rng(1)
    heads, width, n, past = 6, 48, 11, 29
    d = heads * width
    one = np.ones(d, np.float32)

    def eye(n, d):
        return _native.Plain(np.eye(n, d, dtype=np.float32))

    zero = _native.Plain(np.zeros((16, d), np.float32)), _native.Plain(np.zeros((d, 16), np.float32))
    layers = _native.Layers(d, 16, heads, 2, width, 0.0, 0.2, False, 0.0)
    linear = [eye(d, d), eye(2 * width, d), eye(2 * width, d), eye(d, d), zero[0], zero[0], zero[1]]
    layers.layer(linear, [None] * 7, [one, None, one, None, None, None], 17)
    layers.ends(one)
    x = rng.standard_normal((2, n, d), dtype=np.float32)
    x /= np.sqrt((x ** 2).mean(-1, keepdims=True))
    cache = rng.standard_normal((2, 2, 2, past + n, width), dtype=np.float32)
    if brain:
        cache = (cache.view(np.uint32) >> 16).astype(np.uint16)
    kept = np.zeros((2, 2, 2, n, width), cache.dtype)
    starts = np.array([0, 33])

    def run():
        steps = _native.Pass(layers, x, starts)
        steps.project(kept, np.ones((1, n, width // 2), np.float32), np.zeros((1, n, width // 2), np.float32))
        steps.attend(cache[0], cache[1], 0, past)
        return steps.result()

    before = _native.isa()
    if not _native.set_isa(level):
        pytest.skip(f"no {level} here")
    ours = run()
    _native.set_isa("scalar")
    assert np.array_equal(run(), ours)
    _native.set_isa(before)
    keys, values = (cache.astype(np.uint32) << 16).view(np.float32).astype(np.float64) if brain else cache.astype(np.float64)
    want = x.astype(np.float64)
    for b in range(2):
        for h in range(heads):
            for i in range(n):
                seen = np.arange(max(past + i - 16, starts[b]), past + i + 1)
                own = slice(h * width, (h + 1) * width)
                if len(seen):
                    s = np.exp(0.2 * keys[b, h // 3, seen] @ x[b, i, own])
                    want[b, i, own] = x[b, i, own] + s @ values[b, h // 3, seen] / s.sum()
    want /= np.sqrt((want ** 2).mean(-1, keepdims=True))
    assert np.abs(ours - want).max() < 1e-4


def test_encoder_sizes_are_checked():
    square, up, down = (_native.Plain(np.zeros(s, np.float32)) for s in ((32, 32), (48, 32), (32, 48)))
    one = np.ones(32, np.float32)
    with pytest.raises(ValueError, match="sizes"):
        _native.Encoder(32, 48, 5, 1e-6, False)
    layers = _native.Encoder(32, 48, 2, 1e-6, False)
    for weights, norms, match in (([square] * 5, [one] * 4, "6 weights"), ([square] * 6, [one] * 4, "intermediate"),
                                  ([square] * 4 + [up, down], [one] * 3 + [one[:5]], "norm")):
        with pytest.raises(ValueError, match=match):
            layers.layer(weights, [None] * 6, norms)
    layers.layer([square] * 4 + [up, down], [None] * 6, [one] * 4)
    with pytest.raises(ValueError, match="mask"):
        layers.forward(np.ones((2, 3, 32), np.float32), np.ones((2, 4), bool))
    assert layers.forward(np.ones((0, 3, 32), np.float32), np.ones((0, 3), bool)).shape == (0, 3, 32)
    with pytest.raises(ValueError, match="before"):
        layers.layer([square] * 4 + [up, down], [None] * 6, [one] * 4)


def encoded(x, seen, layer, heads):
    """A layer of an encoder in float64: the rows of x that are seen."""
    (q, k, v, o, up, down), biases, (w0, b0, w1, b1) = layer

    def norm(x, w, b):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + 1e-5) * w + b

    out = np.zeros_like(x)
    for b, own in enumerate(seen):
        h = x[b, own]
        a = np.zeros_like(h)
        for part in np.array_split(np.arange(h.shape[1]), heads):
            s = (h @ q[part].T + biases[0][part]) @ (h @ k[part].T + biases[1][part]).T / np.sqrt(len(part))
            s = np.exp(s - s.max(-1, keepdims=True)) if s.size else s
            a[:, part] = s / s.sum(-1, keepdims=True) @ (h @ v[part].T + biases[2][part])
        h = norm(h + a @ o.T + biases[3], w0, b0)
        u = h @ up.T + biases[4]
        u = 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u ** 3)))
        out[b, own] = norm(h + u @ down.T + biases[5], w1, b1)
    return out


@pytest.mark.parametrize("level", ["scalar", "avx2", "avx512"])
@pytest.mark.parametrize("tanh", [False, True])
def test_encoder_has_the_same_bits_on_every_instruction_set(level, tanh):
    """Odd widths, 37 to 0 tokens a sentence; against float64 (gelu by tanh)."""
    rng = np.random.default_rng(2)
    d, ff, heads, n = 42, 75, 3, 37

    def some(*shape):
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.3)

    weights = [some(d, d) for _ in range(4)] + [some(ff, d), some(d, ff)]
    layer = weights, [some(size) for size in (d, d, d, d, ff, d)], [some(d) + 1 for _ in range(4)]
    layers = _native.Encoder(d, ff, heads, 1e-5, tanh)
    layers.layer([_native.Plain(w) for w in layer[0]], *layer[1:])
    x, seen = some(7, n, d) * 3, rng.random((7, n)) < np.array([1, 0.5, 0, 0.1, 0.9, 0.02, 1])[:, None]
    before = _native.isa()
    if not _native.set_isa(level):
        pytest.skip(f"no {level} here")
    found = []
    for threads in (1, 3):
        _native.set_threads(threads)
        found.append(layers.forward(x, seen))
    _native.set_threads(0)
    _native.set_isa("scalar")
    assert np.array_equal(found[0], found[1]) and np.array_equal(layers.forward(x, seen), found[0])
    _native.set_isa(before)
    want = encoded(x.astype(np.float64), seen, layer, heads)
    assert np.abs(found[0] - want).max() < (1e-4 if tanh else 3e-2) and not found[0][~seen].any()
