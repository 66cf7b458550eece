"""Sequences of splats: errors within steps, seek, what does not move costs nothing."""

import numpy as np
import pytest

import compand
from compand import FormatError, InputError
from compand.metric import attribute_errors
from compand.modality.splats import Splats
from compand.modality.splats.sequence import Sequence, write_sequence


def walk(scene, n=300, frames=9):
    """A scene of which a third moves and turns."""
    s = scene(n, 1)
    moves = np.zeros((n, 3), np.float32)
    moves[::3] = [0.01, 0.02, 0]
    for t in range(frames):
        turn = np.tile(np.float32([1, 0, 0, 0]), (n, 1))
        turn[::3, 3] = 0.02 * t
        w, x, y, z = s.rotations.T
        a, d = turn[:, 0], turn[:, 3]
        q = np.stack([a * w - d * z, a * x - d * y, a * y + d * x, a * z + d * w], 1)
        yield Splats(s.positions + t * moves, s.scales, q, s.opacity, s.sh0, s.sh_rest)


def test_frames_come_back_and_seek(scene, tmp_path):
    frames = list(walk(scene))
    assert write_sequence(tmp_path / "a.cpd", frames, quality=60, key=4) == 9
    with Sequence(tmp_path / "a.cpd") as got:
        assert len(got) == 9
        straight = [got[i] for i in range(9)]
        for i in (7, 2, 8, 0, 5, -1):
            assert all(np.array_equal(x, y) for x, y in zip(got[i].arrays().values(), straight[i].arrays().values(), strict=True))
        for a, b in zip(frames, straight, strict=True):
            e = attribute_errors(a, b)
            assert e["paired"] == 1 and e["position"]["p95"] < 0.1 and e["scale"] < 0.05 and e["sh0"] < 0.08 and e["shape"]["p95"] < 0.25
        with pytest.raises(IndexError):
            got[9]


def test_what_stays_is_nearly_free(scene, tmp_path):
    write_sequence(tmp_path / "one.cpd", [scene(4000, 1)])
    write_sequence(tmp_path / "ten.cpd", [scene(4000, 1)] * 10)
    one, ten = ((tmp_path / f).stat().st_size for f in ("one.cpd", "ten.cpd"))
    with compand.open(tmp_path / "ten.cpd") as f:
        assert all(not f[n].array().any() for n in f.names if n.startswith("gate"))
    assert ten - one < 9 * 700


def test_what_is_refused(scene, tmp_path):
    with pytest.raises(InputError, match="frame 1"):
        write_sequence(tmp_path / "a.cpd", [scene(4, 0), scene(5, 0)])
    with compand.Writer(tmp_path / "b.cpd") as f:
        f.write("key000000", np.zeros((3, 14), np.float32), "int:8")
    with pytest.raises(FormatError):
        Sequence(tmp_path / "b.cpd")
