"""compand decompress: a .cpd file back into what it came from, or into another container."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import Progress, arrived, fail, note, put_json, short, size, target, usage

SUFFIX = {"hf": "", "npy": ".npy", "npz": ".npz", "safetensors": ".safetensors", "parquet": ".parquet", "arrow": ".arrow", "gguf": ".gguf",
          "ply": ".ply", "spz": ".spz", "sog": ".sog", "splat": ".splat", "png": ".png", "tiff": ".tiff", "webp": ".webp", "ppm": ".ppm",
          "jpeg": ".jpg", "bmp": ".bmp"}


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(decompress)


def decompress(
    file: Annotated[Path, typer.Argument(help="A .cpd file; [bold]-[/] is standard input.", show_default=False)],
    out: Annotated[Path | None, typer.Option("-o", "--output", help="What to write.  \\[default: FILE without .cpd]",
                                             show_default=False)] = None,
    to: Annotated[Literal["npy", "npz", "safetensors", "parquet", "arrow", "gguf", "ply", "spz", "sog", "splat", "png", "tiff", "webp",
                          "ppm", "jpeg", "bmp"] | None,
                  typer.Option(help="Another container than the one it came from.", show_default=False)] = None,
    rows: Annotated[str | None, typer.Option(metavar="A:B", help="Only these rows; nothing else is decoded.", show_default=False)] = None,
    entry: Annotated[str | None, typer.Option(help="Only this array.", show_default=False)] = None,
    region: Annotated[str | None, typer.Option(metavar="X0,Y0,Z0,X1,Y1,Z1", help="Splats: only those whose centre lies in this box.",
                                               show_default=False)] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Splats written with --progressive: only so many layers, the coarsest first.",
                                               show_default=False)] = None,
    frame: Annotated[int | None, typer.Option(min=0, help="A sequence of splats: only this frame, counted from 0.",
                                              show_default=False)] = None,
    base: Annotated[Path | None, typer.Option(help="The base model, if the file holds differences to one.", show_default=False)] = None,
    conceal: Annotated[bool, typer.Option("--conceal", help="Pictures: restore what is damaged from what lies around it, and tell how "
                                         "much.")] = False,
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite.")] = False,
    stdout: Annotated[bool, typer.Option("-c", "--stdout", help="Write to standard output.")] = False,
    threads: Annotated[int, typer.Option("-T", "--threads", min=0, help="Threads; 0: all.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No result line, no progress.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Get arrays back, in the container they came from. The .cpd file is kept.

    [bold]compand decompress model.cpd -o model.safetensors[/]
    [bold]compand decompress vectors.cpd --rows 1000:2000 -o some.npy[/]
    [bold]compand decompress photo.cpd -o photo.png[/]
    [bold]compand decompress model.cpd --entry lm_head.weight --to npy -o head.npy[/]
    [bold]compand decompress scene.cpd --region -1,-1,-1,1,1,1 -o part.ply[/]
    [bold]compand decompress walk.cpd --frame 12 -o 12.ply[/]
    """
    import compand

    from . import frames
    from .compress import set_threads

    if conceal and (rows is not None or entry is not None or base is not None or region is not None):
        raise usage("--conceal restores a whole picture; leave out --rows, --entry, --base and --region")
    cut = slice_of(rows) if rows is not None else None
    if region is not None or layers is not None or frame is not None or frames.is_sequence(file):
        if rows is not None or entry is not None or base is not None or stdout:
            raise usage("--region, --layers, --frame and sequences go with neither --rows, --entry, --base nor -c")
        set_threads(threads)
        frames.decompress(file, out, to, frames.numbers(region), layers, frame, force=force, quiet=quiet, json=json)
        return
    stdout = stdout or (str(file) == "-" and out is None)
    if stdout and (out or json):
        raise usage("-c writes to standard output; leave out " + ("-o" if out else "--json"))
    if stdout and sys.stdout.isatty():
        fail("will not write arrays to a terminal", "send them on with > or |, or name a file with -o")
        raise typer.Exit(1)
    set_threads(threads)
    file = arrived(file)
    start, lost = time.perf_counter(), {}
    with compand.open(file) as opened:
        path = out or default_name(file, opened, to or ("npy" if rows or entry else None))
        with tempfile.TemporaryDirectory(prefix="compand-") as folder:
            if stdout:
                path = Path(folder, "out" + (f".{to}" if to else path.suffix))
            elif path.is_dir() and not any(path.iterdir()):
                pass
            else:
                target(path, force)
            if conceal:
                lost = concealed(opened, path, to, force, quiet)
            else:
                try:
                    restore(opened, path, to=to, rows=cut, entry=entry, base=base, force=force, quiet=quiet)
                except compand.CorruptError:
                    if opened.meta.get("modality") == "image":
                        note("--conceal restores what is damaged from what lies around it", quiet)
                    raise
            if stdout:
                with open(path, "rb") as f:
                    shutil.copyfileobj(f, sys.stdout.buffer, 1 << 20)
                sys.stdout.buffer.flush()
                return
        before = opened.nbytes
    from .arrays import size_on_disk

    seconds, nbytes = time.perf_counter() - start, size_on_disk(path)
    if json:
        put_json({"input": str(file), "output": str(path), "bytes_in": before, "bytes_out": nbytes, "seconds": seconds,
                  **({"lost": lost} if lost else {})})
    elif not quiet:
        typer.echo(f"{file.name} → {path.name}: {size(before)} → {size(nbytes)}, {short(seconds)} s "
                   f"({nbytes / 1e6 / max(seconds, 1e-9):,.0f} MB/s)")


def concealed(opened, path: Path, to: str | None, force: bool, quiet: bool) -> dict[str, float]:
    """Write a picture in spite of damage, say how much was lost, and give it as shares."""
    from ..modality.image import conceal, write
    from .pictures import lost_words, shares_lost

    pixels, gone = conceal(opened)
    write(path, pixels, overwrite=force, format=to)
    found = shares_lost(gone, opened["image"].codec.stage.name)
    if gone.any():
        note(lost_words(found), quiet)
    return found


def slice_of(text: str) -> slice:
    """'10:20', ':20' or '10:' → the slice. Raises a usage error."""
    first, colon, last = text.partition(":")
    if not colon or not all(w.strip().lstrip("-").isdecimal() or not w.strip() for w in (first, last)):
        raise usage(f"--rows {text!r} must be A:B, as 0:100")
    return slice(int(first) if first.strip() else None, int(last) if last.strip() else None)


def default_name(file: Path, opened, to: str | None) -> Path:
    """FILE without .cpd, with the suffix of the container asked for."""
    meta = opened.meta.get("source")
    kind = to or (meta.get("format") if isinstance(meta, dict) else None) or "npy"
    kind = kind if kind in SUFFIX else "ply" if kind == "ksplat" else "png" if kind == "gif" else "npz"
    kind = "png" if kind in ("jpeg", "bmp") and to is None else kind  # no second loss
    if kind == "gguf" and "gguf:container" not in opened:
        kind = "safetensors"  # dequantized blocks cannot go back into theirs
    name = file.name.removesuffix(".cpd")
    if name == file.name and kind == "hf":
        name += ".out"
    stem = name if kind == "hf" or name.lower().endswith(SUFFIX[kind]) else str(Path(name).stem if to else name) + SUFFIX[kind]
    return file.with_name(stem)


def restore(opened, path: Path, *, to=None, rows: slice | None = None, entry: str | None = None, base: Path | None = None,
            force: bool = False, quiet: bool = False) -> None:
    """Write the arrays asked for."""
    from ..errors import InputError
    from ..modality import detect
    from ..modality.packing import write

    done = 0
    if rows is None and entry is None:
        with Progress(sum(_decoded(e) for e in opened.values() if e.kind == "array"), "decompress", quiet) as bar:
            def progress(now: int, total: int, name: str) -> None:
                nonlocal done
                bar.add(now - done, name)
                done = now

            origin = detect(base) if base else None
            try:
                write(opened, path, base=origin, overwrite=force, format=to, progress=progress)
            finally:
                if origin:
                    origin.close()
        return
    names = [n for n in opened.names if opened[n].kind == "array"]
    if entry is not None and entry not in names:
        import difflib

        near = difflib.get_close_matches(entry, names, 3) or names[:5]
        raise InputError(f"no array {entry!r} in this file; there are {len(names)}, such as {', '.join(near)}")
    _some(opened, [entry] if entry is not None else names, path, to, rows, base, force)


def _some(opened, names: list[str], path: Path, to: str | None, rows: slice | None, base: Path | None, force: bool) -> None:
    from ..errors import InputError
    from ..modality import arrow, detect, npy, npz, safetensors
    from ..modality.output import whole_file
    from ..modality.weights import Base
    from .arrays import loader

    kind = to or next((k for k, s in SUFFIX.items() if s and path.name.lower().endswith(s)), "npy" if len(names) == 1 else "npz")
    if kind == "npy" and len(names) > 1:
        raise InputError(f"the file holds {len(names)} arrays, a .npy one; choose with --entry, or use --to npz")
    origin = detect(base) if base else None
    try:
        against = Base(origin) if origin else None
        loads = {n: loader(opened, opened[n], against) for n in names}
        with whole_file(path, overwrite=force) as f:
            if kind == "npy":
                npy.write_array(f, loads[names[0]](rows), {})
            elif kind == "npz":
                npz.write(f, ((n, load(rows)) for n, load in loads.items()), {})
            elif kind in ("parquet", "arrow"):
                arrow.write(f, ((n, load(rows)) for n, load in loads.items()), kind)
            elif kind == "safetensors":
                arrays = {n: load(rows) for n, load in loads.items()}
                safetensors.write_new(f, [(n, x.shape, x.dtype.name, lambda x=x: x) for n, x in arrays.items()])
            else:
                raise InputError(f"some arrays cannot be written as {kind}; use npy, npz or safetensors")
    finally:
        if origin:
            origin.close()


def _decoded(entry) -> int:
    from math import prod

    from ..dtypes import dtype

    return prod(entry.shape) * dtype(entry.dtype).itemsize
