"""The coder of pictures: equal bits on every machine, what a step promises, sizes of every kind, loss of tiles, damage."""

import numpy as np
import pytest

import compand
from compand import Codec, CompandError, SpecError, _native
from compand.quantizer.image import model_named
from compand.stage import Form
from compand.testing.mutate import check_contract


def picture(h=200, w=264, channels=3, bits=8, seed=0):
    """Smooth colours, edges in several directions, a texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w].astype(np.float64)
    planes = []
    for _ in range(channels):
        z = 120 + 60 * np.sin(x / 37 + rng.uniform(0, 6)) + 40 * np.cos(y / 23 + x / 61)
        for _ in range(6):
            a = rng.uniform(0, np.pi)
            z += rng.uniform(-50, 50) * (np.cos(a) * (x - rng.uniform(0, w)) + np.sin(a) * (y - rng.uniform(0, h)) > 0)
        planes.append(z + 12 * np.sin(1.3 * x) * np.sin(0.9 * y) * (y > h / 2))
    z = np.clip(np.stack(planes, -1), 0, 255)
    return np.rint(z * (257 if bits == 16 else 1)).astype(np.uint16 if bits == 16 else np.uint8)


def psnr(a, b, peak=255):
    return 10 * np.log10(peak**2 / (np.mean((a.astype(float) - b) ** 2) + 1e-6))


@pytest.fixture
def levels():
    """The levels of instructions of this machine; afterwards the best again, and all threads."""
    yield [name for name in ("scalar", "avx2", "avx512") if _native.set_isa(name)]
    _native.set_isa("auto")
    _native.set_threads(0)


@pytest.mark.parametrize("spec, channels, bits", [("image:20:tile=128", 3, 8), ("image:6:channels=1", 1, 8),
                                                  ("image:30:bits=16:tile=64", 3, 16)])
def test_bits_and_pixels_are_the_same_on_every_machine(levels, spec, channels, bits):
    x, codec = picture(channels=channels, bits=bits), Codec(spec)
    found = set()
    for level in levels:
        _native.set_isa(level)
        for threads in (1, 3):
            _native.set_threads(threads)
            codes = codec.encode(x)
            found.add((codes.blocks[0].parts["codes"].tobytes(), codec.decode(codes).tobytes()))
    assert len(found) == 1


def test_a_step_is_a_quality():
    x = picture()
    sizes, quality = [], []
    for step in (1, 6, 24, 96):
        codec = Codec(f"image:{step}")
        codes = codec.encode(x)
        sizes.append(codes.nbytes)
        quality.append(psnr(x, codec.decode(codes)))
    assert sizes == sorted(sizes, reverse=True) and quality == sorted(quality, reverse=True)
    assert quality[0] > 48 and quality[2] > 33 and sizes[2] < x.size / 50


@pytest.mark.parametrize("h, w", [(1, 1), (1, 300), (300, 1), (16, 16), (17, 63), (65, 129)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size(h, w, channels):
    x = picture(h, w, channels)
    codec = Codec(f"image:4:channels={channels}:tile=64")
    y = codec.decode(codec.encode(x))
    assert y.shape == x.shape and y.dtype == np.uint8 and psnr(x, y) > 38


def test_sixteen_bits_keep_more_than_eight():
    x = picture(bits=16)
    codec = Codec("image:0.25:bits=16")
    y = codec.decode(codec.encode(x))
    assert psnr(x, y, 65535) > 58 and len(np.unique(y % 257)) > 200


def test_rows_of_other_kinds_are_refused_in_words():
    with pytest.raises(SpecError, match="try channels=1"):
        Codec("image").encode(np.zeros((4, 16), np.uint8))
    for spec in ("image", "tokens"):
        with pytest.raises(SpecError, match="cut it into parts"):
            Codec(spec).layout(Form(60_000, 3 * 60_000))
    with pytest.raises(SpecError, match="multiple of 64; try 128"):
        Codec("image:tile=100")


def test_a_picture_is_one_block():
    x = np.tile(picture(256, 256), (6, 3, 1))
    codes = Codec("image:40").encode(x)
    assert len(codes.blocks) == 1
    with compand.open(codes.to_bytes()) as file:
        entry = next(iter(file.values()))
        assert np.array_equal(entry.array(slice(700, 900)), Codec("image:40").decode(codes)[700:900])


def stream(x, spec):
    codec = Codec(spec)
    return codec.stage, codec.encode(x).blocks[0].parts, codec.form(x.shape, "uint8")


@pytest.mark.parametrize("step", [8, 60])
def test_tiles_change_no_pixel(step):
    """Bases, filter and choices go over the seams; only bits are coded apart, so no overlap is wanted."""
    x = picture(300, 340)
    whole = Codec(f"image:{step}:tile=512")
    for tile in (64, 128, 256):
        codec = Codec(f"image:{step}:tile={tile}")
        assert np.array_equal(codec.decode(codec.encode(x)), whole.decode(whole.encode(x)))


def test_lost_parts_are_concealed():
    x = picture(256, 320)
    stage, parts, form = stream(x, "image:16:tile=64")
    whole = stage.decode(parts, form).reshape(x.shape)
    lost = np.zeros((20, 2), bool)
    lost[[2, 9, 13, 16]] = True  # all of 4 of 20 tiles
    y, gone = stage.restored(parts, form, lost=lost)
    assert np.array_equal(gone, lost)
    y = y.reshape(x.shape)
    grid = np.kron(lost[:, 0].reshape(4, 5), np.ones((64, 64), bool))
    inner = np.kron(~lost[:, 0].reshape(4, 5), np.pad(np.ones((30, 30), bool), 17))
    assert psnr(x[inner], y[inner]) > psnr(x[inner], whole[inner]) - 0.5
    flat = np.full_like(x[grid], 128)
    assert psnr(x[grid], y[grid]) > psnr(x[grid], flat) + 3
    lost[:] = [False, True]  # only details of all
    coarse, _ = stage.restored(parts, form, lost=lost)
    assert 18 < psnr(x, coarse.reshape(x.shape)) < psnr(x, whole)
    with pytest.raises(CompandError, match="two flags for each of 20"):
        stage.restored(parts, form, lost=lost[:3])


def test_damage_is_found_and_stays_within_its_tile():
    x = picture(256, 320)
    stage, parts, form = stream(x, "image:16:tile=64")
    whole = stage.decode(parts, form).reshape(x.shape)
    data = parts["codes"].copy()
    data[-40] ^= 16  # in the details of the last tile
    with pytest.raises(CompandError, match="damaged"):
        stage.decode({"codes": data}, form)
    y, gone = stage.restored({"codes": data}, form)
    assert gone.sum() == 1 and gone[-1, 1]
    assert np.array_equal(y.reshape(x.shape)[:180, :240], whole[:180, :240])


def test_hostile_streams_end_in_a_picture_or_an_error():
    x = picture(96, 128)
    stage, parts, form = stream(x, "image:12:tile=64")
    good, rng, ends = parts["codes"], np.random.default_rng(0), set()
    for i in range(150):
        data = good.copy()
        if i % 3 == 0:
            data = data[:rng.integers(len(data))]
        elif i % 3 == 1:
            data[rng.integers(0, 30, 3)] = rng.integers(0, 256, 3)
        else:
            data = rng.integers(0, 256, rng.integers(1, 400)).astype(np.uint8)
        for conceal in (False, True):
            try:
                y, _ = stage.restored({"codes": data}, form, conceal=conceal)
                assert np.isfinite(y).all() and y.min() >= 0 and y.max() <= 255
                ends.add("picture")
            except CompandError:
                ends.add("error")
    assert ends == {"picture", "error"}


def test_streams_with_right_checks_but_wrong_bits_end_well():
    """Past the checks: the decoder itself meets bits no encoder made."""
    def check(b):
        h = 2166136261
        for v in b:
            h = (h ^ v) * 16777619 & 0xFFFFFFFF
        return (h ^ h >> 16) & 0xFFFF

    rng = np.random.default_rng(1)
    stage, form = Codec("image:12:tile=64").stage, Form(64, 192)
    for i in range(60):
        pieces = [rng.integers(0, 256, rng.integers(0, 120)).astype(np.uint8).tobytes() for _ in range(2)]
        if i % 2:
            pieces[0] = stage.encode(picture(64, 64).reshape(64, -1))["codes"][6:40].tobytes()
        table = b"".join(bytes([len(p)]) + check(p).to_bytes(2, "little") for p in pieces)
        data = np.frombuffer(table + b"".join(pieces), np.uint8)
        try:
            y, _ = stage.restored({"codes": data}, form, conceal=bool(i % 3))
            assert np.isfinite(y).all()
        except CompandError:
            pass


def test_mutants_of_a_file():
    data = Codec("image:20:tile=64").encode(picture(96, 128)).to_bytes()
    assert check_contract(data) == "ok"
    rng = np.random.default_rng(2)
    for _ in range(40):
        mutant = bytearray(data)
        mutant[rng.integers(len(mutant))] ^= 1 << rng.integers(8)
        assert check_contract(bytes(mutant)) != "ok"


def test_model_is_small_and_loaded_once():
    assert model_named("photo") is model_named("photo")
    from importlib import resources

    assert len(resources.files("compand").joinpath("models", "photo.cpd").read_bytes()) < 3 << 20
