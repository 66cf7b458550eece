"""ranks keeps every bit, and products on it are those of the bfloat16 weights, on every instruction set."""

import dataclasses

import numpy as np
import pytest

import compand
from compand import _native
from compand.codes import Block
from compand.dtypes import dtype
from compand.errors import CompandError, CorruptError, SpecError
from compand.op.matmul import matrix

LEVELS = [level for level in ("scalar", "avx2", "avx512") if _native.set_isa(level)]
_native.set_isa("auto")
BRAIN = dtype("bfloat16")


def bits(n, d, escapes, seed=0):
    """bfloat16 words; of these exponents, a share is anywhere (infinities and NaN too)."""
    rng = np.random.default_rng(seed)
    words = rng.standard_normal((n, d)).astype(np.float32).astype(BRAIN).view(np.uint16)
    return np.where(rng.random((n, d)) < escapes, rng.integers(0, 1 << 16, (n, d), dtype=np.uint16), words)


def finite(words):
    return np.where((words & 0x7F80) == 0x7F80, words & 0x807F, words)


def broken(codes, **parts):
    block = codes.blocks[0]
    return dataclasses.replace(codes, blocks=(Block(block.rows, {**block.parts, **parts}),))


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
@pytest.mark.parametrize("spec", ["ranks", "ranks,rans"])
def test_any_bits_come_back(name, spec):
    rng = np.random.default_rng(0)
    for shape in ((0, 3), (1, 1), (7, 5), (300, 64), (9,), (), (3, 2, 4), (2, 70000)):
        x = np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype(name).itemsize), dtype(name)).reshape(shape)
        y = compand.Codec.decompress(compand.Codec(spec).compress(x))
        assert y.dtype == x.dtype and y.shape == x.shape and y.tobytes() == x.tobytes()


def test_the_rate_and_other_dtypes():
    w = bits(2048, 1024, 0).view(BRAIN)
    codes = compand.Codec("ranks").encode(w)
    assert len(codes.blocks) == 2 and 12 < codes.bits < 12.05
    assert codes.codec.decode(codes, rows=slice(1000, 1100)).tobytes() == w[1000:1100].tobytes()
    for other in (np.float16, np.int16, np.float64):
        with pytest.raises(SpecError, match="planes,rans"):
            compand.Codec("ranks").encode(np.ones((2, 3), other))


@pytest.mark.parametrize("escapes", [0, 0.002, 0.3, 1])
def test_products_are_those_of_bfloat16(escapes):
    rng = np.random.default_rng(1)
    for n, d in ((1, 1), (17, 63), (33, 64), (16, 65), (9, 200), (5, 257), (40, 130), (3, 2048)):
        words = finite(bits(n, d, escapes, d))
        words = np.where((words >> 7 & 255) > 200, words & 0x807F, words)  # sums stay finite: NaN has no one payload
        codes = compand.Codec("ranks").encode(words.view(BRAIN))
        plain = _native.Plain(words)
        for m in (1, 2, 3, 4, 5, 18):
            x = rng.standard_normal((m, d)).astype(np.float32)
            want = plain(x)
            for level, instruction in [(level, True) for level in LEVELS] + [(LEVELS[-1], False)]:
                _native.set_isa(level)
                _native.set_bf16(instruction)
                for threads in (1, 2):
                    _native.set_threads(threads)
                    assert compand.matmul(x, codes).tobytes() == want.tobytes(), (level, instruction, n, d, m)
                    assert plain(x).tobytes() == want.tobytes(), (level, instruction, n, d, m)
                own = matrix(codes)
                assert own.shape == (n, d)
                assert all(own.row(i).tobytes() == plain.row(i).tobytes() for i in (0, n - 1))
            _native.set_isa("auto")
            _native.set_bf16(True)
            _native.set_threads(0)


def test_bfloat16_products_round_activations_and_nothing_else():
    rng = np.random.default_rng(3)
    for n, d, m in ((1, 1, 1), (9, 70, 2), (33, 2100, 7), (5, 4096, 4)):
        w, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, d), (m, d)))
        near, brain = x.astype(BRAIN).astype(np.float64), w.astype(BRAIN)
        exact = near @ brain.astype(np.float64).T
        room = (np.abs(near) @ np.abs(brain.astype(np.float64)).T) * d * 2.0 ** -24
        y = _native.Plain(np.ascontiguousarray(brain.view(np.uint16)))(x)
        assert (np.abs(y - exact) <= room).all()
        many = _native.Plain(w)(x)
        assert (np.abs(many - x.astype(np.float64) @ w.astype(np.float64).T) <= (np.abs(x) @ np.abs(w).T) * d * 2.0 ** -24).all()
        for level in LEVELS:  # float32 weights too
            _native.set_isa(level)
            assert _native.Plain(w)(x).tobytes() == many.tobytes()
        _native.set_isa("auto")


def test_every_word_is_decoded_in_registers():
    words = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)  # NaN payloads and infinities too; a row has one or two exponents
    for shape in ((256, 256), (512, 128)):
        some = words.reshape(shape)
        codes = compand.Codec("ranks").encode(some.view(BRAIN))
        for level in LEVELS:
            _native.set_isa(level)
            own = matrix(codes)
            assert all(own.row(i).view(np.uint32).tobytes() == (some[i].astype(np.uint32) << 16).tobytes() for i in range(len(some)))
            _native.set_isa("auto")


def test_blocks_and_a_file(tmp_path):
    words = finite(bits(2100, 1024, 0.001))
    words = np.where((words >> 7 & 255) > 200, words & 0x807F, words)
    x = np.random.default_rng(2).standard_normal((2, 1024)).astype(BRAIN).astype(np.float32)
    with compand.Writer(tmp_path / "w.cpd") as out:
        out.write("ranks", words.view(BRAIN), "ranks")
        out.write("raw", words.view(BRAIN), "raw")
    with compand.open(tmp_path / "w.cpd") as file:
        codes = file["ranks"].codes()
        assert len(codes.blocks) == 3
        want = _native.Plain(words)(x).tobytes()
        assert compand.matmul(x, codes).tobytes() == want == compand.matmul(x, file["raw"].codes()).tobytes()
        with pytest.raises(IndexError):
            matrix(codes).row(2100)
    wide = compand.Codec("ranks").encode(words.view(BRAIN).astype(np.float32))  # no kernel: decoded
    np.testing.assert_allclose(compand.matmul(x, wide), compand.matmul(x, codes), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("d", [1, 64, 130, 257])
def test_blocks_of_odd_rows(d):
    """Rows that lie in pairs are taken one by one where a job begins within a pair."""
    rows, x = (3, 17, 1, 30), np.random.default_rng(d).standard_normal((5, d)).astype(np.float32)
    words = [finite(bits(n, d, 0.05, n)) for n in rows]
    words = [np.where((w >> 7 & 255) > 200, w & 0x807F, w) for w in words]
    given = []
    for w in words:
        p = compand.Codec("ranks").encode(w.view(BRAIN)).blocks[0].parts
        given.append((p["mantissa"], p["rank"], p["count"][:, 0].astype(np.uint32), p["escapes"], p["exponents"]))
    own, plain = _native.Ranks(d, given), _native.Plain(np.concatenate(words))
    for level in LEVELS:
        _native.set_isa(level)
        assert all(own(x[:m]).tobytes() == plain(x[:m]).tobytes() for m in (1, 2, 5))
    _native.set_isa("auto")


@pytest.mark.parametrize("d", [64, 65, 7])
def test_hostile_parts_are_corrupt(d):
    codes = compand.Codec("ranks").encode(bits(40, d, 0.05).view(BRAIN))
    p, x = codes.blocks[0].parts, np.ones((1, d), np.float32)
    assert p["escapes"].size
    more, moved, full, extra = p["count"].copy(), p["count"].copy(), p["rank"].copy(), p["exponents"].copy()
    more[3] += 1
    moved[[0, 1], 0] = moved[[0, 1], 0] + np.array([1, -1]).astype(np.uint16)
    full[5] |= 0x0F  # of one column, or of two
    extra[:2] = extra[1::-1]
    for bad in ({"count": more}, {"count": moved}, {"rank": full}, {"escapes": p["escapes"][:-1]}, {"escapes": np.repeat(p["escapes"], 2)},
                {"count": np.full_like(more, 65535)}, {"exponents": extra}, {"exponents": np.zeros_like(extra)},
                {"escapes": np.full_like(p["escapes"], p["exponents"][3])}):
        damaged = broken(codes, **bad)
        with pytest.raises(CorruptError):
            codes.codec.decode(damaged)
        with pytest.raises(CorruptError):
            compand.matmul(x, damaged)
    for bad in ({"rank": p["rank"][:, :-1]}, *({name: p[name][:-1]} for name in ("mantissa", "exponents", "count"))):
        with pytest.raises(CompandError):
            compand.matmul(x, broken(codes, **bad))


def test_native_sizes_are_checked():
    b, r, c, e, t = (np.zeros(s, k) for s, k in (((2, 5), "u1"), ((2, 3), "u1"), (2, "u4"), (0, "u1"), (15, "u1")))
    assert _native.Ranks(5, [(b, r, c, e, t)]).shape == (2, 5) and _native.Ranks(5, []).shape == (0, 5)
    for bad in ((4, (b, r, c, e, t)), (5, (b, r[:1], c, e, t)), (5, (b, r[:, :2].copy(), c, e, t)), (5, (b, r, c[:1], e, t)),
                (5, (b, r, c, t, t)), (5, (b, r, c, e, t[:14]))):
        with pytest.raises(ValueError, match="ranks"):
            _native.Ranks(bad[0], [bad[1]])
