"""Errors of the attributes of splats, in any order."""

from types import SimpleNamespace

import numpy as np
import pytest

from compand import InputError
from compand.metric import attribute_errors


def scene(n=1000, seed=0):
    g = np.random.default_rng(seed)
    return SimpleNamespace(positions=g.normal(0, 1, (n, 3)), scales=g.normal(-4, 0.5, (n, 3)), rotations=g.normal(0, 1, (n, 4)),
                           opacity=g.normal(1, 2, n), sh0=g.normal(0, 1, (n, 3)), sh_rest=g.normal(0, 0.1, (n, 9)))


def changed(s, **by):
    return SimpleNamespace(**{**vars(s), **by})


def test_the_same_scene_has_no_errors():
    s = scene()
    s.rotations[3] = 0  # no turn
    e = attribute_errors(s, changed(s, rotations=-2 * s.rotations))
    assert e["matched"] == "order" and e["paired"] == 1
    assert e["position"]["max"] == e["scale"] == e["opacity"] == e["sh0"] == e["sh"] == e["sh_relative"] == 0
    assert e["rotation"]["p95"] < 1e-5 and e["shape"]["p95"] < 1e-12


def test_known_errors():
    s = scene()
    size = np.exp(s.scales.mean(1, keepdims=True))
    half = np.radians(3) / 2
    w, x, y, z = s.rotations.T
    turned = np.stack([w * np.cos(half) - z * np.sin(half), x * np.cos(half) + y * np.sin(half), y * np.cos(half) - x * np.sin(half),
                       z * np.cos(half) + w * np.sin(half)], 1)
    e = attribute_errors(s, changed(s, positions=s.positions + size * [0.3, 0, 0.4], scales=s.scales + 0.1, rotations=turned,
                                    sh0=s.sh0 - 0.02, sh_rest=s.sh_rest * 0.5))
    assert e["position"]["mean"] == pytest.approx(0.5) and e["position"]["max"] == pytest.approx(0.5)
    assert e["rotation"]["mean"] == pytest.approx(3) and e["scale"] == pytest.approx(0.1) and e["sh0"] == pytest.approx(0.02)
    assert e["sh_relative"] == pytest.approx(0.5) and e["shape"]["mean"] > 0.2
    assert attribute_errors(s, changed(s, opacity=np.full(1000, -np.inf)))["opacity"] == pytest.approx(
        np.sqrt(np.mean((1 / (1 + np.exp(-s.opacity))) ** 2)))


def test_names_of_axes_mean_nothing():
    s = scene(50)
    w, x, y, z = s.rotations.T
    r = np.sqrt(0.5)  # a quarter turn about own z: x and y change places
    turned = np.stack([r * (w - z), r * (x + y), r * (y - x), r * (z + w)], 1)
    e = attribute_errors(s, changed(s, rotations=turned, scales=s.scales[:, [1, 0, 2]]))
    assert e["rotation"]["p95"] < 1e-5 and e["shape"]["p95"] < 1e-12 and e["scale"] == 0


def test_a_turn_about_an_axis_of_symmetry_keeps_the_shape():
    s = scene(50)
    s.scales[:, 1] = s.scales[:, 0]
    s.rotations[:] = [1, 0, 0, 0]
    e = attribute_errors(s, changed(s, rotations=np.tile([0.8, 0, 0, 0.6], (50, 1))))
    assert e["rotation"]["mean"] == pytest.approx(90 - 73.7398, abs=1e-3) and e["shape"]["p95"] < 1e-12


def test_order_means_nothing():
    pytest.importorskip("scipy", reason="matching splats needs scipy")
    s, g = scene(3000), np.random.default_rng(1)
    s.positions[:500] = s.positions[500:1000]  # different splats in one place
    turn = g.permutation(3000)
    other = SimpleNamespace(**{k: v[turn] for k, v in vars(s).items()})
    e = attribute_errors(s, other)
    assert e["matched"] == "nearest" and e["paired"] == 1
    assert e["position"]["max"] == e["scale"] == e["sh0"] == e["sh"] == 0
    half = SimpleNamespace(**{k: v[turn[:1500]] for k, v in vars(s).items()})
    e = attribute_errors(s, half)
    assert (e["splats_a"], e["splats_b"]) == (3000, 1500) and e["paired"] == 0.5 and e["position"]["max"] > 1


def test_splats_that_are_not_finite_are_left_out():
    s = scene(200)
    bad = changed(s, positions=s.positions.copy(), scales=s.scales.copy())
    bad.positions[3], bad.scales[5, 1] = np.nan, np.inf
    e = attribute_errors(bad, s)
    assert (e["splats_a"], e["splats_b"], e["paired"]) == (200, 200, 1) and e["position"]["max"] == e["sh"] == 0


def test_another_degree():
    s = scene(100)
    e = attribute_errors(s, changed(s, sh_rest=np.zeros((100, 0))))
    assert e["sh_relative"] == 1 and e["sh"] == e["sh_signal"]
    assert attribute_errors(changed(s, sh_rest=np.zeros((100, 0))), changed(s, sh_rest=np.zeros((100, 0))))["sh_relative"] == 0
    with pytest.raises(InputError, match="without splats"):
        attribute_errors(s, scene(0))
