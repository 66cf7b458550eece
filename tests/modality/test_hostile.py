"""Damaged input: every importer, on every truncation and thousands of changed bytes, gives a result or a CompandError."""

import tracemalloc

import numpy as np
import pytest
from test_formats import small_tensors
from test_gguf import blocks, gguf_file, text

from compand import CompandError
from compand.modality import detect
from compand.modality.gguf_types import TYPES

FLIPS = 1000


def _npz(path, save):
    save(path, a=np.arange(12, dtype=np.float32).reshape(3, 4), b=np.asfortranarray(np.eye(3)))
    return path.read_bytes()


def sample(kind, tmp_path):
    path = tmp_path / "seed.npz"
    if kind == "npy":
        np.save(tmp_path / "seed.npy", np.arange(12, dtype=">f4").reshape(3, 4))
        return (tmp_path / "seed.npy").read_bytes()
    if kind == "npz":
        return _npz(path, np.savez)
    if kind == "npz-deflated":
        return _npz(path, np.savez_compressed)
    if kind == "safetensors":
        return small_tensors(a=np.arange(12, dtype=np.float32).reshape(3, 4), b=np.arange(3), c=np.zeros((0, 4), np.float16))
    if kind == "gguf":
        tensors = [(t.name, (2, t.values), k, blocks(k, 2).tobytes()) for k, t in TYPES.items() if k in (0, 8, 12)]
        meta = [text("general.alignment") + b"\4\0\0\0\x20\0\0\0",
                text("words") + b"\x09\0\0\0\x08\0\0\0" + bytes([2] + [0] * 7) + text("a") * 2]
        return gguf_file(tensors, meta)
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({"id": [1, 2, 3], "v": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32(), 2)),
                      "w": pa.array([[1.0], [2.0], [3.0]])})
    if kind == "parquet":
        parquet.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as f:
            f.write_table(table)
    return path.read_bytes()


def attempt(path, data):
    """1 if it was read, 0 if it was refused as it should be."""
    path.write_bytes(data)
    try:
        with detect(path) as source:
            for item in source.items():
                x = item.load()
                assert x.shape == item.shape and x.dtype.name == item.dtype
                item.load(slice(0, 1)) if item.shape else None
        return 1
    except CompandError:
        return 0


KINDS = ["npy", "npz", "npz-deflated", "safetensors", "gguf", "parquet", "arrow"]


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_at_every_length(kind, tmp_path):
    data = sample(kind, tmp_path)
    assert attempt(tmp_path / "x", data) == 1
    read = [n for n in range(0, len(data), 3 if kind in ("parquet", "arrow") else 1) if attempt(tmp_path / "x", data[:n])]
    assert not read or kind == "arrow"


@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes(kind, tmp_path):
    data = np.frombuffer(sample(kind, tmp_path), np.uint8)
    rng = np.random.default_rng(1)
    for i in range(FLIPS if kind not in ("parquet", "arrow") else FLIPS // 3):
        bad = data.copy()
        at = rng.integers(0, len(bad), 1 + i % 4)
        bad[at] = (bad[at] ^ (1 << rng.integers(0, 8, len(at)))) if i % 3 else rng.choice([0, 1, 127, 128, 255], len(at))
        attempt(tmp_path / "x", bad.tobytes())


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "gguf"])
def test_memory_stays_bounded(kind, tmp_path):
    data = np.frombuffer(sample(kind, tmp_path), np.uint8)
    rng = np.random.default_rng(2)
    tracemalloc.start()
    try:
        for _ in range(100):
            bad = data.copy()
            at = rng.integers(0, len(bad) - 8)
            bad[at:at + 8] = np.frombuffer((1 << int(rng.integers(16, 64))).to_bytes(8, "little"), np.uint8)
            attempt(tmp_path / "x", bad.tobytes())
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
