"""Lossless rows: every bit pattern comes back, what is near makes rows small, damage ends in a named error."""

import numpy as np
import pytest

from compand import Codec, CompandError, _native
from compand.errors import CorruptError
from compand.modality.splats import order
from compand.quantizer.neighbours import PARTS
from compand.stage import Form


def scene(n=3000, d=20, seed=0):
    """Rows along a curve in space whose values follow from where they are, with a little noise."""
    rng = np.random.default_rng(seed)
    at = rng.standard_normal((n, 3)).astype(np.float32)
    at = at[order(at)]
    values = np.sin(at @ rng.standard_normal((3, d)) * 0.3) + 1e-3 * rng.standard_normal((n, d))
    return np.concatenate([at, values], 1).astype(np.float32)


def bits(words):
    return np.asarray(words, np.uint32).view(np.float32)


def hostile_tables():
    rng = np.random.default_rng(1)
    smooth = scene(400, 5)
    odd = smooth.copy()
    odd[::17, 3] = np.nan
    odd[5, 4], odd[6, 4], odd[7, 0], odd[8] = np.inf, -np.inf, np.nan, -0.0
    odd[9], odd[10, 4:] = bits([0xffc12345] * 8), 3e38
    yield "smooth", smooth
    yield "odd", odd
    yield "noise", bits(rng.integers(0, 1 << 32, (300, 7), np.uint64))
    yield "denormal", bits(rng.integers(0, 1 << 23, (300, 7)))
    yield "tiny", smooth * np.float32(1e-35)
    yield "huge", smooth * np.float32(3e37)
    yield "repeats", np.repeat(smooth, 3, 0)
    yield "few values", np.rint(smooth * 3)
    yield "a grid", np.rint(smooth * 4096) / np.float32(4096)
    yield "a fine grid", (rng.integers(-(1 << 23), 1 << 23, (300, 4)) * 8).astype(np.float32)
    yield "nothing", np.zeros((50, 6), np.float32)
    yield "signs", bits(rng.integers(0, 2, (100, 5)) << 31)
    yield "one row", smooth[:1]
    yield "coordinates alone", smooth[:, :2]
    yield "outliers", np.where(rng.random(smooth.shape) < 0.01, smooth * np.float32(1e20), smooth)


@pytest.mark.parametrize(("name", "x"), list(hostile_tables()), ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("spec", ["neighbours", "neighbours:1"])
def test_every_bit_comes_back(name, x, spec):
    x = np.ascontiguousarray(x, np.float32)
    codes = Codec(spec).encode(x)
    assert Codec(spec).decode(codes).tobytes() == x.tobytes(), name


def test_more_rows_than_the_window():
    x = scene(9000, 2)
    assert Codec("neighbours").decode(Codec("neighbours").encode(x)).tobytes() == x.tobytes()


def test_what_is_near_is_cheap():
    x = scene()
    near, planes = (Codec(s).encode(x).nbytes for s in ("neighbours", "planes,rans:1"))
    alone = x[np.random.default_rng(2).permutation(len(x))]
    alone[:, :3] = x[:, :3]  # the same values at other places
    assert near < 0.85 * planes and near < 0.94 * Codec("neighbours").encode(alone).nbytes


def test_repeated_rows_and_empty_columns_cost_nearly_nothing():
    x = scene(1000)
    wide = np.concatenate([x, np.zeros((1000, 30), np.float32)], 1)
    assert Codec("neighbours").encode(wide).nbytes < Codec("neighbours").encode(x).nbytes + 30 * 13
    assert Codec("neighbours").encode(np.repeat(x, 2, 0)).nbytes < 1.02 * Codec("neighbours").encode(x).nbytes + 50


def test_other_dtypes_are_refused():
    with pytest.raises(CompandError, match="planes,rans"):
        Codec("neighbours").encode(np.zeros((5, 4), np.float64))


def test_damage_is_an_error_or_other_bits():
    """Never a crash: streams cut, lengthened, swapped and with wrong bytes."""
    rng = np.random.default_rng(3)
    x = np.concatenate([scene(200, 4), np.rint(scene(200, 2))], 1)
    n, d = x.shape
    good = _native.neighbours_encode(x.view(np.uint32), 3)
    assert _native.neighbours_decode(*good, n, d, 3).tobytes() == x.tobytes()
    for part in range(len(PARTS)):
        for cut in (0, 1, len(good[part]) // 2, len(good[part]) - 1):
            streams = list(good)
            streams[part] = good[part][:cut].copy()
            back = _native.neighbours_decode(*streams, n, d, 3)
            assert back is None or (part == 1 and cut == len(good[part]) - 1)  # the last byte of arithmetic coding may not matter
        longer = list(good)
        longer[part] = np.append(good[part], np.uint8(7))
        assert part == 1 or _native.neighbours_decode(*longer, n, d, 3) is None
        for _ in range(60):
            streams = [s.copy() for s in good]
            streams[part][rng.integers(0, len(streams[part]))] = rng.integers(0, 256)
            _native.neighbours_decode(*streams, n, d, 3)
    for wrong in ((n + 1, d, 3), (n, d + 1, 3), (n, d - 1, 3), (n, d, 2)):
        assert _native.neighbours_decode(*good, *wrong) is None
    noise = [rng.integers(0, 256, 500, np.uint8) for _ in PARTS]
    assert _native.neighbours_decode(*noise, n, d, 3) is None
    for wrong in ((0, d, 3), (n, 0, 3), (1 << 40, 1 << 40, 3), (n, d, 0), (n, d, 65)):
        with pytest.raises(ValueError, match="values"):
            _native.neighbours_decode(*good, *wrong)


def test_rows_of_a_block_decode_through_the_codec():
    x = scene(500, 4)
    codec = Codec("neighbours")
    assert codec.decode(codec.encode(x), rows=slice(100, 200)).tobytes() == x[100:200].tobytes()


def test_what_decoding_takes_is_bounded_by_the_bytes():
    x = np.zeros((4000, 9), np.float32)
    x[::2, 8] = 1  # no row is the row before, and hardly a bit is left
    parts = Codec("neighbours").stage.encode(x)
    size = len(parts["coded"]) + len(parts["raw"])
    assert 4000 * 11 - 256 <= size < 4000 * 11 + 100  # 2 axes + 2 + (d - axes) / 2 bytes a row
    form = Form(n=4000, d=9, dtype="float32")
    assert Codec("neighbours").stage.decode(parts, form).tobytes() == x.tobytes()
    for raw in (parts["raw"][:-1], parts["raw"][:100], np.append(parts["raw"], np.uint8(0)), np.append(parts["raw"][:-1], np.uint8(1))):
        with pytest.raises(CorruptError):
            Codec("neighbours").stage.decode({**parts, "raw": raw}, form)
