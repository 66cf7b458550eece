"""Scenes of splats that move, and parts of scenes, on the command line."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from .console import Progress, note, put_json, short, size, target, usage

SUFFIXES = (".ply", ".splat", ".spz", ".sog", ".ksplat")


def found(folder: Path) -> list[Path]:
    """The frames in a folder, by name; empty if it is no folder of at least two scenes of splats, and of nothing else."""
    if not folder.is_dir() or (folder / "meta.json").exists():
        return []
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return files if len(files) > 1 and all(p.suffix.lower() in SUFFIXES for p in files) else []


def is_sequence(file: Path) -> bool:
    """Whether a file is a .cpd of frames."""
    from .. import open as open_file
    from .arrays import is_cpd

    if not file.is_file() or not is_cpd(file):
        return False
    with open_file(file) as opened:
        return isinstance(opened.meta.get("sequence"), dict)


def numbers(text: str | None) -> list[float] | None:
    """'-1,-1,-1,1,1,1' → six numbers. Raises a usage error.

    >>> numbers("0,0,0,1,1,2.5")
    [0.0, 0.0, 0.0, 1.0, 1.0, 2.5]
    """
    if text is None:
        return None
    try:
        values = [float(v) for v in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 6:
        raise usage(f"--region {text!r} must be six numbers, as -1,-1,-1,1,1,1")
    return values


def compress(folder: Path, files: list[Path], out: Path | None, quality: float | None, key: int, *, force: bool, quiet: bool,
             json: bool) -> None:
    """Write the frames of a folder as one sequence."""
    from ..modality.splats import read
    from ..modality.splats.quality import DEFAULT
    from ..modality.splats.sequence import write_sequence

    path = target(out or folder.with_name(folder.resolve().name + ".cpd"), force)
    start, before = time.perf_counter(), sum(p.stat().st_size for p in files)
    with Progress(len(files), "compress", quiet or json) as bar:
        def scenes():
            for p in files:
                yield read(p)
                bar.add(1, p.name)

        count = write_sequence(path, scenes(), quality=quality or DEFAULT, key=key, overwrite=force)
    after, seconds = path.stat().st_size, time.perf_counter() - start
    if json:
        put_json({"input": str(folder), "output": str(path), "frames": count, "key": key, "bytes_in": before, "bytes_out": after,
                  "ratio": before / after, "seconds": seconds})
    elif not quiet:
        typer.echo(f"{folder.name} → {path.name}: {count} frames, {size(before)} → {size(after)}, {short(before / after)}x, "
                   f"{size(after // count)} a frame, {short(seconds)} s")


def decompress(file: Path, out: Path | None, to: str | None, region: list[float] | None, layers: int | None, frame: int | None, *,
               force: bool, quiet: bool, json: bool) -> None:
    """Write one frame, all frames into a folder, or a part of a still scene."""
    from .. import open as open_file
    from ..errors import InputError
    from ..modality.splats import WRITES, write
    from ..modality.splats.part import part
    from ..modality.splats.sequence import Sequence

    start, kind = time.perf_counter(), f".{to or 'ply'}"
    if kind not in WRITES and not (out and not to):
        raise usage(f"splats are written as {', '.join(WRITES.values())}, not {to}" if to else "name a file with -o")
    if not is_sequence(file):
        if frame is not None:
            raise InputError(f"{file} is no sequence; --frame is for files that compand compress made of a folder of frames")
        path = target(out or file.with_suffix(kind), force)
        with open_file(file) as opened:
            scene = part(opened, region=region, layers=layers)
            before, every = opened.nbytes, opened["splats"].shape[0] if "splats" in opened else None
        write(path, scene, overwrite=force, format=to)
        note(f"{len(scene):,} of {every:,} splats" if every else f"{len(scene):,} splats", quiet or json)
        done, after = len(scene), path.stat().st_size
    else:
        if region is not None or layers is not None:
            raise usage("--region and --layers are for still scenes; take a --frame first")
        before = file.stat().st_size
        with Sequence(file) as walk:
            if frame is not None:
                if frame >= len(walk):
                    raise InputError(f"{file} has {len(walk)} frames, 0 to {len(walk) - 1}; {frame} was asked for")
                path = target(out or file.with_name(f"{file.stem}-{frame:06}{kind}"), force)
                write(path, walk[frame], overwrite=force, format=to)
                done, after = 1, path.stat().st_size
            else:
                path, after = out or file.with_suffix(""), 0
                if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not force)):
                    raise InputError(f"{path} exists already; name another folder with -o, or overwrite with -f")
                path.mkdir(exist_ok=True)
                with Progress(len(walk), "decompress", quiet or json) as bar:
                    for i in range(len(walk)):
                        one = path / f"{i:06}{kind}"
                        write(one, walk[i], overwrite=force)
                        after += one.stat().st_size
                        bar.add(1, one.name)
                done = len(walk)
    seconds = time.perf_counter() - start
    if json:
        put_json({"input": str(file), "output": str(path), "bytes_in": before, "bytes_out": after, "seconds": seconds,
                  "frames" if frame is not None or is_sequence(file) else "splats": done})
    elif not quiet:
        typer.echo(f"{file.name} → {path.name}: {size(before)} → {size(after)}, {short(seconds)} s")
