"""Passes that change a scene say what they took from it."""

import numpy as np
import pytest

from compand import InputError
from compand.modality.splats.packed import alpha_of
from compand.modality.splats.passes import merge, prune, weight


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
