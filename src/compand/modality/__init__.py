"""Foreign objects ↔ named arrays: what can be compressed, told apart by content, and how it is written back.

    with compand.modality.detect("model.safetensors") as source:
        for name, shape, dtype, load in source.items(): ...
    compand.modality.pack("model.safetensors", "model.cpd", lossless=True)
    compand.modality.unpack("model.cpd", "model.safetensors")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import FormatError, InputError
from .source import Item, Source

__all__ = ["Item", "Source", "detect", "pack", "unpack"]

READS = (".npy, .npz, Parquet and Arrow/Feather columns of vectors, .safetensors, a folder with .safetensors "
         "(Hugging Face), GGUF; scenes of splats as PLY, SPZ, SOG, .splat, KSPLAT; pictures as PNG, JPEG, WebP, TIFF, BMP, GIF, PPM")


def detect(path, *, exact: bool = False, keep: bool = False) -> Source:
    """Open a foreign object with the reader its content asks for.

    ``exact`` gives GGUF blocks and quantized model folders as they are instead of dequantized, splats attribute by attribute, and keeps
    what surrounds pictures, as ``keep`` does. Raises `FormatError` for anything not read, `InputError` for a path that cannot be opened.
    """
    from .source import Mapped
    from .splats import Scene, format_of

    path = Path(path)
    if format_of(path):
        return Scene(path, exact=exact)
    from .image import Picture
    from .image import format_of as picture_format

    if picture_format(path):
        return Picture(path, exact=exact, keep=keep)
    if path.is_dir():
        from .quantized import open_folder

        return open_folder(path, exact=exact)

    file = Mapped(path)
    head = file.bytes(0, min(file.size, 16))
    if head.startswith(b"\x93NUMPY"):
        from .npy import Npy

        return Npy(path)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        from .npz import Npz

        return Npz(path)
    if head.startswith(b"GGUF"):
        from .gguf import Gguf

        return Gguf(path, exact=exact)
    if head.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        from .arrow import Arrow

        return Arrow(path)
    if head[8:9] == b"{" and len(head) > 9 and int.from_bytes(head[:8], "little") <= file.size - 8:
        from .safetensors import Safetensors

        return Safetensors(path)
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise FormatError(f"{path}: a pickle, which runs code when it is opened; convert it to .safetensors or .npy first")
    if not head:
        raise FormatError(f"{path}: the file is empty")
    raise FormatError(f"{path}: not a file compand compresses (starts with {head[:8]!r}); it reads {READS}")


def pack(source, path, **options: Any):
    """Compress a foreign object into a .cpd file; see `compand.modality.packing.pack`."""
    from .packing import pack as run

    return run(source, path, **options)


def unpack(path, out, **options: Any):
    """Write what a .cpd file holds back as its own container; see `compand.modality.packing.unpack`."""
    from .packing import unpack as run

    return run(path, out, **options)


def _open(source, *, exact: bool = False) -> Source:
    """A `Source` as it is, or the one a path asks for."""
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, Path)):
        return detect(source, exact=exact)
    raise InputError(f"{type(source).__name__} is not a path or a Source")
