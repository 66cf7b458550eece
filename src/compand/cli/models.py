"""Language models from one form into another: a folder, its GGUF file, its .cpd file, a folder of codes for transformers."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import typer

from .arrays import size_on_disk
from .console import Progress, note, put_json, short, size, target, usage


def kind_of(path: Path) -> str | None:
    """gguf, folder, cpd of a folder; None for what is no language model."""
    if path.is_dir():
        return "folder" if (path / "config.json").is_file() else None
    with contextlib.suppress(OSError), path.open("rb") as f:
        if f.read(4) == b"GGUF":
            return "gguf"
    if path.suffix.lower() == ".cpd" and path.is_file():
        import compand

        with compand.open(path) as file:
            meta = file.meta.get("source")
            return "cpd" if isinstance(meta, dict) and meta.get("format") == "hf" else None
    return None


def transcode(source: Path, kind: str, out: Path, options: dict[str, Any], *, force: bool, quiet: bool, json: bool) -> None:
    """Write the model ``source`` as what ``out`` asks for: .gguf, .cpd, or a folder."""
    suffix = out.suffix.lower()
    if suffix != ".gguf" and any(v is not None for v in options.values()):
        raise usage("--type, --ends, --calib, --imatrix, --tokens and --sweeps are for .gguf")
    if out.is_dir() and not any(out.iterdir()):
        pass
    else:
        target(out, force)
    start = time.perf_counter()
    if suffix == ".gguf":
        found = _gguf(source, kind, out, options, force, quiet or json)
        said = f"{found['bits']:.2f} bits a weight, " + ", ".join(f"{n} {t}" for t, n in found["types"].items())
    elif kind == "gguf" and suffix != ".cpd":
        from ..integration.gguf_folder import to_folder

        found = {"architecture": to_folder(source, out, overwrite=force)["architectures"][0]}
        said = found["architecture"]
    elif (kind, suffix) == ("folder", ".cpd"):
        from ..hf import repack

        found = repack(source, out, overwrite=force)
        said = f"{found['coded']} matrices of codes as they were"
    elif kind == "cpd" and suffix != ".cpd":
        from ..hf import unpack

        unpack(source, out, overwrite=force)
        found, said = {}, "codes as they were, in safetensors"
        note("transformers loads it after `import compand.hf`", quiet or json)
    else:
        raise usage(f"a model {'folder' if kind == 'folder' else 'file'} becomes {_NEXT[kind]}")
    result = {"input": str(source), "output": str(out), "bytes_in": size_on_disk(source), "bytes_out": size_on_disk(out), **found,
              "seconds": time.perf_counter() - start}
    if json:
        put_json(result)
    elif not quiet:
        typer.echo(f"{source.name} → {out.name}{'' if out.is_file() else '/'}: {size(result['bytes_in'])} → {size(result['bytes_out'])}, "
                   f"{said}, {short(result['seconds'])} s")


_NEXT = {"gguf": "a folder, or another .gguf; compress makes a .cpd of it", "cpd": "a .gguf, or a folder of codes",
         "folder": "a .gguf, or, if its weights are compand's codes, a .cpd; compress makes a .cpd of any folder"}


def _gguf(source: Path, kind: str, out: Path, options: dict[str, Any], force: bool, silent: bool) -> dict[str, Any]:
    from ..integration.gguf_model import from_folder
    from .language import read_text

    if options["calib"] is not None and options["imatrix"] is not None:
        raise usage("--calib and --imatrix exclude each other; text is better")
    with _folder(source, kind) as folder, Progress(1, "transcode", silent) as bar:
        more = {k: options[k] for k in ("sweeps", "imatrix") if options[k] is not None}
        if options["tokens"]:
            more["sequences"] = max(1, options["tokens"] // 512)
        return from_folder(folder, out, kind=options["type"], ends=options["ends"], overwrite=force, progress=partial(bar.reach, unit=2),
                           calibration=None if options["calib"] is None else read_text(options["calib"]), **more)


@contextlib.contextmanager
def _folder(source: Path, kind: str) -> Iterator[Path]:
    """The model as a folder of plain weights."""
    if kind == "folder":
        yield source
        return
    from ..integration.gguf_folder import to_folder
    from ..modality import unpack

    with tempfile.TemporaryDirectory(prefix="compand-") as room:
        folder = Path(room, source.stem)
        if kind == "gguf":
            to_folder(source, folder, dtype="float32")
        else:
            unpack(source, folder)
        yield folder
