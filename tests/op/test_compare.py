"""Scenes judged by their pictures."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import compand
from compand.op.compare import render_quality, summary, views
from compand.op.render import around


def scene(n=500, seed=0):
    g = np.random.default_rng(seed)
    f = {"positions": g.normal(0, 1, (n, 3)), "scales": g.normal(-2, 0.5, (n, 3)), "rotations": g.normal(0, 1, (n, 4)),
         "opacity": g.normal(1, 2, n), "sh0": g.normal(0, 1, (n, 3)), "sh_rest": g.normal(0, 0.1, (n, 9))}
    return SimpleNamespace(**{name: x.astype(np.float32) for name, x in f.items()})


def test_more_noise_is_worse():
    a, g = scene(), np.random.default_rng(1)
    noise = g.normal(size=(500, 3)).astype(np.float32)
    cameras = around(a, 5, 80, 60)
    found = [render_quality(a, SimpleNamespace(**{**vars(a), "sh0": a.sh0 + noise * by}), cameras) for by in (0.0, 0.01, 0.1, 1.0)]
    assert found[0]["psnr"] == math.inf and found[0]["ssim"] == 1 and found[0]["psnr_min"] == math.inf
    for better, worse in itertools.pairwise(found):
        assert better["psnr"] > worse["psnr"] > worse["psnr_min"] and better["ssim"] > worse["ssim"] > worse["ssim_min"]
        assert worse["psnr_seen"] < worse["psnr"]  # the background is the same
    last = found[-1]
    assert len(last["views"]) == 5 and last["worst"] == min(last["views"], key=lambda v: v["psnr"])["camera"]
    assert last["psnr"] == pytest.approx(np.mean([v["psnr"] for v in last["views"]]))


def test_default_cameras_and_pictures():
    a = scene(50)
    first = next(views(a, a))
    assert first.a.shape == (480, 640, 3) and first.a.dtype == np.uint8 and first.psnr == math.inf
    with pytest.raises(compand.InputError, match="no views"):
        summary([])
