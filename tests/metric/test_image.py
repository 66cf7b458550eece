"""PSNR and SSIM of pictures."""

import math

import numpy as np
import pytest

from compand import InputError
from compand.metric import psnr, ssim
from compand.metric.image import SIGMA, TAPS


def slow_ssim(x, y):
    """Straight from the paper: one window after the other."""
    t = np.arange(TAPS) - TAPS // 2
    g = np.exp(-(t[:, None] ** 2 + t**2) / (2 * SIGMA**2))
    g /= g.sum()
    found = []
    for i in range(x.shape[0] - TAPS + 1):
        for j in range(x.shape[1] - TAPS + 1):
            a, b = x[i:i + TAPS, j:j + TAPS], y[i:i + TAPS, j:j + TAPS]
            ma, mb = (g * a).sum(), (g * b).sum()
            va, vb, both = (g * (a - ma) ** 2).sum(), (g * (b - mb) ** 2).sum(), (g * (a - ma) * (b - mb)).sum()
            found.append((2 * ma * mb + 1e-4) * (2 * both + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(found)


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
def test_ssim_is_that_of_the_paper(noise):
    g = np.random.default_rng(0)
    x = g.uniform(size=(19, 26))
    y = np.clip(x + g.normal(0, noise, x.shape), 0, 1)
    assert ssim(x, y) == pytest.approx(slow_ssim(x, y), abs=1e-9)
    three = np.stack([x, y, x], -1)
    assert ssim(three, three[..., ::-1]) == pytest.approx(1)
    assert ssim(three, np.stack([x, x, x], -1)) == pytest.approx((2 + ssim(x, y)) / 3)
    assert ssim(255 * x, 255 * y, peak=255) == pytest.approx(ssim(x, y))


def test_psnr():
    x = np.random.default_rng(0).uniform(size=(12, 13, 3)).astype(np.float32)
    assert psnr(x, x) == math.inf
    assert psnr(np.zeros((2, 2)), np.ones((2, 2))) == 0
    assert psnr(x, x + 3) == pytest.approx(10 * np.log10(1 / np.mean((1 - x.astype(float)) ** 2)))  # cut to [0, 1]
    where = np.zeros((12, 13), bool)
    assert math.isnan(psnr(x, x, where=where))
    where[3] = True
    y = x.copy()
    y[5] = 0
    assert psnr(x, y, where=where) == math.inf > psnr(x, y)


def test_bad_pictures():
    with pytest.raises(InputError, match="compare"):
        psnr(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(InputError, match="11 x 11"):
        ssim(np.zeros((10, 30)), np.zeros((10, 30)))


def test_ssimulacra2_with_its_package():
    pytest.importorskip("ssimulacra2")
    from compand.metric import ssimulacra2

    y, x = np.mgrid[:64, :96]
    a = np.stack([2 * x, 3 * y, 255 - x], -1).astype(np.uint8)
    noise = np.random.default_rng(0).normal(size=a.shape)
    little, much = (np.clip(a + s * noise, 0, 255).astype(np.uint8) for s in (2, 20))
    assert ssimulacra2(a, a) == pytest.approx(100) and 100 > ssimulacra2(a, little) > ssimulacra2(a, much)
    assert ssimulacra2(a.astype(np.uint16), little) is None and ssimulacra2(a[:7], little[:7]) is None
