"""Scenes larger than memory: from a PLY to .cpd and back no more than some blocks are held."""

import tracemalloc

import numpy as np
import pytest

import compand
from compand.modality import pack, unpack
from compand.modality.splats import Scene, from_file, read, write

SPEC = "splat:block=2048"


def peak(run) -> int:
    tracemalloc.start()
    run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_a_ply_is_packed_and_unpacked_in_less_memory_than_it_has_bytes(scene, tmp_path):
    ply, cpd, back = tmp_path / "s.ply", tmp_path / "s.cpd", tmp_path / "back.ply"
    write(ply, scene(60_000, 3))
    nbytes = ply.stat().st_size
    fitted = compand.Codec(SPEC).fit(np.asarray(next(Scene(ply).items()).load()[:5000]))
    pack(Scene(ply), cpd, spec=fitted)  # what is made once is made
    assert peak(lambda: pack(Scene(ply), cpd, spec=fitted, overwrite=True)) < 0.75 * nbytes
    assert peak(lambda: unpack(cpd, back)) < nbytes / 2
    with compand.open(cpd) as file:
        write(tmp_path / "whole.ply", from_file(file))
    assert back.read_bytes() == (tmp_path / "whole.ply").read_bytes()


@pytest.mark.parametrize("how", [{"spec": SPEC}, {"lossless": True}])
def test_a_scene_read_row_by_row_gives_the_file_of_one_in_memory(scene, tmp_path, how):
    s = scene(3000, 1)
    s.positions[7], s.scales[9], s.opacity[11] = np.nan, -np.inf, np.inf
    s.extra["label"] = np.arange(3000, dtype=np.float32)
    write(tmp_path / "s.ply", s)
    made = [tmp_path / "rows.cpd", tmp_path / "memory.cpd"]
    for path, given in zip(made, (None, read(tmp_path / "s.ply")), strict=True):
        pack(Scene(tmp_path / "s.ply", exact="lossless" in how, scene=given), path, **how)
    assert made[0].read_bytes() == made[1].read_bytes()
    with compand.open(made[0]) as file:
        got = from_file(file)
    assert len(got) == 3000 - ("spec" in how) and set(got.extra) == {"label"}
    assert np.isfinite(got.scales).all() == np.isfinite(got.opacity).all() == ("spec" in how)
