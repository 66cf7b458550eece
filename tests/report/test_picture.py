"""PNG files and the slider."""

import struct
import zlib

import numpy as np
import pytest

from compand import InputError
from compand.report.picture import pair, png


def unpng(data):
    """Straight from the specification: every line as the difference to the one above."""
    at, chunks = 8, {}
    while at < len(data):
        (n,) = struct.unpack(">I", data[at:at + 4])
        kind, body = data[at + 4:at + 8], data[at + 8:at + 8 + n]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + n:at + 12 + n])[0]
        chunks[kind] = body
        at += 12 + n
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert depth == 8 and list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert (lines[:, 0] == 2).all()
    return np.cumsum(lines[:, 1:], axis=0, dtype=np.uint8).reshape((height, width, 3) if colour == 2 else (height, width))


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 3), (33, 40, 3), (3, 4), (1, 9)])
def test_png(shape):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(unpng(png(x)), x)


def test_png_in_pillow():
    image = pytest.importorskip("PIL.Image", reason="a second reader of PNG")
    import io

    x = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(image.open(io.BytesIO(png(x)))), x)


def test_bad_pictures():
    for bad in (np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)):
        with pytest.raises(InputError):
            png(bad)
    with pytest.raises(InputError, match="on top"):
        pair(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), "a", "b")
    assert "&lt;b&gt;" in pair(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), "<b>", "c")


def test_slider_in_a_browser(browser, tmp_path):
    from compand.report import Page
    from compand.report.picture import PAIR

    page = Page("pair")
    black, white = np.zeros((100, 300, 3), np.uint8), np.full((100, 300, 3), 255, np.uint8)
    page.add(PAIR + pair(black, white, "a", "b"))
    path = tmp_path / "pair.html"
    path.write_text(page.html(), encoding="utf-8")
    browser.size(800, 600)
    browser.open(path.as_uri())
    assert browser.requested() == [path.as_uri()]
    box = browser.run("(()=>{const r=document.querySelector('.pair').getBoundingClientRect();return [r.x,r.y,r.width,r.height]})()")

    def bright():
        shown = browser.picture()[int(box[1]) + 5:int(box[1]) + 40, int(box[0]):int(box[0] + box[2])]
        return (shown.mean((0, 2)) > 128).mean()

    assert box[2:] == [300, 100] and 0.45 < bright() < 0.55
    browser.run("(()=>{const i=document.querySelector('.pair input');i.value=20;i.dispatchEvent(new Event('input'))})()")
    assert 0.75 < bright() < 0.85
