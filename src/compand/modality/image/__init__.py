"""Pictures: PNG, JPEG, WebP, TIFF, BMP and PPM ↔ the arrays ``image`` (lossy) and ``alpha`` (kept), EXIF and ICC on request.

    with Picture("photo.png", keep=True) as source:
        pack(source, "photo.cpd", spec="image:24")
    picture = read("photo.cpd")               # or any picture file: height x width x channels, uint8 or uint16
    write("photo.png", picture)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import FormatError, InputError, UnsupportedError
from ...limits import DEFAULT, Limits
from ...stage import Stage
from ..source import Item, Mapped, Source
from .pixels import KEPT, Pixels

ENTRY, ALPHA = "image", "alpha"
SUFFIXES = {".png": "png", ".tif": "tiff", ".tiff": "tiff", ".webp": "webp", ".ppm": "ppm", ".jpg": "jpeg", ".jpeg": "jpeg", ".bmp": "bmp"}
WRITES = ("png", "tiff", "webp", "ppm", "jpeg", "bmp")

__all__ = ["ALPHA", "ENTRY", "Picture", "Pixels", "adapted", "conceal", "format_of", "from_file", "read", "write", "write_to"]


def format_of(path) -> str | None:
    """'png', 'jpeg', 'webp', 'tiff', 'bmp', 'gif' or 'ppm' of a picture file, by its first bytes; else None."""
    path = Path(path)
    if path.is_dir():
        return None
    file = Mapped(path)
    head = file.bytes(0, min(file.size, 16))
    if head.startswith(b"RIFF"):
        return "webp" if head[8:12] == b"WEBP" else None
    if head[:2] in (b"P5", b"P6") and head[2:3].isspace():
        return "ppm"
    if head[:2] == b"BM" and file.size >= 26 and int.from_bytes(head[2:6], "little") == file.size:
        return "bmp"
    marks = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"II*\0": "tiff", b"MM\0*": "tiff", b"GIF8": "gif"}
    return next((kind for mark, kind in marks.items() if head.startswith(mark)), None)


class Picture(Source):
    """A picture file: `items()` are ``image`` (h, w) or (h, w, 3), uint8 or uint16, and ``alpha`` (h, w) if it is not all opaque.

    ``keep``: EXIF data and the colour profile are kept as files of the .cpd, and come back in formats that hold them.
    """

    modality = "image"

    def __init__(self, path, *, keep: bool = False, exact: bool = False, limits: Limits = DEFAULT):
        from .pixels import load

        kind = format_of(path)
        if kind is None:
            raise FormatError(f"{path}: not a picture that compand reads (PNG, JPEG, WebP, TIFF, BMP, GIF, PPM)")
        self.format = kind  # type: ignore[misc]
        super().__init__(path)
        self.pixels = load(path, kind, limits)
        self.meta = {"format": kind}
        self.exact = exact
        if keep or exact:
            self.files |= {name: data for name in KEPT if (data := getattr(self.pixels, name))}
        elif self.pixels.icc or self.pixels.exif:
            self.notes.append("EXIF data and colour profile are left out; --keep keeps them")

    def items(self):
        for name, x in ((ENTRY, self.pixels.color), (ALPHA, self.pixels.alpha)):
            if x is not None:
                yield Item(name, x.shape, x.dtype.name, lambda rows=None, x=x: x if rows is None else x[rows])


def adapted(stage: Stage, item: Item) -> Stage:
    """A stage ``image`` or ``tokens`` set to the channels and bits of a picture; other stages as they are."""
    if stage.name not in ("image", "tokens"):
        return stage
    return replace(stage, channels=3 if len(item.shape) == 3 else 1, bits=16 if item.dtype == "uint16" else 8)  # type: ignore[call-arg]


def from_file(file) -> Pixels:
    """The picture in an open .cpd. Raises `FormatError` if it holds none."""
    names = {n for n in file.names if file[n].kind == "array"}
    if ENTRY not in names:
        raise FormatError("this .cpd holds no picture")
    color, alpha = file[ENTRY].array(), file[ALPHA].array() if ALPHA in names else None
    kept = {n: file[n].array().tobytes() for n in KEPT if n in file and file[n].kind == "file"}
    return Pixels(color, alpha, **kept)


def conceal(file, lost: np.ndarray | None = None) -> tuple[Pixels, np.ndarray]:
    """The picture in an open .cpd in spite of damage to its codes, and what of them was not used.

    Of ``image``: coarse part and details of each tile, (tiles, 2) bool. Tiles whose own check fails are restored from their neighbours,
    or left coarse. Of ``tokens``: each index, (squares, stages) bool, row by row. Squares of parts whose check fails are foretold from
    those around. ``lost``, of the same shape, leaves out others on purpose. Raises `CorruptError` if the table of tiles, all parts, or the
    alpha channel are damaged.
    """
    entry = file[ENTRY] if ENTRY in file else None
    stage = entry.codec.stage if entry is not None and entry.kind == "array" else None
    if entry is None or stage is None or stage.name not in ("image", "tokens"):
        raise FormatError("this .cpd holds no picture coded with the stages 'image' or 'tokens'")
    form = entry.codec.form(entry.shape, entry.dtype)
    if stage.name == "image":
        rows, gone = stage.restored({"codes": entry.unchecked("codes")}, form, lost=lost)
    else:
        parts = entry.intact()
        rows = stage.restored(parts, form, lost=lost)
        gone = np.repeat(stage.gather(parts, form)[1][:, None], stage.stages, 1) | (False if lost is None else lost)
    alpha = file[ALPHA].array() if ALPHA in file else None
    return Pixels(rows.astype(entry.dtype).reshape(entry.shape), alpha), gone


def read(path, *, limits: Limits = DEFAULT) -> np.ndarray:
    """The picture of a file or a .cpd as one array: (h, w), (h, w, 3), or with alpha as the last channel; uint8 or uint16."""
    path = Path(path)
    if path.exists() and path.is_file():
        with open(path, "rb") as f:
            packed = f.read(4) == b"\x89CPD"
        if packed:
            from ...file import open as open_file

            with open_file(path, limits=limits) as file:
                return from_file(file).array()
    return Picture(path, limits=limits).pixels.array()


def write(path, picture, *, overwrite: bool = False, format: str | None = None) -> None:
    """Write a picture (an array, or `Pixels`); the suffix says how. Raises `InputError`, `OverwriteError`."""
    from ..output import whole_file

    path = Path(path)
    kind = format or SUFFIXES.get(path.suffix.lower())
    if kind not in WRITES:
        raise InputError(f"{path}: cannot write a picture as {path.suffix or 'a file without suffix'}; suffixes: {', '.join(SUFFIXES)}")
    pixels = picture if isinstance(picture, Pixels) else Pixels.of(np.asarray(picture))
    with whole_file(path, overwrite=overwrite) as f:
        write_to(f, pixels, kind)


def write_to(f, pixels: Pixels, kind: str) -> None:
    """Write a picture to an open binary file. Raises `UnsupportedError` where the format has no such pixels."""
    from .pixels import save

    if kind not in WRITES:
        raise UnsupportedError(f"pictures are written as {', '.join(WRITES)}, not {kind}")
    save(f, pixels, kind)
