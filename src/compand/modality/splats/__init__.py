"""Scenes of 3D Gaussian splats: one in-memory form, `Splats`, and the formats people ship.

    from compand.modality.splats import read, write
    scene = read("scene.ply")             # told apart by content
    write("scene.ply", scene)
"""

from __future__ import annotations

from pathlib import Path

from ...errors import FormatError, InputError
from ...limits import DEFAULT, Limits
from ..source import Mapped
from .splats import SH_C0, Splats

__all__ = ["SH_C0", "Splats", "read", "write"]

READS = "INRIA-style PLY"


def read(path, *, limits: Limits = DEFAULT) -> Splats:
    """The scene of a file, whatever its format. Raises `FormatError` for what is no scene of splats."""
    path = Path(path)
    file = Mapped(path)
    if file.size >= 4 and file.bytes(0, 4) in (b"ply\n", b"ply\r"):
        from .ply import read as read_ply

        return read_ply(file, limits)
    raise FormatError(f"{path}: not a scene of splats that compand reads ({READS})")


def write(path, scene: Splats, *, overwrite: bool = False) -> None:
    """Write a scene; the suffix says how. Raises `OverwriteError` if the file exists, `InputError` for an unknown suffix."""
    from ..output import whole_file

    path = Path(path)
    if path.suffix.lower() != ".ply":
        raise InputError(f"{path}: cannot write splats as {path.suffix or 'a file without suffix'}; give it a suffix of .ply")
    from .ply import write as write_ply

    with whole_file(path, overwrite=overwrite) as f:
        write_ply(f, scene)
