"""Codebooks made smaller by clustering their codewords."""

import numpy as np
import pytest

from compand import Codec, FitError
from compand.fit.fewer import fewer


def rows(n=4000, d=8):
    rng = np.random.default_rng(2)
    return (rng.normal(size=(n, d)) * rng.uniform(0.2, 2, d)).astype(np.float32)


def error(codec, x):
    return float(np.square(codec.decode(codec.encode(x)) - x).mean())


@pytest.mark.parametrize("spec, shorter", [
    ("vq:64", "vq:16"), ("vq:32:dim=4:codewords=float16", "vq:16:dim=4:codewords=float16"), ("pq:2x6", "pq:2x4"),
    ("center,vq:64+vq:8", "center,vq:16+vq:8"), ("pq:4x5+int:4", "pq:4x4+int:4")])
def test_every_larger_codebook_shrinks(spec, shorter):
    x = rows()
    large = Codec(spec).fit(x)
    small = fewer(large, 16)
    assert small.spec == shorter and large.spec == spec
    assert error(small, x) > error(large, x)
    trained = error(Codec(shorter).fit(x), x)
    assert error(small, x) < 1.4 * trained  # clusters of codewords serve nearly as codewords that were learnt
    assert Codec.decompress(small.compress(x)).shape == x.shape
    assert fewer(small, 16).compress(x) == small.compress(x)


def test_use_weighs_codewords():
    x = np.concatenate([rows(), rows(400) + 9])
    large = Codec("vq:256").fit(x)
    use = np.bincount(large.encode(x).symbols("ids").ravel(), minlength=256)
    assert error(fewer(large, 16, use={"": use}), x) < error(fewer(large, 16), x)


def test_what_cannot_shrink_is_named():
    with pytest.raises(FitError, match="no codebook"):
        fewer(Codec("int:4"), 4)
    with pytest.raises(FitError, match="not fitted"):
        fewer(Codec("vq:16"), 4)
