"""Native matrices and the native decoder at odd sizes, against NumPy: the same bits on every level and number of threads."""

import numpy as np
import pytest

import compand
from compand import _native
from compand.op.matmul import matrix

LEVELS = ["scalar", "avx2", "avx512"]


def everywhere(run):
    """What run() gives on every level and with 1 and 3 threads; they must be equal."""
    found = []
    for level in LEVELS:
        for threads in (1, 3):
            if _native.set_isa(level):
                _native.set_threads(threads)
                found.append(run())
    assert all(np.array_equal(found[0].view(np.uint32), f.view(np.uint32)) for f in found[1:])
    return found[0]


@pytest.mark.parametrize("n, d, m", [(1, 1, 1), (17, 63, 1), (33, 130, 5), (50, 257, 19), (16, 64, 4), (5, 1000, 33)])
def test_matrices(n, d, m):
    rng = np.random.default_rng(n)
    w, x = rng.standard_normal((n, d), dtype=np.float32), rng.standard_normal((m, d), dtype=np.float32)
    brain = w.astype(np.float32).view(np.uint32) >> 16
    half = (brain << 16).view(np.float32)
    kinds = {"float32": (_native.Plain(w), w), "bfloat16": (_native.Plain(brain.astype(np.uint16)), half),
             "called": (_native.Called(n, d, lambda a: a @ w.T, lambda i: w[i]), w),
             "sum": (_native.Added([_native.Plain(w), _native.Plain(2 * w)]), 3 * w)}
    for spec in ("int:4:group=64", "int:3:group=16", "hadamard:odd=pad,int:8", "hadamard:odd=overlap,trellis:3:memory=12",
                 "trellis:4:memory=12", "trellis:1:memory=12:factors=2", "int:5+int:5", "float:e2m1:scale=mx", "table:16"):
        if spec == "table:16" and w.size < 16:
            continue
        codes = compand.Codec(spec).fit(w).encode(w)
        kinds[spec] = matrix(codes), codes.codec.decode(codes)
    for name, (native, full) in kinds.items():
        assert native.shape == (n, d)
        y = everywhere(lambda native=native: native(x))
        used = compand.array.cast(compand.array.cast(x, "bfloat16"), "float32") if name == "bfloat16" else x  # activations are rounded too
        assert np.abs(y - used @ full.T).max() <= (1e-4 if name in ("float32", "bfloat16", "called", "sum") else 0.1) * np.sqrt(d) * 8, name
        rows = np.stack([native.row(i) for i in range(n)])
        np.testing.assert_allclose(rows, full, rtol=0, atol=(1e-4 if name == "table:16" else 2e-6) * max(np.abs(full).max(), 1))
        one = np.concatenate([native(x[i:i + 1]) for i in range(m)])
        assert name == "called" or np.array_equal(y, one), name
    assert np.array_equal(kinds["float32"][0](x[:0]), np.zeros((0, n), np.float32))


def test_wrong_matrices_are_refused():
    w = _native.Plain(np.ones((3, 8), np.float32))
    with pytest.raises(ValueError, match="fit"):
        w(np.ones((1, 7), np.float32))
    with pytest.raises(IndexError):
        w.row(3)
    with pytest.raises(ValueError, match="same shape"):
        _native.Added([w, _native.Plain(np.ones((3, 9), np.float32))])
    signs = np.ones(8, np.float32)
    for d, rounds in ((9, []), (8, [(0, signs, [3, 5])]), (8, [(0, signs, [8, 8])]), (8, [(1, signs, [8])]), (8, [(0, signs[:4], [8])])):
        with pytest.raises(ValueError):
            _native.Rotated(w, d, rounds)
    with pytest.raises(ValueError, match="shape"):
        _native.Called(3, 8, lambda x: np.ones((1, 2), np.float32), lambda i: i)(np.ones((1, 8), np.float32))
    with pytest.raises(ZeroDivisionError):
        _native.Called(3, 8, lambda x: 1 / 0, lambda i: i)(np.ones((1, 8), np.float32))


def small(rng, *, d=20, ff=33, heads=3, shared=1, width=6, vocabulary=11, context=40, layers=2, window=0, gelu=False, brain=False,
          extra=False, cap=0.0):
    """A decoder of random weights, and the same as a function in NumPy."""
    def random(*shape):
        return rng.standard_normal(shape, dtype=np.float32) * 0.4

    rate = 100.0 ** (-np.arange(0, width, 2) / width)
    turn = np.arange(context)[:, None] * rate
    cos, sin = np.cos(turn).astype(np.float32), np.sin(turn).astype(np.float32)
    native = _native.Decoder(d, ff, heads, shared, width, context, 1e-5, 0.3, gelu, cap, cap, 1.5, brain)
    shapes = [(heads * width, d), (shared * width, d), (shared * width, d), (d, heads * width), (ff, d), (ff, d), (d, ff)]
    parts = []
    for _ in range(layers):
        w, b = [random(*s) for s in shapes], [random(s[0]) if extra else None for s in shapes]
        norms = [random(d) + 1, random(d) + 1 if extra else None, random(d) + 1, random(d) + 1 if extra else None,
                 random(width) + 1 if extra else None, random(width) + 1 if extra else None]
        native.layer([_native.Plain(a) for a in w], b, norms, cos.ravel(), sin.ravel(), window)
        parts.append((w, b, norms))
    table, last = random(vocabulary, d), random(d) + 1
    native.ends(_native.Plain(table), last, _native.Plain(table))

    def norm(x, weight):
        return x if weight is None else x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight

    def reference(ids):
        x = table[ids].astype(np.float64) * 1.5
        t, half = len(ids), width // 2
        for w, b, norms in parts:
            times = [lambda v, w=w[i], b=b[i]: v @ w.T.astype(np.float64) + (0 if b is None else b) for i in range(7)]
            h = norm(x, norms[0])
            q, k, v = (times[i](h).reshape(t, -1, width) for i in range(3))
            q, k = norm(q, norms[4]), norm(k, norms[5])
            q, k = (np.concatenate([a[..., :half] * cos[:t, None] - a[..., half:] * sin[:t, None],
                                    a[..., half:] * cos[:t, None] + a[..., :half] * sin[:t, None]], -1) for a in (q, k))
            k, v = (np.repeat(a, heads // shared, axis=1) for a in (k, v))
            s = np.einsum("ihw,jhw->hij", q, k) * 0.3
            s = np.tanh(s / cap) * cap if cap else s
            i, j = np.mgrid[:t, :t]
            s = np.where((j > i) | (window and j <= i - window), -np.inf, s)
            p = np.exp(s - s.max(-1, keepdims=True))
            a = np.einsum("hij,jhw->ihw", p / p.sum(-1, keepdims=True), v).reshape(t, -1)
            x = x + norm(times[3](a), norms[1])
            h = norm(x, norms[2])
            g = times[4](h)
            g = 0.5 * g * (1 + np.tanh(0.7978845608 * (g + 0.044715 * g ** 3))) if gelu else g / (1 + np.exp(-g))
            x = x + norm(times[6](g * times[5](h)), norms[3])
        y = norm(x, last) @ table.T
        return np.tanh(y / cap) * cap if cap else y

    return native, reference


@pytest.mark.parametrize("options", [{}, dict(heads=4, shared=2, width=16, d=64, gelu=True), dict(window=5, extra=True, cap=4.0),
                                     dict(heads=2, shared=2, width=34, d=17, ff=1, context=1 << 8)], ids=str)
def test_decoder_is_numpy_s(options):
    rng = np.random.default_rng(1)
    native, reference = small(rng, **options)
    ids = rng.integers(0, 11, 35)

    def run():
        native.rewind(0)
        return native.forward(ids, True)

    y = everywhere(run)
    full = reference(ids)
    assert np.abs(y - full).max() < 1e-3 * np.abs(full).max()
    native.rewind(0)
    pieces = [native.forward(part, True) for part in np.split(ids, [1, 2, 9, 30])]
    assert np.array_equal(np.concatenate(pieces), y) and native.position == 35 and native.cache_bytes > 0


def test_narrow_cache_is_near():
    native, reference = small(np.random.default_rng(2), brain=True, width=32, d=64)
    ids = np.arange(30) % 11
    y = everywhere(lambda: (native.rewind(0), native.forward(ids, True))[1])
    full = reference(ids)
    assert 1e-6 < np.abs(y - full).max() / np.abs(full).max() < 0.03


def test_wrong_decoders_are_refused():
    native, _ = small(np.random.default_rng(3))
    ids = np.zeros(3, np.int64)
    for bad in (ids[:0], ids - 1, ids + 11, np.zeros(41, np.int64)):
        with pytest.raises(ValueError):
            native.forward(bad)
    with pytest.raises(ValueError, match="back"):
        native.rewind(1)
    for sizes in ((0, 1, 1, 1, 2, 4), (8, 8, 3, 2, 2, 4), (8, 8, 2, 2, 3, 4), (8, 8, 1, 1, 2, 0), (1 << 40, 8, 1, 1, 2, 4)):
        with pytest.raises(ValueError, match="sizes"):
            _native.Decoder(*sizes, 1e-5, 1.0, False, 0.0, 0.0, 1.0, False)
    empty = _native.Decoder(8, 8, 1, 1, 8, 4, 1e-5, 1.0, False, 0.0, 0.0, 1.0, False)
    with pytest.raises(ValueError, match="no layers"):
        empty.forward(ids)
    w = _native.Plain(np.ones((8, 8), np.float32))
    one, angle = np.ones(8, np.float32), np.ones(16, np.float32)
    norms = [one, None, one, None, None, None]
    wide, free = _native.Plain(np.ones((8, 9), np.float32)), [None] * 7
    for weights, biases, own, cos in (([w] * 6, free, norms, angle), ([w] * 7, [one[:3]] * 7, norms, angle),
                                      ([w] * 7, free, [None] * 6, angle), ([w] * 7, free, norms, angle[:3]),
                                      ([w] * 6 + [wide], free, norms, angle)):
        with pytest.raises(ValueError):
            empty.layer(weights, biases, own, cos, angle, 0)


def test_a_fault_of_a_product_in_python_comes_through():
    native = _native.Decoder(8, 8, 1, 1, 8, 4, 1e-5, 1.0, False, 0.0, 0.0, 1.0, False)
    w, one = _native.Plain(np.ones((8, 8), np.float32)), np.ones(8, np.float32)
    native.layer([w] * 7, [None] * 7, [one, None, one, None, None, None], None, None, 0)
    native.ends(_native.Called(8, 8, lambda x: x, lambda i: 1 / 0), one, w)
    with pytest.raises(ZeroDivisionError):
        native.forward(np.zeros(3, np.int64))


def test_read_is_the_exclusive_or():
    for size in (0, 1, 3, 255, 256, 1 << 20, (1 << 20) + 77):
        a = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
        words = np.concatenate([a, np.zeros(-size % 4, np.uint8)]).view(np.uint32)
        assert _native.read(a) == np.bitwise_xor.reduce(words, initial=0)
