"""Pixels of picture files: by Pillow, and by own code where Pillow knows 8 bits only (PNG and PPM of 16 bits and three channels)."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import NamedTuple

import numpy as np

from ... import _native  # type: ignore[attr-defined]
from ...errors import CompandError, FormatError, InputError, UnsupportedError
from ...limits import Limits
from ..source import Mapped

KEPT = ("exif", "icc")


class Pixels(NamedTuple):
    """A picture: ``color`` (h, w) or (h, w, 3), ``alpha`` (h, w) or None, all uint8 or all uint16; bytes of EXIF and ICC or b''."""

    color: np.ndarray
    alpha: np.ndarray | None = None
    exif: bytes = b""
    icc: bytes = b""

    @classmethod
    def of(cls, x: np.ndarray) -> Pixels:
        """Of one array (h, w) or (h, w, 1 to 4), uint8 or uint16; an even number of channels ends with alpha. Raises `InputError`."""
        x = x[..., None] if x.ndim == 2 else x
        if x.ndim != 3 or not 1 <= x.shape[2] <= 4 or x.dtype not in (np.uint8, np.uint16) or not x.size:
            raise InputError(f"a picture is uint8 or uint16 (h, w) or (h, w, 1 to 4), not {x.dtype} {list(x.shape)}")
        alpha = x[..., -1] if x.shape[2] in (2, 4) else None
        color = x[..., :3] if x.shape[2] > 2 else x[..., 0]
        if alpha is not None and (alpha == np.iinfo(x.dtype).max).all():
            alpha = None
        return cls(np.ascontiguousarray(color), None if alpha is None else np.ascontiguousarray(alpha))

    def array(self) -> np.ndarray:
        """One array, with alpha as the last channel."""
        return self.color if self.alpha is None else np.dstack([self.color, self.alpha])


def pillow():
    """Pillow's Image module. Raises `UnsupportedError` if it is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise UnsupportedError("pictures need Pillow: pip install 'compand[image]'") from None
    return Image


def load(path, kind: str, limits: Limits) -> Pixels:
    """The pixels of a file of this kind. Raises `FormatError` for what is damaged, `LimitError` for what is too large."""
    file = Mapped(path)
    if kind == "ppm":
        return _ppm(file, limits)
    head = file.bytes(0, min(file.size, 33))
    if kind == "png" and len(head) == 33 and head[24] == 16 and head[25] in (2, 4, 6):
        return _png16(file, limits)
    image_module = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            limit, image_module.MAX_IMAGE_PIXELS = image_module.MAX_IMAGE_PIXELS, None
            try:
                with image_module.open(io.BytesIO(file.bytes(0, file.size))) as picture:
                    limits.check("allocation", 16 * picture.width * picture.height, str(path))
                    exif, icc = picture.info.get("exif", b""), picture.info.get("icc_profile", b"") or b""
                    if picture.mode in ("I;16", "I;16L", "I;16B", "I"):
                        x = np.asarray(picture)
                        if x.size and (int(x.min()) < 0 or int(x.max()) > 65535):
                            raise UnsupportedError(f"{path}: grey values beyond 16 bits")
                        return Pixels.of(x.astype(np.uint16))._replace(exif=exif, icc=icc)
                    if picture.mode == "F":
                        raise UnsupportedError(f"{path}: pixels are floats; save the array as .npy and compress that")
                    clear = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
                    grey = picture.mode in ("1", "L", "LA", "La")
                    x = np.asarray(picture.convert(("LA" if grey else "RGBA") if clear else "L" if grey else "RGB"))
            finally:
                image_module.MAX_IMAGE_PIXELS = limit
    except CompandError:
        raise
    except Exception as e:  # damage ends in any class there is
        raise FormatError(f"{path}: a damaged {kind} picture ({str(e)[:120]})") from None
    return Pixels.of(x)._replace(exif=exif if isinstance(exif, bytes) else b"", icc=icc)


def save(f, pixels: Pixels, kind: str) -> None:
    """Write to an open file. Raises `UnsupportedError` where the format has no such pixels."""
    x = pixels.array()
    if kind == "png":
        f.write(png(pixels))
        return
    if kind == "ppm":
        if pixels.alpha is not None:
            raise UnsupportedError(".ppm has no alpha channel; write .png")
        f.write(f"P{6 if x.ndim == 3 else 5}\n{x.shape[1]} {x.shape[0]}\n{np.iinfo(x.dtype).max}\n".encode())
        f.write(x.astype(x.dtype.newbyteorder(">")).tobytes())
        return
    if x.dtype == np.uint16 and not (kind == "tiff" and x.ndim == 2):
        raise UnsupportedError(f"{kind} is written with 8 bits; write .png" + ("" if x.ndim == 3 else " or .tiff"))
    if kind in ("jpeg", "bmp") and pixels.alpha is not None:
        raise UnsupportedError(f"{kind} has no alpha channel; write .png")
    options = {"webp": {"lossless": True}, "jpeg": {"quality": 95, "subsampling": 0},
               "tiff": {"compression": "tiff_adobe_deflate"}}.get(kind, {})
    kept = {k: v for k, v in (("exif", pixels.exif), ("icc_profile", pixels.icc)) if v and kind != "bmp"}
    pillow().fromarray(x).save(f, kind, **options, **kept)


# -- PNG ---------------------------------------------------------------------------------------------------------------
def png(pixels: Pixels) -> bytes:
    """A PNG file of 8 or 16 bits, grey or colour, with or without alpha."""
    x = pixels.array()
    x = x[..., None] if x.ndim == 2 else x
    height, width, channels = x.shape
    rows = x.astype(x.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    step, lines = channels * x.dtype.itemsize, np.empty((height, rows.shape[1] + 1), np.uint8)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    left = np.concatenate([np.zeros_like(rows[:, :step]), rows[:, :-step]], 1)
    choices = np.stack([rows, rows - left, rows - above])  # filters 0, 1, 2; the one with the least sum of magnitudes
    best = np.abs(choices.view(np.int8).astype(np.int16)).sum(2).argmin(0)
    lines[:, 0], lines[:, 1:] = best, choices[best, np.arange(height)]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * x.dtype.itemsize, kind, 0, 0, 0))
    if pixels.icc:
        out += chunk(b"iCCP", b"profile\0\0" + zlib.compress(pixels.icc))
    if pixels.exif:
        out += chunk(b"eXIf", pixels.exif.removeprefix(b"Exif\0\0"))
    return out + chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)) + chunk(b"IEND", b"")


def _png16(file: Mapped, limits: Limits) -> Pixels:
    """A PNG of 16 bits with two to four channels. Raises `FormatError`, `UnsupportedError` if it is interlaced."""
    at, data, icc, exif, head = 8, [], b"", b"", b""
    try:
        while True:
            size, name = struct.unpack(">I4s", file.bytes(at, 8))
            body = file.bytes(at + 8, size)
            if zlib.crc32(name + body) != int.from_bytes(file.bytes(at + 8 + size, 4), "big"):
                raise FormatError(f"{file.path}: damaged: the check of a PNG chunk is wrong")
            at += 12 + size
            if name == b"IHDR":
                head = body
            elif name == b"IDAT":
                data.append(body)
            elif name == b"eXIf":
                exif = b"Exif\0\0" + body
            elif name == b"iCCP" and b"\0" in body:
                profile = zlib.decompressobj()
                icc = profile.decompress(body[body.index(b"\0") + 2:], 16 << 20)
            elif name == b"IEND":
                break
        width, height, _, kind, *rest = struct.unpack(">IIBBBBB", head)
        channels = {2: 3, 4: 2, 6: 4}[kind]
        if rest != [0, 0, 0]:
            raise UnsupportedError(f"{file.path}: an interlaced PNG of 16 bits; save it without interlacing")
        stride = 2 * channels * width
        limits.check("allocation", 4 * (stride + 1) * height, f"{file.path}: {width} x {height}")
        need = (stride + 1) * height
        raw = zlib.decompressobj().decompress(b"".join(data), need + 1)
        if len(raw) != need or not need:
            raise FormatError(f"{file.path}: damaged: {len(raw):,} bytes of pixels where {need:,} belong")
        rows = _native.png_rows(np.frombuffer(raw, np.uint8).reshape(height, stride + 1), 2 * channels)
    except (struct.error, zlib.error, KeyError, ValueError) as e:
        if isinstance(e, CompandError):
            raise
        raise FormatError(f"{file.path}: a damaged PNG ({str(e)[:120]})") from None
    return Pixels.of(rows.view(">u2").astype(np.uint16).reshape(height, width, channels))._replace(icc=icc, exif=exif)


def _ppm(file: Mapped, limits: Limits) -> Pixels:
    """A binary PGM or PPM of 8 or 16 bits. Raises `FormatError`."""
    words: list[bytes] = []
    at, head = 0, file.bytes(0, min(file.size, 1024))
    while len(words) < 4 and at < len(head):
        if head[at:at + 1] == b"#":
            at = head.find(b"\n", at) + 1 or len(head)
        elif head[at:at + 1].isspace():
            at += 1
        else:
            end = next((i for i in range(at, len(head)) if head[i:i + 1].isspace()), len(head))
            words.append(head[at:end])
            at = end
    if len(words) < 4 or not all(w.isdigit() and len(w) < 8 for w in words[1:]):
        raise FormatError(f"{file.path}: a damaged PPM header")
    width, height, most = map(int, words[1:])
    channels, dtype = 3 if words[0] == b"P6" else 1, np.dtype(">u2" if most > 255 else "u1")
    if not (width and height) or most not in (255, 65535):
        raise UnsupportedError(f"{file.path}: a PPM of {width} x {height} with values to {most}; known are 255 and 65535")
    n = width * height * channels * dtype.itemsize
    limits.check("allocation", 4 * n, str(file.path))
    x = file.array(at + 1, "uint8", (n,)).view(dtype).astype(dtype.newbyteorder("=")).reshape(height, width, channels)
    return Pixels.of(x)
