"""Damaged scenes: each reader, on truncations and thousands of changed bytes, gives a scene or a CompandError."""

import io

import numpy as np
import pytest
from scenes import make_scene
from test_shipped import bounded, ksplat

from compand import CompandError
from compand.modality.splats import read, spz, write

NAMES = {"ply": "a.ply", "spz3": "a.spz", "spz4": "a.spz", "sog": "a.sog", "splat": "a.splat", "ksplat1": "a.ksplat", "compressed": "c.ply"}


def sample(kind, folder):
    s = bounded(make_scene, 40, 1)
    if kind == "spz3":
        out = io.BytesIO()
        spz.write(out, s, version=3)
        return out.getvalue()
    if kind == "ksplat1":
        return ksplat(s, 1)
    if kind == "compressed":
        chunk = [f"{e}_{w}" for e in ("min", "max") for w in ("x", "y", "z", "scale_x", "scale_y", "scale_z", "r", "g", "b")]
        head = ["ply", "format binary_little_endian 1.0", "element chunk 1", *(f"property float {c}" for c in chunk), "element vertex 5",
                *(f"property uint packed_{w}" for w in ("position", "rotation", "scale", "color")), "element sh 5",
                *(f"property uchar f_rest_{i}" for i in range(9)), "end_header\n"]
        rng = np.random.default_rng(0)
        return "\n".join(head).encode() + np.arange(18, dtype="<f4").tobytes() + rng.bytes(5 * 16) + rng.bytes(5 * 9)
    if kind in ("spz4", "sog"):
        pytest.importorskip("zstandard" if kind == "spz4" else "PIL")
    path = folder / ("seed" + NAMES[kind][1:])
    write(path, s)
    return path.read_bytes()


def attempt(path, data):
    path.write_bytes(data)
    try:
        s = read(path)
    except CompandError:
        return False
    assert all(len(x) == len(s) for x in s.arrays().values())
    return True


@pytest.mark.parametrize("kind", NAMES)
def test_truncated(kind, tmp_path):
    data, path = sample(kind, tmp_path), tmp_path / NAMES[kind]
    assert attempt(path, data)
    good = [n for n in range(0, len(data), max(1, len(data) // 400)) if attempt(path, data[:n])]
    assert not good or kind == "splat"  # .splat has no header: whole rows are a file


@pytest.mark.parametrize("kind", NAMES)
def test_changed_bytes(kind, tmp_path):
    data, path = np.frombuffer(sample(kind, tmp_path), np.uint8), tmp_path / NAMES[kind]
    rng = np.random.default_rng(1)
    for i in range(900):
        bad = data.copy()
        at = rng.integers(0, len(bad) if i % 2 else min(len(bad), 200), 1 + i % 4)
        bad[at] = (bad[at] ^ (1 << rng.integers(0, 8, len(at)))) if i % 3 else rng.choice([0, 1, 127, 128, 255], len(at))
        attempt(path, bad.tobytes())
