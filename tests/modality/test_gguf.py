"""GGUF: every block type equals the gguf package's reading of it; hostile counts and strings are refused at once."""

import struct
import time

import numpy as np
import pytest

from compand import CompandError, UnsupportedError
from compand.modality import detect
from compand.modality.gguf_types import TYPES, dequantize

PLAIN = [k for k, t in TYPES.items() if isinstance(t.read, str)]
OWN = [k for k, t in TYPES.items() if callable(t.read)]
NO_TWIN = {"Q8_K", "Q1_0"}  # the gguf package stores them but does not read them


def text(s):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(s)) + s


def gguf_file(tensors, metadata=(), version=3, align=32):
    """Bytes of a GGUF of (name, shape slowest first, type, data)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + b"".join(metadata)
    data = b""
    for name, shape, kind, raw in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
        data += raw + bytes(-len(raw) % align)
    return head + bytes(-len(head) % align) + data


def blocks(kind, n, seed=0):
    t = TYPES[kind]
    b = np.random.default_rng(seed).integers(0, 256, (n, t.nbytes), dtype=np.uint8)
    if t.name == "NVFP4":
        b[:, :4] &= 127
    return b


@pytest.mark.parametrize("kind", [k for k in TYPES if k not in PLAIN and TYPES[k].name not in NO_TWIN],
                         ids=lambda k: TYPES[k].name)
def test_block_types_equal_the_gguf_package(kind):
    gguf = pytest.importorskip("gguf")
    from gguf.quants import dequantize as theirs

    b = blocks(kind, 300)
    with np.errstate(all="ignore"):
        want = theirs(b, gguf.GGMLQuantizationType(kind)).reshape(300, -1)
    assert np.array_equal(dequantize(kind, b), want, equal_nan=True)


def test_types_without_a_twin():
    b = blocks(15, 4)
    b[:, :4] = np.frombuffer(struct.pack("<f", 0.5), np.uint8)
    assert np.array_equal(dequantize(15, b), b[:, 4:260].view(np.int8) * np.float32(0.5))
    one = np.array([[0, 60] + [0b00000101] + [0] * 15], np.uint8)
    assert dequantize(41, one)[0, :4].tolist() == [1, -1, 1, -1]


def test_a_vector_of_blocks(tmp_path):
    b = blocks(8, 3)
    (tmp_path / "x").write_bytes(gguf_file([("w", (96,), 8, b.tobytes())]))
    (item,) = detect(tmp_path / "x").items()
    want = dequantize(8, b).reshape(-1)
    assert np.array_equal(item.load(), want, equal_nan=True)
    assert np.array_equal(item.load(slice(5, 40, 2)), want[5:40:2], equal_nan=True)


@pytest.mark.parametrize("version", [2, 3])
def test_file_of_many_types(tmp_path, version):
    tensors, want = [], {}
    for kind in OWN:
        b = blocks(kind, 6, kind)
        name = f"t.{TYPES[kind].name}"
        tensors.append((name, (3, 2 * TYPES[kind].values), kind, b.tobytes()))
        want[name] = dequantize(kind, b).reshape(3, -1)
    for kind in PLAIN:
        x = np.random.default_rng(kind).integers(0, 50, (4, 5)).astype(np.float32)
        from compand.dtypes import dtype

        x = x.astype(dtype(TYPES[kind].read))
        tensors.append((f"p.{kind}", (4, 5), kind, x.tobytes()))
        want[f"p.{kind}"] = x
    meta = [text("general.architecture") + struct.pack("<I", 8) + text("llama"),
            text("tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("é") + text(""),
            text("scores") + struct.pack("<IIQ", 9, 6, 2) + bytes(8), text("flag") + struct.pack("<IB", 7, 1),
            text("nested") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 0, 3) + b"abc"]
    (tmp_path / "x").write_bytes(gguf_file(tensors, meta, version))
    source = detect(tmp_path / "x")
    assert source.metadata["tokens"] == ["a", "é", ""] and source.meta["architecture"] == "llama"
    for item in source.items():
        got = item.load()
        assert got.shape == item.shape == want[item.name].shape and got.dtype.name == item.dtype
        assert np.array_equal(got.view(np.uint8), want[item.name].view(np.uint8)), item.name
        assert np.array_equal(item.load(slice(1, 3)), want[item.name][1:3], equal_nan=got.dtype.kind == "f")


def test_real_file_written_by_the_gguf_package(tmp_path):
    gguf = pytest.importorskip("gguf")
    x = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    w = gguf.GGUFWriter(tmp_path / "x.gguf", "test")
    w.add_tensor("plain", x)
    q = gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q8_0)
    w.add_tensor("q8", q, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    got = {i.name: i.load() for i in detect(tmp_path / "x.gguf").items()}
    assert np.array_equal(got["plain"], x) and np.abs(got["q8"] - x).max() < 0.02


BIG = [1 << 20, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 53, 1 << 62, 1 << 63, (1 << 64) - 1]
START = b"GGUF" + struct.pack("<I", 3)


def hostile():
    for n in BIG:
        yield START + struct.pack("<QQ", n, 0) + bytes(64)
        yield START + struct.pack("<QQ", 0, n) + bytes(64)
        yield START + struct.pack("<QQ", 0, 1) + struct.pack("<Q", n) + bytes(64)
        for inner in (0, 8, 9, 12):
            yield START + struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, inner, n) + bytes(64)
        yield gguf_file([("w", (n,), 0, b"")]) + bytes(64)
        yield gguf_file([("w", (n, n), 0, b"")]) + bytes(64)
        yield gguf_file([("w", (0, n, n), 0, b"")]) + bytes(64)
        yield gguf_file([("w", (n & ~255, 256), 12, b"")]) + bytes(64)
        yield gguf_file([("w", (8,), 0, bytes(32))]).replace(struct.pack("<IQ", 0, 0), struct.pack("<IQ", 0, n & ~31))
        yield gguf_file([("w", (8,), 0, bytes(32))], [text("general.alignment") + struct.pack("<IQ", 10, n)])
    yield gguf_file([("w", (8,), 0, bytes(32))] * 2)
    yield gguf_file([("w", (8,), 99, bytes(32))])
    yield gguf_file([("w", (8,), 12, bytes(32))])
    yield gguf_file([("w", (8,), 0, bytes(32))], version=1)
    yield gguf_file([("w", (8,), 0, bytes(32))], version=3 << 24)
    yield gguf_file([(b"\xff\xfe", (8,), 0, bytes(32))])
    yield gguf_file([("w", (), 0, bytes(32))])
    yield gguf_file([("w", (1,) * 5, 0, bytes(32))])
    yield gguf_file([], [text("general.alignment") + struct.pack("<II", 4, 0)])
    yield gguf_file([], [text("general.alignment") + struct.pack("<II", 4, 24)])
    yield gguf_file([], [text("general.alignment") + struct.pack("<I", 8) + text("x")])
    yield gguf_file([], [text("a") + struct.pack("<IB", 7, 0)] * 2)
    yield START + struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100


def test_hostile_files_are_refused_at_once(tmp_path):
    cases = list(hostile())
    assert len(cases) > 100
    start = time.monotonic()
    for data in cases:
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(CompandError):
            detect(tmp_path / "x")
    assert time.monotonic() - start < 20  # a hang, not a speed, is what this would show


def test_types_that_need_tables_say_so(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gguf.quants", None)
    (tmp_path / "x").write_bytes(gguf_file([("w", (256,), 16, bytes(66))]))
    (item,) = detect(tmp_path / "x").items()
    with pytest.raises(UnsupportedError, match="IQ2_XXS"):
        item.load()
