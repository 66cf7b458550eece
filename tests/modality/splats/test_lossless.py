"""Lossless scenes: every bit of every splat, also of those that no picture shows, and of files written before."""

import numpy as np
import pytest

import compand
from compand.modality import pack
from compand.modality.splats import Splats, from_file, matrix, order, read, write
from compand.modality.splats.part import part


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_every_bit_and_fewer_of_them(scene, tmp_path, degree):
    s = scene(3000, degree)
    write(tmp_path / "s.ply", s)
    report = pack(tmp_path / "s.ply", tmp_path / "s.cpd", lossless=True)
    assert [e["spec"] for e in report.entries] == ["neighbours"]
    with compand.open(tmp_path / "s.cpd") as file:
        assert matrix(from_file(file)).tobytes() == matrix(s.take(order(s.positions))).tobytes()
        planes = sum(compand.Codec("planes,rans:1").encode(x).nbytes for x in s.take(order(s.positions)).arrays().values() if x.size)
        assert file["splats"].nbytes < planes  # though harmonics of this scene are noise
        box = (0, 0, 0, 2, 2, 2)
        assert len(part(file, region=box)) == (s.positions >= 0).all(1).sum()


def test_what_is_not_finite_and_further_properties_are_kept(scene, tmp_path):
    s = scene(2000, 1)
    s.positions[7], s.scales[9], s.opacity[11], s.sh_rest[13] = np.nan, -np.inf, np.inf, -0.0
    s.extra["nx"] = np.arange(2000, dtype=np.float32)
    write(tmp_path / "s.ply", s)
    s = read(tmp_path / "s.ply")
    pack(tmp_path / "s.ply", tmp_path / "s.cpd", lossless=True)
    with compand.open(tmp_path / "s.cpd") as file:
        back, rows = from_file(file), order(s.positions)
        assert "boxes" not in file["splats"].attrs  # not numbers that JSON has
        assert matrix(back).tobytes() == matrix(s.take(rows)).tobytes() and np.array_equal(back.extra["nx"], s.extra["nx"][rows])
        assert len(part(file, region=(-9, -9, -9, 9, 9, 9))) == 1999


def test_attributes_apart_are_still_read(scene, tmp_path):
    s = scene(500, 2)
    with compand.Writer(tmp_path / "old.cpd", meta={"modality": "splats"}) as w:
        for name, x in s.arrays().items():
            w.write(name, x, "planes,rans:1")
    with compand.open(tmp_path / "old.cpd") as file:
        back = from_file(file)
    assert isinstance(back, Splats) and matrix(back).tobytes() == matrix(s).tobytes()
