from dataclasses import replace

import array_api_strict
import numpy as np
import pytest

from compand import Codec, CorruptError, InputError, matmul, parse
from compand.array import to_numpy
from compand.codes import Block
from compand.fit import feedback
from compand.op.matmul import matrix
from compand.stage import Form

torch = pytest.importorskip("torch")


def rows_of(n, d, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) * rng.exponential(1, (n, 1))).astype(dtype)


@pytest.mark.parametrize("spec", ["salient", "salient:0.3:1", "salient:1.0:8", "salient:0.0", "salient:0.5:2"])
@pytest.mark.parametrize(("n", "d"), [(0, 5), (1, 1), (1, 300), (300, 1), (37, 41)])
def test_the_largest_rows_in_every_library(spec, n, d):
    x, stage = rows_of(n, d), parse(spec)
    decoded = []
    for make in (np.asarray, lambda a: torch.from_numpy(a.copy()), array_api_strict.asarray):
        parts = stage.encode(make(x))
        back = stage.decode(parts, Form(n, d))
        assert type(back) is type(make(x))
        decoded.append(to_numpy(back))
    assert all(np.array_equal(decoded[0], y) for y in decoded[1:])
    energy, kept = np.square(x.astype(np.float64)).sum(1), (decoded[0] != 0).any(1)
    assert kept.sum() == round(stage.share * n)
    assert not kept.any() or kept.all() or energy[kept].min() >= energy[~kept].max()


def test_weights_choose_rows_and_bytes_are_as_told():
    x, weight = rows_of(512, 64), np.zeros((512, 1), np.float32)
    weight[[3, 77, 400]] = 1
    codec = Codec("int:3+salient:0.1:4")
    coarse, fine = (np.square(c.decode(c.encode(x, weight=weight)) - x).sum(1) for c in (Codec("int:3"), codec))
    better = np.flatnonzero(fine < coarse)
    assert better.tolist() == [3, 77, 400] and (fine[better] < 0.02 * coarse[better]).all()
    codes = codec.encode(x)
    assert codes.nbytes == Codec("int:3").encode(x).nbytes + 51 * (64 // 2 + 2) + 512 // 8
    assert np.array_equal(codec.decode(codes, rows=slice(70, 90)), codec.decode(codes)[70:90])
    assert np.array_equal(Codec.decompress(codes.to_bytes()), codec.decode(codes))


@pytest.mark.parametrize("spec", ["(hadamard,trellis:2:memory=12)+salient:0.2:4", "int:3:group=32+salient:0.3:2+salient:0.1:4"])
def test_feedback_refines_the_rows_of_all_blocks_that_matter(spec, monkeypatch):
    monkeypatch.setattr("compand.codec.BLOCK_VALUES", 96 * 64)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 8)) @ rng.standard_normal((8, 64)) + 0.2 * rng.standard_normal((400, 64))
    w, h = rows_of(256, 64, 2) + 0.1, x.T @ x / 400
    importance = np.where(np.arange(256) < 64, 100.0, 0.01)  # nearly all in the first block
    codes = feedback.encode(spec, w, h, importance=importance)
    before = feedback.encode(spec.partition("+salient")[0], w, h)
    loss = [np.einsum("ij,ij->i", e @ h, e) for e in (c.codec.decode(c) - w for c in (before, codes))]
    taken = loss[1] != loss[0]
    share = 0.2 if "0.2" in spec else 0.3
    assert len(codes.blocks) > 2 and taken.sum() == round(share * 256)
    assert taken[:64].mean() > 0.75 > taken[64:].mean() and loss[1][taken].sum() < 0.35 * loss[0][taken].sum()
    lone = Codec(f"int:3+salient:{share}:4").encode(w)
    assert abs(codes.nbytes - before.nbytes - (lone.nbytes - Codec("int:3").encode(w).nbytes)) < 1200
    y = rng.standard_normal((3, 64)).astype(np.float32)
    exact = y @ codes.codec.decode(codes).T
    assert np.abs(matmul(y, codes) - exact).max() < 0.03 * np.abs(exact).max()
    native = matrix(codes)
    assert type(native).__name__ == "Added"
    for i in (0, 63, 64, 200, 255):
        np.testing.assert_allclose(native.row(i), codes.codec.decode(codes, rows=slice(i, i + 1))[0], rtol=2e-5, atol=2e-6)


def test_what_cannot_be():
    w, h = rows_of(8, 16), np.eye(16)
    with pytest.raises(InputError, match="begin with a term"):
        feedback.encode("salient:0.5:4+salient:0.1:4", w, h)
    with pytest.raises(InputError, match="importance of rows"):
        feedback.encode("int:3+salient:0.5:4", w, h, importance=np.ones(3))
    with pytest.raises(InputError, match="importance of rows"):
        feedback.encode("int:3+salient:0.5:4", w, h, importance=np.full(8, np.nan))


def test_hostile_parts():
    codec = Codec("salient:0.5:4")
    codes = codec.encode(rows_of(12, 10))
    parts = codes.blocks[0].parts
    bad = [{"rows": np.full(2, 255, np.uint8)}, {"rows": np.zeros(2, np.uint8)}, {"ids": parts["ids"][:-1]}, {"scale": parts["scale"][:-1]},
           {"ids": np.zeros(0, np.uint8), "scale": parts["scale"][:0]}, {"rows": parts["rows"] | np.uint8([0, 0x80])}]
    for change in bad:
        broken = replace(codes, blocks=(Block(12, {**parts, **change}),))
        with pytest.raises(CorruptError):
            codec.decode(broken)
        with pytest.raises(CorruptError):
            matmul(np.zeros((1, 10), np.float32), broken)
