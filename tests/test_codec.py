import numpy as np
import pytest

import compand
from compand import Codec, FitError, InputError
from compand.stage import Part, Quantizer


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((300, 20)).astype(np.float32)


def test_center_needs_fit_and_says_so(x):
    with pytest.raises(FitError, match=r"center,int:8: not fitted; call fit\(x\) first"):
        Codec("center,int:8").encode(x)
    codec = Codec("center,int:8").fit(x)
    with pytest.raises(FitError, match="fit again"):
        codec.encode(x[:, :5])


def test_sum_codes_what_is_left_over(x):
    coarse, both = Codec("int:3").fit(x), Codec("int:3+int:5").fit(x)
    codes = both.encode(x)
    error = [np.abs(x - both.decode(codes, terms=t)).mean() for t in (1, 2)]
    assert error[1] < error[0] / 8
    assert np.array_equal(both.decode(codes, terms=1), coarse.decode(coarse.encode(x)))


def test_chain_hands_transformed_values_on(x):
    shifted = x + 1000
    plain, centred = Codec("int:4").fit(shifted), Codec("center,int:4").fit(shifted)
    worse, better = (np.abs(shifted - c.decode(c.encode(shifted))).mean() for c in (plain, centred))
    assert better < worse / 10


@pytest.mark.parametrize("shape", [(), (7,), (1, 7), (7, 1), (3, 4, 5), (2, 3, 2, 2), (0,), (0, 5), (5, 0)])
@pytest.mark.parametrize("spec", ["raw", "int:8"])
def test_any_shape_comes_back(shape, spec):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    codec = Codec(spec).fit(x) if x.size else Codec(spec)
    x_hat = codec.decode(codec.encode(x))
    assert x_hat.shape == shape and x_hat.dtype == x.dtype
    assert np.allclose(x, x_hat, atol=0 if spec == "raw" else 0.05)


@pytest.mark.parametrize("name", ["float16", "float64", "int8", "uint8", "int32", "bool", "bfloat16", "float8_e4m3fn"])
def test_any_dtype_comes_back(name):
    from compand.dtypes import dtype

    x = (np.random.default_rng(1).standard_normal((40, 8)) * 20).astype(dtype(name))
    if name == "bool":
        x = np.random.default_rng(1).random((40, 8)) > 0.5
    for spec in ("raw", "int:8"):
        codec = Codec(spec).fit(x)
        x_hat = codec.decode(codec.encode(x))
        assert x_hat.dtype == x.dtype
        if spec == "raw":
            assert x_hat.tobytes() == x.tobytes()
        else:
            assert np.allclose(x.astype(np.float32), x_hat.astype(np.float32), rtol=0.08, atol=1)


def test_rows_touch_only_their_blocks(x, monkeypatch):
    monkeypatch.setattr("compand.codec.BLOCK_VALUES", 1280)
    codec = Codec("int:8").fit(x)
    codes = codec.encode(x)
    assert [b.rows for b in codes.blocks] == [64, 64, 64, 64, 44]
    whole = codec.decode(codes)
    for rows in (slice(0, 10), slice(60, 70), slice(250, None), slice(5, 5), slice(-3, None), slice(None), slice(1, 300, 7)):
        assert np.array_equal(codec.decode(codes, rows=rows), whole[rows])
    assert len(codes.rows(60, 70).blocks) == 2
    with pytest.raises(InputError, match="must be positive"):
        codec.decode(codes, rows=slice(None, None, -1))


@pytest.mark.parametrize("spec", ["raw", "int:8"])
def test_rows_of_a_line_are_its_values(spec):
    x = np.arange(50, dtype=np.float32)
    codec = Codec(spec).fit(x)
    codes = codec.encode(x)
    for rows in (slice(3, 9), slice(None, None, 4), slice(40, None), slice(7, 7)):
        assert np.array_equal(codec.decode(codes, rows=rows), codec.decode(codes)[rows])


def test_blocks_do_not_change_values(x, monkeypatch):
    whole = Codec("int:8:group=4").fit(x)
    expected = whole.decode(whole.encode(x))
    monkeypatch.setattr("compand.codec.BLOCK_VALUES", 100)
    assert np.array_equal(whole.decode(whole.encode(x)), expected)


def test_nan_is_refused_by_row(x):
    codec = Codec("int:8").fit(x)
    x[123, 4] = np.nan
    with pytest.raises(InputError, match=r"row 123 .*planes,rans"):
        codec.encode(x)
    with pytest.raises(InputError, match="row 123"):
        Codec("center,int:8").fit(x, sample=None)
    with pytest.raises(InputError, match="numbers only"):
        Codec("int:8").encode(np.array(["a"]))


def test_compress_is_one_call_and_counts_every_byte(x):
    data = Codec("center,int:4:group=10").compress(x)
    assert np.abs(compand.Codec.decompress(data) - x).max() < 0.5
    codes = Codec("center,int:4:group=10").fit(x).encode(x)
    assert codes.bits == pytest.approx(8 * len(data) / x.size)
    assert codes.bits > 4


def test_fit_looks_at_a_sample(x):
    codec = Codec("center,int:8").fit(x, sample=10)
    assert np.allclose(codec.state()["0.mean_"], x[::30].mean(0), atol=1e-5)


def test_weight_reaches_the_stages(x):
    w = np.zeros(300, np.float32)
    w[:10] = 1
    for weight in (w, w[:, None]):
        codec = Codec("center,int:8").fit(x, weight=weight)
        assert np.allclose(codec.state()["0.mean_"], x[:10].mean(0), atol=1e-5)


def test_a_stage_that_lies_about_its_parts_is_caught(x):
    class Liar(Quantizer, name="liar"):
        def layout(self, form):
            return {"codes": Part((form.n, form.d), k=2)}

        def encode(self, x):
            return {"other": x}

    try:
        with pytest.raises(TypeError, match="layout declares"):
            Codec(Liar()).encode(x)
    finally:
        compand.registry._stages.pop("liar")


@pytest.mark.parametrize("spec", ["int:2+int:3+int:4,rans", "scale:rms:per=row,int:2+int:3+int:4", "(center,int:2)+int:3+(center,int:4)"])
def test_first_terms_are_decoded_from_their_parts_alone(spec, tmp_path, monkeypatch):
    from compand import codec as module

    x = np.random.default_rng(0).standard_normal((200, 48)).astype(np.float32)
    codec = compand.Codec(spec).fit(x)
    codes = codec.encode(x)
    with compand.Writer(tmp_path / "a.cpd") as file:
        file.write_codes("x", codes)
    whole = [codec.decode(codes, terms=i) for i in (1, 2, 3)]
    unpacked = []
    unpack = module.unpack_part
    monkeypatch.setattr(module, "unpack_part", lambda stored, part: unpacked.append(part) or unpack(stored, part))
    counts = []
    for terms in (1, 2, 3):
        unpacked.clear()
        assert np.array_equal(codec.decode(codes, terms=terms), whole[terms - 1])
        counts.append(len(unpacked))
        with compand.open(tmp_path / "a.cpd") as file:
            assert np.array_equal(file["x"].array(terms=terms), whole[terms - 1])
            assert np.array_equal(file["x"].array(slice(5, 9), terms=terms), whole[terms - 1][5:9])
            checked = sum(file._container._checked)
            state = len(codec.state())
            assert checked - state == counts[-1]
    assert counts[1] - counts[0] == counts[2] - counts[1] == 2
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(compand.InputError, match="terms"):
            codec.decode(codes, terms=wrong)


WEIGHED = ("sign", "sign:complex=true", "sign:16+sign:16", "ternary", "ternary:rule=best", "ternary:rule=absmean", "lattice:e8:bits=4",
           "lattice:e8:bits=1:group=16", "pyramid:9:dim=8", "int:2", "float:e2m1", "scale:rms:per=row,sign:group=20")


@pytest.mark.parametrize("spec", WEIGHED)
def test_weights_move_the_scales_that_are_stored_with_rows(spec):
    rng = np.random.default_rng(8)
    x = (rng.standard_normal((50, 60)) * np.where(np.arange(60) < 12, 3, 1)).astype(np.float32)
    weight = np.where(np.arange(60) % 5 == 0, 200, 1).astype(np.float32)
    codec = Codec(spec).fit(x)
    plain, weighted = (float((weight * (codec.decode(c) - x) ** 2).sum()) for c in (codec.encode(x), codec.encode(x, weight=weight)))
    assert weighted < plain
    even = codec.encode(x, weight=np.ones((50, 1)))
    assert np.allclose(codec.decode(even), codec.decode(codec.encode(x)), atol=1e-2 * np.abs(x).max())


def test_weights_of_zero_mean_no_preference():
    x = np.random.default_rng(9).standard_normal((4, 32)).astype(np.float32)
    for spec in ("sign:8", "ternary:8:rule=best", "ternary:8", "lattice:e8", "pyramid:8:dim=8"):
        assert np.isfinite(Codec(spec).decode(Codec(spec).encode(x, weight=np.zeros((4, 32))))).all(), spec


def test_weights_of_rows_follow_the_rows_from_block_to_block():
    x = np.random.default_rng(10).standard_normal((3000, 1024)).astype(np.float32)  # three blocks
    weight = np.random.default_rng(11).uniform(0, 1, x.shape).astype(np.float32)
    whole = Codec("sign").encode(x, weight=weight)
    assert len(whole.blocks) == 3
    last = Codec("sign").encode(x[2048:], weight=weight[2048:])
    assert np.array_equal(whole.blocks[2].parts["scale"], last.blocks[0].parts["scale"])
