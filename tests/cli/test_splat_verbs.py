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


def test_parts_of_a_scene(run, there):
    write("scene.ply", make_scene(5000, 0))
    said(run("compress", "scene.ply", "-o", "s.cpd", "--progressive"))
    said(run("decompress", "s.cpd", "--layers", 1, "-o", "coarse.ply"))
    assert len(read("coarse.ply")) == 625
    facts = json.loads(said(run("decompress", "s.cpd", "--region", "0,0,0,2,2,2", "-o", "part.spz", "--json")))
    assert 0 < facts["splats"] == len(read("part.spz")) < 1500
    said(run("compress", "scene.ply", "-o", "t.cpd", "--progressive", "--bytes-per-splat", 9))
    assert Path("t.cpd").stat().st_size <= 45000
    assert run("decompress", "s.cpd", "--layers", 9, "-o", "x.ply").exit_code == 1
    assert run("decompress", "s.cpd", "--region", "0,0,1", "-o", "x.ply").exit_code == 2
    assert run("decompress", "s.cpd", "--region", "0,0,0,1,1,1", "--rows", "0:3", "-o", "x.ply").exit_code == 2
    assert run("decompress", "s.cpd", "--frame", 1, "-o", "x.ply").exit_code == 1
    assert run("decompress", "s.cpd", "--layers", 1, "--to", "npy").exit_code == 2
    assert run("compress", "scene.ply", "-o", "u.cpd", "--progressive", "--lossless").exit_code == 2


def test_frames(run, there):
    Path("walk").mkdir()
    s = make_scene(400, 1)
    for t in range(5):
        s.positions[:100, 0] += 0.01
        write(f"walk/{t}.ply", s)
    facts = json.loads(said(run("compress", "walk", "-o", "walk.cpd", "--quality", 60, "--key", 3, "--json")))
    assert facts["frames"] == 5 and facts["ratio"] > 10
    said(run("decompress", "walk.cpd", "--frame", 4, "-o", "four.ply"))
    said(run("decompress", "walk.cpd", "-o", "all"))
    assert sorted(p.name for p in Path("all").iterdir()) == [f"{i:06}.ply" for i in range(5)]
    assert Path("all/000004.ply").read_bytes() == Path("four.ply").read_bytes()
    back, true = read("four.ply").positions[:, 0], read("walk/4.ply").positions[:, 0]
    assert np.abs(np.sort(back) - np.sort(true)).max() < 0.01
    assert run("decompress", "walk.cpd", "--frame", 5, "-o", "x.ply").exit_code == 1
    assert run("decompress", "walk.cpd", "-o", "all").exit_code == 1
    assert run("decompress", "walk.cpd", "--layers", 1).exit_code == 2
    said(run("verify", "walk.cpd"))


def test_what_is_not_finite_is_counted_as_left_out(run, there):
    s = make_scene(100, 1)
    s.positions[7] = np.nan
    write("s.ply", s)
    facts = json.loads(said(run("transcode", "s.ply", "t.splat", "--json")))
    assert facts["splats"] == 99 and facts["not_finite"] == 1 and len(read("t.splat")) == 99
    facts = json.loads(said(run("transcode", "s.ply", "t.cpd", "--json")))
    assert facts["splats"] == 99 == len(read("t.cpd"))
    facts = json.loads(said(run("transcode", "s.ply", "t.ply", "--distill", 0.002, "--json")))
    assert facts["splats"] == 100 and facts["not_finite"] == 0 and "distill" in facts
