"""compand transcode: a scene of splats from one format into another, .cpd included; a GGUF model into a folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .console import note, put_json, short, size, target

TOLD = {"merge": "merge: {splats:,} splats fewer, which held {lost:.3%} of all opacity times area",
        "prune": "prune: {splats:,} splats fewer, which held {lost:.3%} of what pictures show",
        "distill": "distill: harmonics of {splats:,} splats cut, which changes colours by {lost:.2g} (RMS, from 0 to 1)"}


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(transcode)


def transcode(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="PLY, compressed PLY, SPZ, SOG (or its folder), .splat, KSPLAT, .cpd; "
                                           "GGUF.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUTPUT", help=".ply .spz .sog .splat .cpd: the suffix says how; of a GGUF a folder.",
                                        show_default=False)],
    quality: Annotated[float | None, typer.Option(min=1, max=100, help="Of a .cpd: 1 to 100.  \\[default: 50]", show_default=False)] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Of a .cpd: keep every bit.")] = False,
    degree: Annotated[int | None, typer.Option(min=0, max=4, help="Cut harmonics to this degree.", show_default=False)] = None,
    prune: Annotated[float, typer.Option(min=0, max=0.99, help="Leave out this share of the splats: those that add least to pictures "
                                         "from 24 places.")] = 0,
    distill: Annotated[float, typer.Option(min=0, max=1, help="Cut each splat's harmonics as far as its colour changes by no more than "
                                           "this; 0.002 is half a step of a picture.")] = 0,
    merge: Annotated[float, typer.Option(min=0, max=2, help="Merge neighbours nearer than this part of their size.")] = 0,
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No result line.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a scene of splats into another format (each loses what its own steps lose), or a GGUF model into a Hugging Face folder.

    [bold]compand transcode scene.ply scene.spz[/]
    [bold]compand transcode scene.cpd scene.sog[/]
    [bold]compand transcode scene.sog scene.cpd --quality 60[/]
    [bold]compand transcode scene.ply light.spz --prune 0.2[/]
    [bold]compand transcode model.gguf model/[/]                     dequantized: configuration, tokenizer, bfloat16 weights
    """
    from ..modality import pack
    from ..modality.splats import Scene, passes, read, write
    from ..modality.splats.quality import DEFAULT, spec_of
    from ..modality.splats.scene import finite
    from .arrays import size_on_disk
    from .console import usage

    if source.is_file() and source.open("rb").read(4) == b"GGUF":
        return _model(source, out, force, quiet, json)
    packed = out.suffix.lower() == ".cpd"
    if (quality is not None or lossless) and not packed:
        raise usage("--quality and --lossless are for .cpd; other formats have steps of their own")
    if quality is not None and lossless:
        raise usage("--quality and --lossless exclude each other; give one")
    target(out, force)
    start, before = time.perf_counter(), size_on_disk(source)
    scene = read(source)
    if degree is not None and degree < scene.degree:
        scene = scene.with_degree(degree)
    done = {}
    if merge:
        scene, done["merge"] = passes.merge(scene, merge)
    if prune:
        scene, done["prune"] = passes.prune(scene, prune, passes.contribution(scene))
    if distill and scene.degree:
        scene, done["distill"] = passes.distill(scene, distill)
    dropped = 0
    if out.suffix.lower() != ".ply" and not lossless:
        dropped = -len(scene) + len(scene := finite(scene))
    if packed:
        opened = Scene(source, exact=lossless, scene=scene)
        pack(opened, out, spec=None if lossless else spec_of(quality or DEFAULT), lossless=lossless, overwrite=force)
    else:
        write(out, scene, overwrite=force)
    after = size_on_disk(out)
    result = {"input": str(source), "output": str(out), "splats": len(scene), "degree": scene.degree, "bytes_in": before,
              "bytes_out": after, "bytes_per_splat": after / max(len(scene), 1), "not_finite": -dropped,
              "seconds": time.perf_counter() - start, **done}
    if json:
        put_json(result)
    elif not quiet:
        if dropped:
            note(f"{-dropped:,} splats with NaN or infinite values are left out: they draw nothing")
        for name, d in done.items():
            note(TOLD[name].format(**d))
        typer.echo(f"{source.name} → {out.name}: {len(scene):,} splats, {size(before)} → {size(result['bytes_out'])}, "
                   f"{short(result['bytes_per_splat'])} bytes a splat, {short(result['seconds'])} s")


def _model(source: Path, out: Path, force: bool, quiet: bool, json: bool) -> None:
    """A language model in a GGUF file as a Hugging Face folder."""
    from ..integration.gguf_folder import to_folder
    from .arrays import size_on_disk

    start = time.perf_counter()
    config = to_folder(source, out, overwrite=force)
    result = {"input": str(source), "output": str(out), "architecture": config["architectures"][0], "bytes_in": size_on_disk(source),
              "bytes_out": size_on_disk(out), "seconds": time.perf_counter() - start}
    if json:
        put_json(result)
    elif not quiet:
        typer.echo(f"{source.name} → {out.name}/: {result['architecture']}, {size(result['bytes_in'])} → {size(result['bytes_out'])}, "
                   f"{short(result['seconds'])} s")
