"""Codes moved along a gradient: they lose less of a quadratic loss, keep their size and scales, and refuse what cannot be moved."""

import numpy as np
import pytest

from compand import Codec, InputError
from compand.fit.feedback import encode
from compand.fit.move import moved

RNG = np.random.default_rng(5)
X = RNG.standard_normal((400, 12)) @ RNG.standard_normal((12, 48)) + 0.3 * RNG.standard_normal((400, 48))
H = X.T @ X / 400
W = RNG.standard_normal((40, 48)).astype(np.float32)
SPECS = ["trellis:2:memory=12", "hadamard,trellis:3:memory=12", "hadamard,(trellis:2:memory=12+trellis:1:memory=12)", "int:3:group=16",
         "hadamard,int:2", "table:gauss3", "hadamard,sign"]


def loss(w, aim, rows):
    e = (w - aim).astype(np.float64)
    return float(np.einsum("n,ni,ij,nj->", rows, e, H, e)) / 2


@pytest.mark.parametrize("spec", SPECS)
def test_moved_codes_lose_less(spec):
    codes, rows = encode(spec, W, H), RNG.uniform(0.1, 3, len(W))
    aim = W + 0.2 * RNG.standard_normal(W.shape).astype(np.float32)
    w = codes.codec.decode(codes)
    near = moved(codes, rows[:, None] * ((w - aim) @ H), H, rows, damping=1e-4)
    after = near.codec.decode(near)
    assert loss(after, aim, rows) < 0.97 * loss(w, aim, rows) and near.nbytes == codes.nbytes
    for a, b in zip(codes.blocks, near.blocks, strict=True):
        assert all(np.array_equal(a.parts[n], b.parts[n]) for n in a.parts if n.endswith("scale"))
    again = moved(codes, rows[:, None] * ((w - aim) @ H), H, rows, damping=1e-4)
    assert all(np.array_equal(a.parts[n], b.parts[n]) for a, b in zip(near.blocks, again.blocks, strict=True) for n in a.parts)


@pytest.mark.parametrize("spec", SPECS)
def test_no_gradient_moves_nothing(spec):
    codes = encode(spec, W, H)
    still = moved(codes, np.zeros(W.shape), H)
    assert all(np.array_equal(a.parts[n], b.parts[n]) for a, b in zip(codes.blocks, still.blocks, strict=True) for n in a.parts)


def test_what_cannot_be_moved():
    with pytest.raises(InputError, match="cannot be moved"):
        moved(encode("lattice:e8:group=16", W, H), np.zeros(W.shape), H)
    with pytest.raises(InputError, match="side information"):
        moved(Codec("scale:rms:per=row,int:3").encode(W), np.zeros(W.shape), H)
    codes = encode("int:3", W, H)
    with pytest.raises(InputError, match="finite"):
        moved(codes, np.full(W.shape, np.nan), H)
    with pytest.raises(InputError, match="finite"):
        moved(codes, np.zeros(W.shape), H, np.ones(3))
