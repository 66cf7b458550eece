"""Pictures as tokens: rates by stages, use of the codebooks, missing indexes, equal pixels on every machine."""

from pathlib import Path

import numpy as np
import pytest

import compand
from compand import Codec, CompandError, _native
from compand.quantizer.squares import around, dealt, filled, shares
from compand.quantizer.tokens import FLAT, STAGES, K, books, tables


def scenes():
    """Pictures with smooth parts, edges and texture."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:256, :320].astype(float)
    z = np.zeros((256, 320, 3))
    for _ in range(40):
        a, f = rng.uniform(0, np.pi), rng.uniform(0.005, 0.3)
        z += rng.normal(0, 14 / (1 + 8 * f), 3) * np.sign(np.sin(f * (np.cos(a) * x + np.sin(a) * y) + rng.uniform(0, 6)))[..., None]
    return np.rint(np.clip(128 + z + rng.normal(0, 4, z.shape), 0, 255)).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_each_stage_adds():
    x = scenes()
    got, sizes, ids = [], [], []
    for stages in range(1, STAGES + 1):
        codec = Codec(f"tokens:{stages}")
        codes = codec.encode(x)
        got.append(psnr(x, codec.decode(codes)))
        sizes.append(codes.nbytes)
        ids.append(codes.symbols("ids"))
    assert np.all(np.diff(got) > 0) and np.all(np.diff(sizes) > 0)
    assert all(np.array_equal(ids[-1][:, :i + 1], part) for i, part in enumerate(ids))  # fewer stages: the first columns of more
    assert sizes[-1] < 320 * STAGES + 64


@pytest.mark.parametrize("model", ["tokens", "tokens2", "tokens3"])
def test_codebooks_are_used(model):
    books = tables(model)[2]
    assert books.shape[:2] == (STAGES, K) and all(len(np.unique(b, axis=0)) == K for b in books)


@pytest.mark.parametrize("model", ["tokens2", "tokens3"])
def test_a_newer_model_is_named_in_the_file_and_nearer(model):
    x = scenes()
    old, new = Codec("tokens:4"), Codec(f"tokens:4:model={model}")
    assert (old.spec, new.spec) == ("tokens", f"tokens:model={model}")  # what a spec without a model means never changes
    dark = np.zeros_like(x)
    for picture in (x, dark):
        data = new.compress(picture)
        assert Codec("tokens").decompress(data).tobytes() == new.decode(new.encode(picture)).tobytes()
    error = [np.abs(codec.decode(codec.encode(dark))).max() for codec in (old, new)]
    assert error[1] <= 2 and psnr(x, new.decode(new.encode(x))) > psnr(x, old.decode(old.encode(x))) - 0.5


def test_same_on_every_machine():
    x, codec, found = scenes(), Codec("tokens:8"), set()
    try:
        for level in ("scalar", "avx2", "avx512"):
            if _native.set_isa(level):
                codes = codec.encode(x)
                found.add((codes.to_bytes(), codec.decode(codes).tobytes()))
    finally:
        _native.set_isa("auto")
    assert len(found) == 1


@pytest.mark.parametrize("channels, bits", [(1, 8), (1, 16), (3, 16)])
def test_grey_and_sixteen_bits(channels, bits):
    x = scenes()[:70, :90, :channels]
    x = x.astype(np.uint16) * 257 if bits == 16 else x
    codec = Codec(f"tokens:8:channels={channels}:bits={bits}")
    y = codec.decode(codec.encode(x))
    assert y.dtype == x.dtype and psnr(x / (257 if bits == 16 else 1), y / (257 if bits == 16 else 1)) > 20


def test_missing_indexes_are_foretold():
    x = scenes()
    codec = Codec("tokens:4")
    codes = codec.encode(x)
    ids, stage, form = {"ids": codes.symbols("ids")}, codec.stage, codes.form
    whole = psnr(x, stage.restored(ids, form).reshape(x.shape))
    lost = np.random.default_rng(0).random(ids["ids"].shape) < 0.2
    some = psnr(x, stage.restored(ids, form, lost=lost).reshape(x.shape))
    assert 12 < some < whole
    none = psnr(x, stage.restored(ids, form, lost=np.ones_like(lost)).reshape(x.shape))
    late = np.zeros_like(lost)
    late[:, 2:] = lost[:, 2:]
    assert none < some < psnr(x, stage.restored(ids, form, lost=late).reshape(x.shape)) < whole
    with pytest.raises(CompandError, match="one flag"):
        stage.restored(ids, form, lost=lost[:, :2])


@pytest.mark.parametrize("spread", [1, 2, 5, 16, 64])
def test_squares_are_dealt_out_and_gathered(spread):
    x = scenes()[:, :-3]
    codec, plain = Codec(f"tokens:3:spread={spread}"), Codec("tokens:3")
    codes = codec.encode(x)
    found = {name: codes.symbols(name) for name in codec.stage.layout(codes.form)}
    ids, gone = codec.stage.gather(found, codes.form)
    assert len(found) == spread and not gone.any() and np.array_equal(ids, plain.encode(x).symbols("ids"))
    assert np.array_equal(codec.decode(codes), plain.decode(plain.encode(x)))


@pytest.mark.parametrize("spread, least", [(5, 5), (10, 10), (20, 20), (64, 52)])
def test_squares_of_a_part_lie_apart(spread, least):
    part = dealt(40, 70, spread).reshape(40, 70)
    assert np.bincount(part.ravel()).tolist() == shares(40, 70, spread)
    rows, columns = np.nonzero(part == 1)
    far = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    assert far[far > 0].min() >= least


def test_a_fifth_of_the_parts_missing_costs_little():
    x = scenes()
    codec = Codec("tokens:4:model=tokens3:spread=20")
    codes = codec.encode(x)
    parts = {name: codes.symbols(name) for name in codec.stage.layout(codes.form)}
    whole = psnr(x, codec.stage.restored(parts, codes.form).reshape(x.shape))
    left = {name: ids for i, (name, ids) in enumerate(parts.items()) if i % 5}
    got = codec.stage.restored(left, codes.form).reshape(x.shape)
    _, gone = codec.stage.gather(left, codes.form)
    assert 0.19 < gone.mean() < 0.21 and whole - 2.5 < psnr(x, got) < whole
    flat = codec.stage.restored(parts, codes.form).reshape(x.shape).copy()  # foretold is nearer than a grey square
    flat[np.kron(gone.reshape(16, 20), np.ones((16, 16), bool))] = 128
    assert psnr(x, got) > psnr(x, flat) + 1.5
    with pytest.raises(CompandError, match="lost"):
        codec.stage.restored({}, codes.form)


def test_filled_squares_are_those_of_the_reference():
    rng = np.random.default_rng(4)
    down, across = 7, 9
    values, gone = rng.integers(-9000, 9000, (down * across, 64)), rng.random(down * across) < 0.5
    gone[:across * 2] = True
    grid, there = np.where(gone[:, None], 0, values).reshape(down, across, 64), ~gone.reshape(down, across)
    while not there.all():
        new, now = grid.copy(), there.copy()
        for r, c in np.argwhere(~there):
            near = [(r + a, c + b) for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1)) if 0 <= r + a < down and 0 <= c + b < across]
            if near := [at for at in near if there[at]]:
                new[r, c, FLAT] = sum(grid[at][list(FLAT)] for at in near) // len(near)
                now[r, c] = True
        grid, there = new, now
    out = grid.copy()
    for r, c in np.argwhere(gone.reshape(down, across)):
        near = [grid[r + a, c + b] if 0 <= r + a < down and 0 <= c + b < across else grid[r, c]
                for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1))]
        out[r, c] = (np.concatenate(near) @ around() + 2048) >> 12
    assert np.array_equal(filled(values, gone, down, across, FLAT), out.reshape(-1, 64))


def test_fewer_words_are_shorter_ids_of_one_model():
    x = scenes()
    got, sizes = [], []
    for words in (16, 64, 200, 256):
        codec = Codec(f"tokens:3:words={words}:model=tokens3")
        codes = codec.encode(x)
        assert codes.symbols("ids").max() < words
        got.append(psnr(x, codec.decode(codes)))
        sizes.append(codes.nbytes)
    assert np.all(np.diff(got) > 0) and np.all(np.diff(sizes) > 0)
    small, all_ = books("tokens3", 64), books("tokens3", 256)
    assert np.array_equal(small[:, :16], books("tokens3", 16))  # smaller ones are the first of larger ones
    assert all({tuple(w) for w in own} <= {tuple(w) for w in every} for own, every in zip(small, all_, strict=True))
    with pytest.raises(CompandError, match="model=tokens3"):
        Codec("tokens:3:words=64")


def test_damage_ends_in_an_error_or_a_picture():
    data = bytearray(Codec("tokens:3").encode(scenes()[:64, :64]).to_bytes())
    for i in range(0, len(data), 7):
        mutant = bytearray(data)
        mutant[i] ^= 85
        with pytest.raises(CompandError):
            compand.Codec.decompress(bytes(mutant))


def test_most_of_the_newest_first_codebook_is_used_on_photographs():
    """The share that the 24 pictures of Kodak use; skipped where they are not at hand."""
    paths = sorted((Path(__file__).parents[2].parent / "shared" / "data" / "images" / "kodak").glob("*.png"))
    if len(paths) < 24:
        pytest.skip("no Kodak pictures beside the repository")
    image = pytest.importorskip("PIL.Image")
    codec, used = Codec("tokens:1:model=tokens3"), set()
    for path in paths:
        used.update(np.unique(codec.encode(np.asarray(image.open(path).convert("RGB"))).symbols("ids")).tolist())
    assert len(used) >= 0.9 * K
