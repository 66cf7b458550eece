"""Picture files there and back: kinds, depths, alpha, what surrounds them, damage."""

import io
import struct
import zlib

import numpy as np
import pytest

import compand
from compand import CompandError, FormatError
from compand.errors import LimitError
from compand.limits import Limits
from compand.modality import detect, pack, unpack
from compand.modality.image import Picture, Pixels, conceal, read, write
from compand.modality.image.pixels import png

PIL = pytest.importorskip("PIL.Image")


def scene(h=90, w=120, channels=3, dtype=np.uint8):
    y, x = np.mgrid[:h, :w]
    z = np.stack([(x * 2 + 40 * (c + 1) * (x > y)) % 256 for c in range(channels)], -1).astype(np.float64)
    z = z * (257 if dtype == np.uint16 else 1) + (y[..., None] % 7 if dtype == np.uint16 else 0)
    return z.clip(0, np.iinfo(dtype).max).astype(dtype)[..., 0] if channels == 1 else z.clip(0, np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_every_kind(tmp_path, dtype, channels):
    x = scene(channels=channels, dtype=dtype)
    write(tmp_path / "a.png", x)
    assert np.array_equal(read(tmp_path / "a.png"), x)
    if dtype == np.uint8 or channels == 1:
        assert np.array_equal(np.asarray(PIL.open(tmp_path / "a.png")), x)


def test_png_filters_of_others(tmp_path):
    """Sixteen bits, each of the five filters of PNG."""
    x = scene(10, 12, 3, np.uint16)
    rows = x.astype(">u2").view(np.uint8).reshape(10, -1).astype(int)
    lines = []
    for y in range(10):
        up = rows[y - 1] if y else np.zeros_like(rows[0])
        left, corner = (np.concatenate([np.zeros(6, int), r[:-6]]) for r in (rows[y], up))
        p = left + up - corner
        a, b, c = abs(p - left), abs(p - up), abs(p - corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, up, corner))
        guess = [0 * up, left, up, (left + up) // 2, paeth][y % 5]
        lines.append(bytes([y % 5]) + ((rows[y] - guess) % 256).astype(np.uint8).tobytes())
    data = png(Pixels.of(x))
    at = data.index(b"IDAT")
    body = zlib.compress(b"".join(lines))
    chunk = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    (tmp_path / "a.png").write_bytes(data[:at - 4] + chunk + data[-12:])
    assert np.array_equal(read(tmp_path / "a.png"), x)


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".tiff", ".webp", ".bmp"])
def test_containers_that_keep_pixels(tmp_path, suffix):
    x = scene()
    write(tmp_path / f"a{suffix}", x)
    assert np.array_equal(read(tmp_path / f"a{suffix}"), x)
    with detect(tmp_path / f"a{suffix}") as source:
        assert (source.modality, [i.name for i in source.items()]) == ("image", ["image"])


def test_palette_grey_and_jpeg(tmp_path):
    picture = PIL.fromarray(scene())
    for name, kind in (("p.png", picture.quantize(16)), ("g.jpg", picture.convert("L")), ("c.jpg", picture),
                       ("b.png", picture.convert("1"))):
        kind.save(tmp_path / name)
        expected = np.asarray(kind.convert("L" if kind.mode in ("L", "1") else "RGB"))
        assert np.abs(read(tmp_path / name).astype(int) - expected).mean() < 4
    picture.quantize(16).save(tmp_path / "t.png", transparency=3)
    assert read(tmp_path / "t.png").shape == (90, 120, 4)


def test_there_and_back(tmp_path):
    x = scene(channels=4, dtype=np.uint16)
    write(tmp_path / "a.png", x)
    pack(tmp_path / "a.png", tmp_path / "a.cpd", spec="image:2")
    with compand.open(tmp_path / "a.cpd") as file:
        assert file["image"].spec == "image:2:bits=16" and file["alpha"].codec.stage.raw
    unpack(tmp_path / "a.cpd", tmp_path / "b.png")
    y = read(tmp_path / "b.png")
    assert np.array_equal(y[..., 3], x[..., 3]) and np.abs(y.astype(float) - x).mean() < 300


def test_what_surrounds_a_picture_is_kept_on_request(tmp_path):
    exif = PIL.Exif()
    exif[0x010E] = "a title"
    PIL.fromarray(scene()).save(tmp_path / "a.png", exif=exif, icc_profile=b"profile" * 40)
    for keep in (False, True):
        with Picture(tmp_path / "a.png", keep=keep) as source:
            assert bool(source.notes) is not keep
            pack(source, tmp_path / "a.cpd", spec="image:20", overwrite=True)
        for suffix in (".png", ".webp", ".jpg", ".tiff"):
            out = tmp_path / f"b{suffix}"
            unpack(tmp_path / "a.cpd", out, overwrite=True)
            with PIL.open(out) as back:
                assert (back.info.get("icc_profile") == b"profile" * 40) is keep, suffix
                assert (back.getexif().get(0x010E) == "a title") is keep or suffix == ".tiff"


def test_damaged_file_is_concealed(tmp_path):
    x = np.tile(scene(128, 128), (2, 2, 1))
    write(tmp_path / "a.png", x)
    pack(tmp_path / "a.png", tmp_path / "a.cpd", spec="image:8:tile=64")
    with compand.open(tmp_path / "a.cpd") as file:
        good = file["image"].array()
        at = file._container.offset(0) + file._container.sizes[0] - 3
    data = bytearray((tmp_path / "a.cpd").read_bytes())
    data[at] ^= 255
    (tmp_path / "b.cpd").write_bytes(data)
    with compand.open(tmp_path / "b.cpd") as file:
        with pytest.raises(CompandError, match="damaged"):
            file["image"].array()
        pixels, gone = conceal(file)
    assert gone.sum() == 1 and (pixels.color != good).any(2).mean() < 0.12


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_damaged_tokens_are_foretold(tmp_path, share):
    x = np.tile(scene(128, 128), (2, 2, 1))
    write(tmp_path / "a.png", x)
    pack(tmp_path / "a.png", tmp_path / "a.cpd", spec="tokens:4:model=tokens3:spread=20")
    with compand.open(tmp_path / "a.cpd") as file:
        good, chunks = file["image"].array(), file._container
        spots = [chunks.offset(i) + chunks.sizes[i] // 2 for i in range(20)]
    data = bytearray((tmp_path / "a.cpd").read_bytes())
    for spot in spots[3:3 + round(20 * share)]:
        data[spot] ^= 16
    (tmp_path / "b.cpd").write_bytes(data)
    with compand.open(tmp_path / "b.cpd") as file:
        with pytest.raises(CompandError, match="damaged"):
            file["image"].array()
        pixels, gone = conceal(file)
    assert abs(gone.mean() - share) < 0.02 and (gone == gone[:, :1]).all()
    same = (pixels.color == good).all(2).reshape(16, 16, 16, 16).all((1, 3)).reshape(-1)
    assert np.array_equal(same, ~gone[:, 0]) and np.abs(pixels.color.astype(int) - good).mean() < 30 * share
    for spot in spots:
        data[spot] = 255 - data[spot]
    (tmp_path / "c.cpd").write_bytes(data)
    with compand.open(tmp_path / "c.cpd") as file, pytest.raises(CompandError):
        conceal(file)


def test_damaged_pictures_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    originals = []
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"):
        buffer = io.BytesIO()
        PIL.fromarray(scene(40, 40)).save(buffer, kind)
        originals.append(buffer.getvalue())
    originals.append(png(Pixels.of(scene(20, 20, 3, np.uint16))))
    originals.append(b"P6\n4 4\n65535\n" + bytes(96))
    path = tmp_path / "x"
    for original in originals:
        for i in range(25):
            data = bytearray(original)
            for _ in range(1 + i % 3):
                data[rng.integers(2, len(data))] ^= int(rng.integers(1, 256))
            path.write_bytes(bytes(data[:rng.integers(3, len(data))]) if i % 4 == 0 else bytes(data))
            try:
                assert read(path).size
            except CompandError:
                pass


def test_pictures_beyond_the_limits_name_the_limit(tmp_path):
    few = Limits(allocation=1000)
    for suffix, dtype in ((".png", np.uint8), (".png", np.uint16), (".ppm", np.uint8), (".webp", np.uint8)):
        write(tmp_path / f"a{suffix}", scene(dtype=dtype), overwrite=True)
        with pytest.raises(LimitError, match="limits=Limits"):
            read(tmp_path / f"a{suffix}", limits=few)


def test_what_is_no_picture_says_so(tmp_path):
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(FormatError, match="not a picture"):
        Picture(tmp_path / "a.png")
    with pytest.raises(CompandError, match="uint8 or uint16"):
        write(tmp_path / "b.png", np.zeros((4, 4), np.float32))
    with pytest.raises(CompandError, match="8 bits"):
        write(tmp_path / "b.webp", scene(dtype=np.uint16))
