"""Scenes of splats on the command line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "modality" / "splats"))
from scenes import make_scene

from compand.modality.splats import read, write


@pytest.fixture
def ply(there):
    write("scene.ply", make_scene(500, 1))
    return "scene.ply"


def said(result):
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_compress_info_decompress(run, ply):
    facts = json.loads(said(run("compress", ply, "-o", "s.cpd", "--json")))
    assert facts["bytes_per_splat"] < 30 and facts["spec"].startswith("splat:")
    assert "fine" in said(run("info", "s.cpd")) and "rotation" in said(run("info", "s.cpd"))
    groups = json.loads(said(run("info", "s.cpd", "--json")))["bytes_by_group"]
    assert sum(groups.values()) == Path("s.cpd").stat().st_size and groups["sh"] > 0
    said(run("decompress", "s.cpd", "-o", "back.ply"))
    a, b = read(ply), read("back.ply")
    assert len(a) == len(b) and b.degree == 1
    assert np.array_equal(read("s.cpd").positions, b.positions)
    said(run("verify", "s.cpd"))


def test_goals(run, ply):
    sizes = {}
    for quality in (20, 50, 80):
        said(run("compress", ply, "-o", f"q{quality}.cpd", "--quality", quality))
        sizes[quality] = Path(f"q{quality}.cpd").stat().st_size
    assert sizes[20] < sizes[50] < sizes[80]
    said(run("compress", ply, "-o", "b.cpd", "--bytes-per-splat", 18))
    assert sizes[20] < Path("b.cpd").stat().st_size <= 18 * 500
    said(run("compress", ply, "-o", "c.cpd", "--size", "9kB"))
    assert Path("c.cpd").stat().st_size <= 9000
    assert run("compress", ply, "-o", "d.cpd", "--bytes-per-splat", 0.5).exit_code == 1
    assert run("compress", ply, "-o", "d.cpd", "--max-error", 0.1).exit_code == 1
    assert run("compress", ply, "-o", "d.cpd", "--quality", 50, "--bits", 3).exit_code == 2
    np.save("v.npy", np.zeros((20, 4), np.float32))
    assert run("compress", "v.npy", "--quality", 50).exit_code == 1


def test_lossless(run, ply):
    facts = json.loads(said(run("compress", ply, "-o", "s.cpd", "--lossless", "--json")))
    assert facts["exact"]
    said(run("decompress", "s.cpd", "-o", "back.ply"))
    a, b = read(ply), read("back.ply")
    i, j = (np.lexsort(s.positions.T) for s in (a, b))
    assert all(np.array_equal(x[i], y[j]) for x, y in zip(a.arrays().values(), b.arrays().values(), strict=True))
    said(run("compress", "back.ply", "-o", "again.cpd", "--lossless"))
    said(run("decompress", "again.cpd", "-o", "again.ply"))
    assert Path("again.ply").read_bytes() == Path("back.ply").read_bytes()  # in this order, bit for bit


def test_transcode(run, ply):
    pytest.importorskip("zstandard")
    pytest.importorskip("PIL")
    said(run("transcode", ply, "a.spz"))
    said(run("transcode", "a.spz", "b.cpd", "--quality", 70))
    said(run("transcode", "b.cpd", "c.sog"))
    facts = json.loads(said(run("transcode", "c.sog", "d.splat", "--json")))
    assert facts["splats"] == 500 and facts["bytes_per_splat"] == 32
    said(run("transcode", ply, "e.ply", "--degree", 0))
    assert read("e.ply").degree == 0
    facts = json.loads(said(run("transcode", ply, "g.ply", "--prune", 0.2, "--merge", 0.1, "--json")))
    assert facts["splats"] <= 400 and facts["prune"]["lost"] < 0.1 and len(read("g.ply")) == facts["splats"]
    said(run("decompress", "b.cpd", "--to", "spz", "-o", "f.spz"))
    assert len(read("f.spz")) == 500
    assert run("transcode", ply, "x.obj").exit_code == 1 and run("transcode", ply, "x.ply", "--quality", 3).exit_code == 2
    assert run("transcode", ply, "e.ply").exit_code == 1
