"""Passes that change a scene say what they took from it."""

import numpy as np
import pytest

from compand import InputError
from compand.modality.splats import Splats
from compand.modality.splats.packed import alpha_of
from compand.modality.splats.passes import contribution, distill, merge, prune, weight
from compand.op.compare import render_quality
from compand.op.render import around


def test_prune_leaves_out_what_adds_least(scene):
    s = scene(200, 1)
    left, said = prune(s, 0.3)
    assert len(left) == 140 and said["splats"] == 60 and 0 < said["lost"] < 0.1
    assert weight(left).min() >= np.sort(weight(s))[59] and abs(said["lost"] - 1 + weight(left).sum() / weight(s).sum()) < 1e-9
    assert len(prune(s, 0)[0]) == 200
    with pytest.raises(InputError):
        prune(s, 1.0)


def test_merge_makes_one_of_two(scene):
    s = scene(50, 1)
    twice = s.take(np.repeat(np.arange(50), 2))
    merged, said = merge(twice, 0.1)
    assert len(merged) == 50 and said["splats"] == 50
    i, j = (np.lexsort(x.positions.T) for x in (s, merged))
    assert np.allclose(merged.positions[j], s.positions[i]) and np.allclose(merged.sh_rest[j], s.sh_rest[i], atol=1e-6)
    assert np.allclose(alpha_of(merged.opacity[j]), 1 - (1 - alpha_of(s.opacity[i])) ** 2, atol=2e-3)
    assert len(merge(s, 1e-6)[0]) == 50
    with pytest.raises(InputError):
        merge(s, 3)


def test_contribution_is_what_pictures_show(scene):
    s = scene(300, 1)
    hidden = Splats(np.zeros((1, 3)), np.full((1, 3), -5), np.eye(4)[:1], np.full(1, 6.0), np.ones((1, 3)), np.zeros((1, 9)))
    wall = Splats(np.zeros((1, 3)), np.full((1, 3), -1.5), np.eye(4)[:1], np.full(1, 9.0), np.ones((1, 3)), np.zeros((1, 9)))
    both = Splats(**{k: np.concatenate([getattr(x, k) for x in (s, wall, hidden)]) for k in s.arrays()})
    adds = contribution(both)
    assert adds[300] > np.median(adds[:300]) and adds[301] < 0.05 * np.median(adds[:300])
    assert weight(both)[301] > 0  # the stand-in cannot know what is hidden
    left, said = prune(both, 0.2, adds)
    assert said["splats"] == 60 and (left.positions == 0).all(1).sum() == 1 and said["lost"] < 0.06
    with pytest.raises(InputError):
        prune(s, 0.2, adds)


def test_distill_cuts_what_does_not_show(scene):
    s = scene(400, 3)
    s.opacity[:] = np.linspace(0, 4, 400)
    s.sh_rest[:200, 9:] *= 1e-4
    s.sh_rest[:100, :] *= 1e-4
    cut, said = distill(s, 1e-3)
    assert not cut.sh_rest[:100].any() and not cut.sh_rest[100:200, 9:].any() and (cut.sh_rest[100:200, :9] != 0).all()
    assert np.array_equal(cut.sh_rest[200:], s.sh_rest[200:])
    assert said["degrees"]["0"] >= 100 and sum(said["degrees"].values()) == 400 and 0 < said["lost"] <= 1e-3
    assert distill(cut, 1e-3)[1]["lost"] <= said["lost"] and distill(s.with_degree(0), 0.1)[1]["splats"] == 0
    change = render_quality(s, cut, around(s, 3, 96, 72))
    assert change["psnr_min"] > 60
    with pytest.raises(InputError):
        distill(s, 0)


def test_merge_finds_neighbours_that_the_curve_parts(scene):
    s = scene(50, 1)
    s.positions = np.abs(s.positions) * 0.001 + np.float32([0, 1, 1])
    s.positions[:, 0] = np.linspace(1, 2, 50)
    s.scales[:] = -3
    other = s.take(slice(None))
    s.positions[:, 0], other.positions[:, 0] = -1e-5, 1e-5  # either side of the first cut of the curve
    both = Splats(**{k: np.concatenate([getattr(x, k) for x in (s, other)]) for k in s.arrays()})
    assert merge(both, 0.3)[1]["splats"] > 5
