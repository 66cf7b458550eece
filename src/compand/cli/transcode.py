"""compand transcode: a scene of splats, or a language model, from one format into another, .cpd included."""

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
                                           "a model: GGUF, Hugging Face folder, .cpd.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUTPUT", help=".ply .spz .sog .splat .cpd .gguf: the suffix says how; of models also a "
                                        "folder.", show_default=False)],
    type: Annotated[str | None, typer.Option(help="Of a .gguf: its types, as Q4_K_M, Q6_K, IQ4_XS, Q8_0, BF16.  \\[default: that of the "
                                             "weights]", show_default=False)] = None,
    ends: Annotated[str | None, typer.Option(help="Of a .gguf: the type of embedding and head.  \\[default: as --type says]",
                                             show_default=False)] = None,
    calib: Annotated[Path | None, typer.Option(help="Of a .gguf: fit the codes to text like what the model will read (UTF-8, also .xz).",
                                               show_default=False)] = None,
    imatrix: Annotated[Path | None, typer.Option(help="Of a .gguf, instead of text: what llama-imatrix wrote (GGUF form).",
                                                 show_default=False)] = None,
    tokens: Annotated[int | None, typer.Option(min=512, help="So many tokens of the text.  \\[default: 24576]", show_default=False)] = None,
    sweeps: Annotated[int | None, typer.Option(min=0, max=50, help="Rounds of descent of the fit.  \\[default: 2]",
                                               show_default=False)] = None,
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
    """Turn a scene of splats into another format (each loses what its own steps lose), or a language model.

    [bold]compand transcode scene.ply scene.spz[/]
    [bold]compand transcode scene.cpd scene.sog[/]
    [bold]compand transcode scene.sog scene.cpd --quality 60[/]
    [bold]compand transcode scene.ply light.spz --prune 0.2[/]
    [bold]compand transcode model.gguf model/[/]                     dequantized: configuration, tokenizer, bfloat16 weights
    [bold]compand transcode model/ model.gguf --type Q4_K_M --calib text.txt[/]   codes fitted to text; llama.cpp runs them
    [bold]compand transcode model.cpd coded/[/]                      the same codes in safetensors, for transformers; and back:
    [bold]compand transcode coded/ model.cpd[/]
    """
    from ..modality import pack
    from ..modality.splats import Scene, passes, read, write
    from ..modality.splats.quality import DEFAULT, spec_of
    from ..modality.splats.scene import finite
    from . import models
    from .arrays import size_on_disk
    from .console import usage

    own = {"type": type, "ends": ends, "calib": calib, "imatrix": imatrix, "tokens": tokens, "sweeps": sweeps}
    if (kind := models.kind_of(source)) is not None:
        if quality is not None or lossless or degree is not None or prune or distill or merge:
            raise usage("--quality, --lossless, --degree, --prune, --distill and --merge are for scenes")
        return models.transcode(source, kind, out, own, force=force, quiet=quiet, json=json)
    if any(v is not None for v in own.values()):
        raise usage("--type, --ends, --calib, --imatrix, --tokens and --sweeps are for language models")
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

