"""The formats people ship: real files, round trips within each format's steps, and what they refuse."""

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from compand import CompandError, FormatError, InputError, UnsupportedError
from compand.limits import DEFAULT
from compand.modality.source import Mapped
from compand.modality.splats import Splats, format_of, read, spz, write
from compand.modality.splats.packed import alpha_of, half_turn, unit

DATA = Path(os.environ.get("COMPAND_DATA", Path(__file__).parents[4] / "shared" / "data")) / "splats"
real = pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared test data (COMPAND_DATA)")


def angle(a, b):
    """Degrees between orientations."""
    return np.degrees(2 * np.arccos(np.minimum(1, np.abs((unit(a) * unit(b)).sum(1)))))


def bounded(scene, n=400, degree=3):
    """A scene whose values every format can hold."""
    s = scene(n, degree)
    s.sh0, s.opacity = np.clip(s.sh0, -1.5, 1.5), np.clip(s.opacity, -4, 4)
    s.scales = np.clip(s.scales, -9, 2)
    return s


@real
@pytest.mark.parametrize("name, n, degree", [("biker.spz", 152746, 0), ("biker.compressed.ply", 152746, 0),
                                             ("guitar.compressed.ply", 90854, 0),
                                             ("playbot/3_0", 31000, 2), ("playcanvas-logo/meta.json", 307128, 0)])
def test_real_files(name, n, degree):
    if not name.endswith(".ply"):
        pytest.importorskip("zstandard")
        pytest.importorskip("PIL")
    s = read(DATA / name)
    assert len(s) == n and s.degree == degree
    assert np.isfinite(s.positions).all() and np.abs(np.linalg.norm(s.rotations, axis=1) - 1).max() < 0.05
    assert np.median(alpha_of(s.opacity)) > 0.1 and s.scales.mean() < 0


@real
def test_two_formats_of_one_scene_agree():
    """biker was exported as SPZ and as compressed PLY: axes, quaternions, colours and opacity mean the same in both."""
    pytest.importorskip("zstandard")
    a, b = read(DATA / "biker.spz"), read(DATA / "biker.compressed.ply")
    for x, y, most in ((a.positions, b.positions, 0.02), (a.sh0, b.sh0, 0.03), (a.scales, b.scales, 0.07)):
        assert np.abs(np.percentile(x, [5, 25, 50, 75, 95], axis=0) - np.percentile(y, [5, 25, 50, 75, 95], axis=0)).max() < most
    assert abs(np.median(alpha_of(a.opacity)) - np.median(alpha_of(b.opacity))) < 0.01


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("n", [1, 333])
def test_spz(scene, tmp_path, n, degree):
    pytest.importorskip("zstandard")
    s = bounded(scene, n, degree)
    write(tmp_path / "a.spz", s)
    got = read(tmp_path / "a.spz")
    assert np.abs(got.positions - s.positions).max() < 1 / 4096 and got.degree == degree
    assert np.abs(got.scales - s.scales).max() <= 1 / 32 + 1e-5 and np.abs(got.sh0 - s.sh0).max() < 0.5 / 255 / 0.15 + 1e-3
    assert np.abs(alpha_of(got.opacity) - alpha_of(s.opacity)).max() < 0.6 / 255 and angle(got.rotations, s.rotations).max() < 0.4
    if degree:
        assert np.abs(got.sh_rest - np.clip(s.sh_rest, -1, 1)).max() < 0.08
    with open(tmp_path / "b.spz", "wb") as f:
        spz.write(f, s, version=3)
    old = read(tmp_path / "b.spz")
    assert all(np.array_equal(x, y) for x, y in zip(old.arrays().values(), got.arrays().values(), strict=True))


def test_spz_versions_1_and_2(tmp_path):
    """Half floats in version 1, 24 bits in version 2; three bytes of x, y, z for a rotation in both."""
    import gzip

    turn = bytes(np.rint((np.array([0.5, -0.5, 0.1]) + 1) * 127.5).astype(np.uint8))
    fixed = b"".join(int(v * 4096).to_bytes(3, "little", signed=True) for v in (1, 2, -3))
    for version, place in ((1, np.float16([1, 2, -3]).tobytes()), (2, fixed)):
        body = struct.pack("<4sIIBBBB", b"NGSP", version, 1, 0, 12, 0, 0) + place + bytes([128, 127, 200, 0, 160, 144, 128]) + turn
        (tmp_path / "a.spz").write_bytes(gzip.compress(body))
        s = read(tmp_path / "a.spz")
        assert np.allclose(s.positions, [[1, -2, 3]]) and np.allclose(s.scales, [[0, -1, -2]])
        assert np.allclose(s.rotations[0, 1:], [0.5, 0.5, -0.1], atol=0.01) and abs(np.linalg.norm(s.rotations) - 1) < 1e-5
    (tmp_path / "a.spz").write_bytes(gzip.compress(body + b"x"))
    with pytest.raises(CompandError):
        read(tmp_path / "a.spz")


def test_half_turn_is_its_own_inverse(scene):
    s = scene(20, 4)
    once = half_turn(s.positions, s.rotations, s.sh_rest)
    for x, y in zip(half_turn(*once), (s.positions, s.rotations, s.sh_rest), strict=True):
        assert np.array_equal(x, y)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_sog(scene, tmp_path, degree):
    pytest.importorskip("PIL")
    s = bounded(scene, 500, degree)
    write(tmp_path / "a.sog", s)
    assert format_of(tmp_path / "a.sog") == "sog"
    got = read(tmp_path / "a.sog")
    j = np.array([np.abs(got.positions - p).sum(1).argmin() for p in s.positions])  # the writer sorts
    assert len(np.unique(j)) == 500
    got = got.take(j)
    assert np.abs(got.positions - s.positions).max() < 2e-4 and np.abs(got.scales - s.scales).max() < 0.3
    assert angle(got.rotations, s.rotations).max() < 1 and np.abs(alpha_of(got.opacity) - alpha_of(s.opacity)).max() < 0.003
    assert np.sqrt(np.mean((got.sh0 - s.sh0) ** 2)) < 0.01 and got.degree == degree
    with zipfile.ZipFile(tmp_path / "a.sog") as z:
        z.extractall(tmp_path / "folder")
    again = read(tmp_path / "folder").take(j)
    assert np.array_equal(again.positions, got.positions)


def test_dot_splat(scene, tmp_path):
    s = bounded(scene, 50, 1)
    write(tmp_path / "a.splat", s)
    assert (tmp_path / "a.splat").stat().st_size == 32 * 50
    got = read(tmp_path / "a.splat")
    j = [int(np.flatnonzero((got.positions == p).all(1))[0]) for p in s.positions]
    got = got.take(j)
    assert np.allclose(got.scales, s.scales, atol=1e-5) and angle(got.rotations, s.rotations).max() < 1.5
    assert np.abs(np.clip(0.5 + 0.282 * s.sh0, 0, 1) - (0.5 + 0.282 * got.sh0)).max() < 0.01
    (tmp_path / "a.splat").write_bytes(b"\xff" * 64)
    with pytest.raises(FormatError):
        read(tmp_path / "a.splat")


def ksplat(s: Splats, level: int) -> bytes:
    """A .ksplat of one section, as its viewer writes them."""
    n, degree = len(s), s.degree
    low, high, block, span = -1.5, 1.5, 5.0, 32767
    head = bytearray(4096)
    struct.pack_into("<BBxxIIIIH", head, 0, 0, 1, 1, 1, n, n, level)
    struct.pack_into("<ff", head, 36, low, high)
    size, section = 256, bytearray(1024)
    cells = np.floor(s.positions / block + 0.5)
    names, of = np.unique(cells, axis=0, return_inverse=True)
    order = np.argsort(of.reshape(-1), kind="stable")
    counts = np.bincount(of.reshape(-1))
    assert counts.max() < size
    struct.pack_into("<IIIIfHxxI", section, 0, n, n, size, len(names) if level else 0, block, 12, span)
    struct.pack_into("<IIH", section, 32, 0, len(names) if level else 0, degree)
    s = s.take(order)
    place = [c * 3 + j for j in range(3) for c in range(3)] + [9 + c * 5 + j for j in range(5) for c in range(3)]
    rest = np.zeros_like(s.sh_rest)
    rest[:, place[:rest.shape[1]]] = s.sh_rest
    rgba = np.rint(np.concatenate([0.5 + 0.28209479 * s.sh0, alpha_of(s.opacity)[:, None]], 1).clip(0, 1) * 255).astype(np.uint8)
    kind = np.float32 if level == 0 else np.float16
    if level:
        centers = names * block
        q = np.rint((s.positions - centers[np.sort(of.reshape(-1))]) / (block / 2 / span) + span).astype(np.uint16)
        lead = counts.astype("<u4").tobytes() + centers.astype("<f4").tobytes()
    else:
        q, lead = s.positions, b""
    tail = np.rint((rest - low) / (high - low) * 255).astype(np.uint8) if level == 2 else rest.astype(kind)
    columns = (q, np.exp(s.scales).astype(kind), s.rotations.astype(kind), rgba, tail)
    rows = [b"".join(a.tobytes() for a in row) for row in zip(*columns, strict=True)]
    return bytes(head) + bytes(section) + lead + b"".join(rows)


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("degree", range(3))
def test_ksplat(scene, tmp_path, level, degree):
    s = bounded(scene, 60, degree)
    s.positions *= 7
    (tmp_path / "a.ksplat").write_bytes(ksplat(s, level))
    got = read(tmp_path / "a.ksplat")
    j = np.array([np.abs(got.positions - p).sum(1).argmin() for p in s.positions])
    got = got.take(j)
    assert np.abs(got.positions - s.positions).max() < (1e-6 if level == 0 else 1e-3) and np.abs(got.scales - s.scales).max() < 0.01
    assert angle(got.rotations, s.rotations).max() < 0.3 and got.degree == degree
    if degree:
        assert np.abs(got.sh_rest - s.sh_rest).max() < (1e-6, 1e-3, 0.01)[level]


def test_what_is_refused(tmp_path, scene):
    for name, data, error in (("a.spz", b"NGSP\x05\0\0\0" + bytes(24), UnsupportedError), ("a.spz", b"\x1f\x8b" + bytes(20), CompandError),
                              ("a.splat", b"x" * 33, FormatError), ("a.ksplat", b"\x01" + bytes(9000), UnsupportedError),
                              ("meta.json", b"[]", FormatError), ("meta.json", b"{" * 100000, FormatError),
                              ("meta.json", json.dumps({"version": 2, "count": 9}).encode(), FormatError)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(error):
            read(tmp_path / name)
    meta = {"version": 2, "count": 4, "means": {"mins": [0, 0, 0], "maxs": [1, 1, 1], "files": ["../secret.webp", "b"]},
            "scales": {}, "quats": {}, "sh0": {}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(FormatError, match="plain file name"):
        read(tmp_path / "meta.json")
    with pytest.raises(InputError, match="suffix"):
        write(tmp_path / "a.ksplat", scene(3, 0))


def test_a_bomb_does_not_grow(tmp_path):
    import gzip

    head = struct.pack("<4sIIBBBB", b"NGSP", 3, 1 << 28, 3, 12, 0, 0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(head + bytes(1 << 20)))
    with pytest.raises(CompandError):
        read(tmp_path / "a.spz")
    out = io.BytesIO()
    spz_head = struct.pack("<4sIIBBBBI12x", b"NGSP", 4, 1 << 27, 0, 12, 0, 5, 32)
    out.write(spz_head + struct.pack("<10Q", *(v for size in spz.sizes(4, 1 << 27, 0)[:5] for v in (50, size))) + bytes(250))
    (tmp_path / "b.spz").write_bytes(out.getvalue())
    with pytest.raises(CompandError):
        spz.read(Mapped(tmp_path / "b.spz"), DEFAULT)
