"""planes keeps every bit of every dtype, and its kernel gives the same planes on every level and for every length."""

import dataclasses

import numpy as np
import pytest

import compand
from compand import _native
from compand.codes import Block, pack_part, unpack_part
from compand.dtypes import NAMES, dtype
from compand.quantizer.planes import joint_reference, split_reference, words_of

LEVELS = ["scalar", "avx2", "avx512"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 5), (300, 64), (9,), (), (3, 2, 4)])
def test_any_bits_come_back(name, shape):
    rng = np.random.default_rng(0)
    n = int(np.prod(shape))
    raw = rng.integers(0, 2 if name == "bool" else 256, n * dtype(name).itemsize, dtype=np.uint8)
    x = raw.view(dtype(name)).reshape(shape)
    codec = compand.Codec("planes")
    y = codec.decode(codec.encode(x))
    assert y.dtype == x.dtype and y.shape == x.shape and y.tobytes() == x.tobytes()


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_kernel_equals_the_reference(size, turn):
    rng = np.random.default_rng(1)
    for n in [*range(131), 20000]:
        words = rng.integers(0, 1 << 63, n, dtype=np.uint64).view(f"u{size}")[:n]
        want = split_reference(words, turn)
        for level in LEVELS:
            if not _native.set_isa(level):
                continue
            for threads in (1, 2) if n > 130 else (1,):
                _native.set_threads(threads)
                planes = _native.planes_split(words, turn)
                assert np.array_equal(planes, want)
                assert np.array_equal(_native.planes_merge(list(planes), turn), words)


def test_kernel_refuses_what_are_no_planes():
    p = np.zeros(3, np.uint8)
    for planes, turn in (([p], 0), ([p, p, p], 0), ([p, p[:2]], 0), ([p, p], 3), ([p, p], -1)):
        with pytest.raises(ValueError):
            _native.planes_merge(planes, turn)
    for planes in ([p, 3], [p, np.zeros(3, np.int8)], [p, np.zeros((3, 1), np.uint8)]):
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            _native.planes_merge(planes, 0)


@pytest.mark.parametrize("size", [2, 4])
def test_joint_kernel_equals_the_reference(size):
    rng = np.random.default_rng(1)
    merge = _native.joint_merge16 if size == 2 else _native.joint_merge32
    top = 8 * size - 9

    def check(words):
        want = None
        for level in LEVELS:
            if not _native.set_isa(level):
                continue
            for threads in (1, 2) if len(words) > 4096 else (1,):
                _native.set_threads(threads)
                low, *planes = _native.joint_split(words)
                want = want or (low, [p.tobytes() for p in joint_reference(words, low)])
                assert (low, [p.tobytes() for p in planes]) == want
                assert np.array_equal(merge(planes[0], list(planes[1]), planes[2], planes[3], low, planes[4]), words)
        return want[0], len(want[1][4])

    for n in [*range(131), 4095, 4097, 20001]:
        words = rng.integers(0, 1 << 63, n, dtype=np.uint64).view(f"u{size}")[:n]  # exponents everywhere: no window
        check(words)
        exponents = 120 - np.minimum(rng.geometric(0.5, n), 90) * (rng.random(n) > 0.1)
        exponents = np.where(rng.random(n) < 0.3, 0, exponents).astype(np.uint64)
        low, escapes = check((words & ~(np.uint64(255) << np.uint64(top)) | exponents << np.uint64(top)).astype(f"u{size}"))
        assert n < 20000 or (low >= 0 and 0 < escapes < n / 256 + 17)


def test_joint_kernel_refuses_planes_that_do_not_fit():
    n = np.zeros(4, np.uint8)
    half, none, escaped = n[:2], n[:0], np.array([0xF0, 0, 0, 0], np.uint8)
    assert _native.joint_merge16(n, [], half, half, 5, none) is not None
    assert _native.joint_merge16(escaped, [], half, half, 5, none) is None
    assert _native.joint_merge16(n, [], half, half, 5, half) is None
    for bad in ((n, [n], half, half, 5, none), (n, [], n, half, 5, none), (n, [], half, half[:1], 5, none),
                (n, [], half, half, -2, none), (n, [], half, half, 256, none)):
        with pytest.raises(ValueError):
            _native.joint_merge16(*bad)
    with pytest.raises(ValueError):
        _native.joint_merge32(n, [n, n[:3]], half, half, 5, none)


def test_hostile_windows_are_corrupt():
    x = np.ones((10, 4), dtype("bfloat16"))
    codec = compand.Codec("planes")
    codes = codec.encode(x)
    for window in ([], [1], [2, 0], [1, 127, 5], [0, 0, 1]):
        block = dataclasses.replace(codes.blocks[0], parts={**codes.blocks[0].parts, "window": np.array(window, np.uint8)})
        with pytest.raises(compand.CorruptError):
            codec.decode(dataclasses.replace(codes, blocks=(block,)))


def test_small_integers_have_empty_high_planes():
    x = np.arange(-5, 5, dtype=np.int64).reshape(2, 5)
    codes = compand.Codec("planes").encode(x)
    assert not codes.symbols("byte7").any() and codes.symbols("byte0").max() == 9


def test_words():
    assert words_of("uint16") == (2, 0, 1) and words_of("int64") == (8, 2, 1) and words_of("float8_e5m2") == (1, 0, 1)


def _kinds(name: str, n: int, rng) -> list[np.ndarray]:
    """Values whose planes are stored in every way: noise, few exponents, one value, escapes."""
    size = dtype(name).itemsize
    noise = rng.integers(0, 2 if name == "bool" else 256, n * size, dtype=np.uint8).view(dtype(name))
    if name == "bool":
        return [noise, np.zeros(n, bool)]
    near = (rng.standard_normal(n) * 0.02).astype(np.float32).astype(dtype(name))
    near = near if size > 1 else (noise % 7 if name in ("int8", "uint8") else near)
    far = near.copy()
    far[rng.integers(0, n, n // 500)] = np.float32(5e4).astype(dtype(name)) if size > 1 else near[0]
    return [noise, near, far, np.full(n, near[0])]


@pytest.mark.parametrize("name", NAMES)
def test_fused_coding_equals_coding_in_two_steps(name):
    """What one kernel does for ``planes,rans`` is what the two stages do, byte for byte, on every level."""
    rng = np.random.default_rng(5)
    codec = compand.Codec("planes,rans")
    planes = codec.stage.quantizer
    for n in (1, 2, 7, 300, 20001):
        for x in _kinds(name, n, rng) if n > 1 else [np.ones(1, dtype(name))]:
            form = codec.form(x.shape, name)
            layout = codec.layout(form)
            parts = {f"0.{p}": a for p, a in planes.encode(x[:, None]).items()}
            want = {path: pack_part(a, layout[path]).tobytes() for path, a in parts.items()}
            for level in LEVELS:
                if not _native.set_isa(level):
                    continue
                for threads in (1, 2) if n > 4096 else (1,):
                    _native.set_threads(threads)
                    (block,) = codec.encode_blocks(x)
                    assert {path: a.tobytes() for path, a in block.parts.items()} == want
                    assert list(block.parts) == list(layout)
                    assert codec.decode_block(block, form).tobytes() == x.tobytes()


@pytest.mark.parametrize("name", ["bfloat16", "float32", "float16", "int64", "uint8"])
def test_fused_decoding_refuses_what_two_steps_refuse(name):
    rng = np.random.default_rng(6)
    codec = compand.Codec("planes,rans")
    planes, form = codec.stage.quantizer, codec.form((3000,), name)
    layout = codec.layout(form)
    for x in _kinds(name, 3000, rng):
        (block,) = codec.encode_blocks(x)
        for trial in range(60):
            path = list(block.parts)[trial % len(block.parts)]
            data = bytearray(block.parts[path].tobytes())
            for _ in range(1 + trial % 2):
                at = int(rng.integers(0, min(len(data), 24) if trial % 3 else len(data)))
                data[at] = int(rng.integers(0, 256))
            data = data[:int(rng.integers(0, len(data)))] if trial % 5 == 4 else data
            bad = {**block.parts, path: np.frombuffer(bytes(data), np.uint8)}

            def two_steps(bad=bad):
                return planes.decode({p[2:]: unpack_part(a, layout[p]) for p, a in bad.items()}, form)

            got = []
            for decode in (two_steps, lambda bad=bad: codec.decode_block(Block(3000, bad), form)):
                try:
                    got.append(decode().tobytes())
                except compand.CorruptError:
                    got.append(None)
            assert got[0] == got[1]


def test_fused_kernel_refuses_what_does_not_fit():
    x = np.zeros(8, np.uint16)
    streams = _native.lossless_encode(x, 3)
    assert _native.lossless_decode(streams, 3, x) == 0
    assert _native.lossless_decode(streams, 3, x[:7]) == 1 == _native.lossless_decode(streams[:2], 1, x[:0].copy())
    for streams_, way, words in ((streams, 4, x), (streams, -1, x), (streams[:2], 3, x), (streams, 3, np.zeros(8, np.uint64))):
        with pytest.raises(ValueError):
            _native.lossless_decode(streams_, way, words)
    for streams_ in ([3] * 4, [np.zeros(3, np.int8)] * 4):
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            _native.lossless_decode(streams_, 3, x)
    frozen = x.copy()
    frozen.flags.writeable = False
    with pytest.raises(TypeError):
        _native.lossless_decode(streams, 3, frozen)
