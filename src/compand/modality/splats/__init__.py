"""Scenes of 3D Gaussian splats: one in-memory form, `Splats`, and the formats people ship.

    from compand.modality.splats import read, write
    scene = read("scene.ply")             # told apart by content
    write("scene.spz", scene)             # by its suffix
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import FormatError, InputError
from ...limits import DEFAULT, Limits
from ..source import Mapped
from .scene import Scene, finite, from_file, matrix, order
from .splats import SH_C0, Splats

__all__ = ["SH_C0", "Scene", "Splats", "format_of", "from_file", "matrix", "order", "read", "write", "write_to"]

READS = "PLY and compressed PLY, .splat, SPZ, SOG (.sog, or meta.json beside its pictures), KSPLAT, .cpd"
WRITES = {".ply": "ply", ".spz": "spz", ".sog": "sog", ".splat": "splat"}


def format_of(path) -> str | None:
    """'ply', 'spz', 'sog', 'splat' or 'ksplat' of a file of splats, by content where it has a mark, else by suffix; else None."""
    path = Path(path)
    if path.is_dir():
        return "sog" if (path / "meta.json").is_file() and any(path.glob("means*.webp")) else None
    file = Mapped(path)
    head = file.bytes(0, min(file.size, 4))
    if head in (b"ply\n", b"ply\r"):
        return "ply"
    if head == b"NGSP" or (head[:2] == b"\x1f\x8b" and path.suffix.lower() == ".spz"):
        return "spz"
    if head[:2] == b"PK":
        from .sog import is_bundle

        return "sog" if is_bundle(path) else None
    if path.name.lower() == "meta.json":
        return "sog"
    return {".splat": "splat", ".ksplat": "ksplat"}.get(path.suffix.lower())


def read(path, *, limits: Limits = DEFAULT) -> Splats:
    """The scene of a file or folder, whatever its format. Raises `FormatError` for what is no scene of splats."""
    found = opened(path, limits)
    return found if isinstance(found, Splats) else found.scene()


def opened(path, limits: Limits = DEFAULT):
    """As `read`, but of a PLY the `ply.Table` whose splats are read when asked for."""
    path = Path(path)
    kind = format_of(path)
    if kind == "sog":
        from .sog import read as read_sog

        return read_sog(path, limits)
    file = Mapped(path)
    if kind is None and file.size >= 4 and file.bytes(0, 4) == b"\x89CPD":
        from ...file import open as open_file

        with open_file(path, limits=limits) as packed:
            return from_file(packed)
    if kind == "ply":
        from .ply import opened as run
    elif kind == "spz":
        from .spz import read as run
    elif kind == "splat":
        from .antimatter import read as run
    elif kind == "ksplat":
        from .ksplat import read as run
    else:
        raise FormatError(f"{path}: not a scene of splats that compand reads ({READS})")
    return run(file, limits)


def write(path, scene: Splats, *, overwrite: bool = False, format: str | None = None) -> None:
    """Write a scene; the suffix says how. Raises `OverwriteError` if the file exists, `InputError` for an unknown suffix."""
    from ..output import whole_file

    path = Path(path)
    kind = format or WRITES.get(path.suffix.lower())
    if kind not in WRITES.values():
        raise InputError(f"{path}: cannot write splats as {path.suffix or 'a file without suffix'}; suffixes: {', '.join(WRITES)}")
    with whole_file(path, overwrite=overwrite) as f:
        write_to(f, scene, kind)


def write_to(f, scene: Splats, kind: str) -> None:
    """Write a scene to an open binary file as 'ply', 'spz', 'sog' or 'splat'; only PLY has splats that are not finite."""
    scene = scene if kind == "ply" else finite(scene)
    if kind == "ply":
        from .ply import write as run
    elif kind == "spz":
        from .spz import write as run
    elif kind == "sog":
        from .sog import write as run
    else:
        from .antimatter import write as run
    run(f, scene)


def write_from(f, file, kind: str, progress: Callable[[float], None] | None = None) -> None:
    """Write the scene in an open .cpd so; as PLY a block at a time. ``progress`` is told the share that is done."""
    from .part import length, stream
    from .ply import write_parts

    n, done = length(file), 0

    def parts():
        nonlocal done
        for some in stream(file):
            yield some
            done += len(some)
            if progress:
                progress(done / n)

    if kind == "ply" and n:
        write_parts(f, n, parts())
    else:
        write_to(f, from_file(file), kind)
