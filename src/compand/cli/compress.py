"""compand compress: an array, a model or a folder of them into one .cpd file."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import frames
from .console import Progress, arrived, fail, note, put_json, short, size, size_of, target, usage

if TYPE_CHECKING:
    import numpy as np

    from ..modality.splats import Scene
    from ..stage import Stage
    from .rate import Goal


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(compress)


def compress(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help=".npy .npz .safetensors Parquet Arrow GGUF, a model folder, splats, "
                                           "pictures; told apart by content. [bold]-[/] is standard input.", show_default=False)],
    spec: Annotated[str | None, typer.Argument(metavar="[SPEC]", show_default=False, help=
                                               "How, as [bold]hadamard,int:4:group=64[/]; see [bold]compand specs[/]. "
                                               "Without it: a good one for the kind of data.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--output", help="The .cpd file to write.  \\[default: INPUT.cpd]",
                                             show_default=False)] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Keep every bit.")] = False,
    nbytes: Annotated[int | None, typer.Option("--bytes", min=4, help="Embeddings to search: so many bytes a vector; the best spec for "
                                               "them, with lists if there are many.", show_default=False)] = None,
    wanted: Annotated[float | None, typer.Option("--recall", help="Embeddings to search: the fewest bytes whose codes find this part "
                                                 "of the ten true neighbours, measured on rows held back: 0.9.",
                                                 show_default=False)] = None,
    queries: Annotated[Path | None, typer.Option(help="Embeddings to search: examples of queries, to fit the codes to (with --bytes, "
                                                 "--recall or a SPEC that begins with klt).", show_default=False)] = None,
    bits: Annotated[float | None, typer.Option(help="At most so many bits a value, all bytes counted. Language models, encoders, "
                                               "Whisper: a whole number is the bits of each code; scales, norms and files come on top. "
                                               "A fraction, or --plan, is of all weights, shared among them by worth.",
                                               show_default=False)] = None,
    limit: Annotated[str | None, typer.Option("--size", help="At most this size: 10MB, 10MiB.", show_default=False)] = None,
    ratio: Annotated[float | None, typer.Option(help="At least so many times smaller.", show_default=False)] = None,
    max_error: Annotated[float | None, typer.Option(help="At most this relative RMS error of each array: 0.01 is 1 %.",
                                                    show_default=False)] = None,
    quality: Annotated[float | None, typer.Option(min=1, max=100, help="Splats, pictures: 1 to 100.  \\[default: 50]",
                                                  show_default=False)] = None,
    per_splat: Annotated[float | None, typer.Option("--bytes-per-splat", help="Splats: at most so many bytes each.",
                                                    show_default=False)] = None,
    progressive: Annotated[bool, typer.Option("--progressive", help="Splats: what shows most comes first, so that the first blocks "
                                              "draw all of the scene.")] = False,
    key: Annotated[int | None, typer.Option(min=1, help="A folder of frames of splats: a key frame so often.  \\[default: 30]",
                                            show_default=False)] = None,
    bpp: Annotated[float | None, typer.Option(help="Pictures: at most so many bits a pixel, all bytes counted.",
                                              show_default=False)] = None,
    tile: Annotated[int | None, typer.Option(min=64, max=4096, help="Pictures: the side of tiles, which are coded apart; 64 stands "
                                             "damage best.  \\[default: 512]", show_default=False)] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Pictures: keep EXIF data and colour profile.")] = False,
    base: Annotated[Path | None, typer.Option(help="Store the difference to this model (a fine-tune's origin).",
                                              show_default=False)] = None,
    calib: Annotated[Path | None, typer.Option(help="Language models, encoders: text to fit the layers to (a model folder and --bits). "
                                               "Without text: [bold]self[/], and a language model writes it. "
                                               "Whisper: a folder of recordings. Classifiers of pictures: a folder of pictures, "
                                               "or [bold]self[/] if they have batch norms.",
                                               show_default=False)] = None,
    effort: Annotated[str | None, typer.Option(help="With --calib: low, medium or high.  \\[default: medium]",
                                               show_default=False)] = None,
    tune: Annotated[bool | None, typer.Option("--tune/--no-tune", help="With --calib: what is not coded yet makes up for what was lost; "
                                              "the model is in memory.  \\[default: encoders, Whisper, language models of up to 600 M "
                                              "parameters, not with --effort low]", show_default=False)] = None,
    blocks: Annotated[bool | None, typer.Option("--blocks/--no-blocks", help="With --calib, language models: what of a layer is not coded "
                                                "yet learns to give what the original's gives, one layer in memory.  \\[default: where "
                                                "the whole is not tuned, not with --effort low]", show_default=False)] = None,
    pv: Annotated[bool, typer.Option("--pv", help="With --calib, language models: at the end codes move along the gradient of the whole "
                                     "model's KL divergence, where text held back loses less by it (PV-Tuning).")] = False,
    device: Annotated[str | None, typer.Option(help="With --calib, language models: auto, cpu or cuda.  \\[default: auto, a GPU if there "
                                               "is one]", show_default=False)] = None,
    fit: Annotated[str | None, typer.Option(help="With --calib, language models: what layers are fitted to: their own outputs (layer; "
                                            "attention: tokens count by the attention they are paid), or what the whole model makes of "
                                            "them (kronecker).  \\[default: layer]",
                                            show_default=False)] = None,
    stack: Annotated[bool, typer.Option("--stack", help="With --calib and --bits, or a SPEC that is a sum, hadamard,(trellis:2+trellis:1): "
                                        "a file whose first terms alone are a model too, for [bold]run --memory[/] and "
                                        "[bold]compress FILE.cpd --size[/].")] = False,
    activations: Annotated[str | None, typer.Option(metavar="BITS|SPEC", help="With --calib and --bits, language models and encoders: the "
                                                    "inputs of layers are coded too, as 8 (a scale a token), 4 (rotated) or a spec; "
                                                    "compand eval computes with the codes.", show_default=False)] = None,
    plan: Annotated[bool, typer.Option("--plan", help="With --calib and --bits: share so many bits a value of all weights among them by "
                                       "what each is worth, for whole numbers too. --size does as well.")] = False,
    kld: Annotated[float | None, typer.Option("--kld", help="With --calib: the fewest bytes at this expected KL divergence (nats a "
                                              "token) from the original.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite.")] = False,
    stdout: Annotated[bool, typer.Option("-c", "--stdout", help="Write to standard output.")] = False,
    threads: Annotated[int, typer.Option("-T", "--threads", min=0, help="Threads; 0: all.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every stage and of --calib self.", show_default=False)] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No result line, no progress.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="A line for each array.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compress arrays. The source is kept; an existing file is only overwritten with -f.

    [bold]compand compress vectors.npy[/]                           4x smaller
    [bold]compand compress vectors.npy --bytes 48[/]                for compand search
    [bold]compand compress vectors.npy --recall 0.9[/]              the fewest bytes for it
    [bold]compand compress vectors.npy hadamard,int:4 -o v4.cpd[/]  your own spec
    [bold]compand compress model.safetensors --lossless[/]          bit for bit
    [bold]compand compress model.safetensors --bits 4.5[/]          least error at a size
    [bold]compand compress tuned/ --lossless --base original/[/]    only the changes
    [bold]compand compress model/ --bits 3 --calib text.txt[/]      a language model, fitted to text
    [bold]compand compress model/ --size 90MB --calib text.txt[/]   bits shared among its weights
    [bold]compand compress stack.cpd --size 60MB -o small.cpd[/]    fewer terms of a model coded as sums
    [bold]compand compress model/ --bits 4 --activations 8 --calib text.txt[/]  W4A8
    [bold]compand compress whisper/ --bits 3 --calib clips/[/]      a speech recogniser, fitted to recordings
    [bold]compand compress resnet/ --bits 4 --calib photos/[/]      a classifier, fitted to pictures
    [bold]compand compress adapter/ --bits 2[/]                     a LoRA adapter
    [bold]compand compress scene.ply --bytes-per-splat 9[/]         3D Gaussian splats
    [bold]compand compress frames/ -o walk.cpd --quality 60[/]      splats that move, a file a frame
    [bold]compand compress photo.png --bpp 0.2[/]                   a picture, at most 0.2 bits a pixel
    """
    from .rate import Goal

    asked = {"SPEC": spec, "--bytes": nbytes, "--recall": wanted, "--quality": quality, "--bytes-per-splat": per_splat,
             "--lossless": lossless or None, "--bits": bits, "--size": limit, "--ratio": ratio, "--max-error": max_error, "--bpp": bpp,
             "--kld": kld}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise usage(f"{' and '.join(given)} exclude each other; give one")
    if tile is not None and (spec or lossless):
        raise usage(f"--tile goes with --quality, --bpp, --size or none of them; {'write tile= into the SPEC' if spec else 'leave it out'}")
    for name, value in (("--bits", bits), ("--ratio", ratio), ("--max-error", max_error), ("--bytes-per-splat", per_splat), ("--bpp", bpp),
                        ("--kld", kld)):
        if value is not None and not value > 0:
            raise usage(f"{name} must be above 0")
    beside = {"--queries": queries, "--progressive": progressive or None, "--key": key, "--tile": tile, "--keep": keep or None}
    idle = [name for name, value in beside.items() if value is not None]
    if plan and bits is None:
        raise usage("--plan goes with --bits; --size and --kld plan without it")
    whole = {"--fit": fit, "--stack": stack or None, "--plan": plan or None, "--kld": kld, "--tune and --no-tune": tune,
             "--blocks and --no-blocks": blocks, "--pv": pv or None, "--device": device}
    fitting = {"--effort": effort, "--activations": activations, **whole}
    for name in [n for n, v in fitting.items() if v is not None and calib is None]:
        raise usage(f"{name} go{'es' if ' ' not in name else ''} with --calib; leave it out")
    if calib is not None:
        allowed = {"SPEC", "--bits", "--size", "--kld"}
        if set(given) - allowed or idle or base or stdout:
            raise usage("--calib goes with --bits, --size, --kld or a SPEC, and writes a file; leave out "
                        + " and ".join([*(g for g in given if g not in allowed), *idle, *(["--base"] if base else []),
                                        *(["-c"] if stdout else [])]))
        effort = effort or "medium"
        if source.is_file():
            raise usage("--calib takes a model folder with its config.json and tokenizer; "
                        + (f"compand transcode {source} {source.stem}/ makes one" if source.suffix == ".gguf" else
                           f"{source} alone does not say how the model computes: name its folder, or leave out --calib"))
        from ..integration.encoder import is_encoder
        from ..integration.speech import is_speech
        from ..integration.vision import is_vision
        from . import encoders, language, speech, vision

        set_threads(threads)
        bound = language.Bound(bits, None if limit is None else size_of(limit), kld, plan)
        writing = {"--fit": fit, "--stack": stack or None, "--blocks and --no-blocks": blocks, "--pv": pv or None, "--device": device}
        for name in [n for n, v in writing.items() if v is not None and (is_speech(source) or is_encoder(source))]:
            raise usage(f"{name} {'are' if ' ' in name else 'is'} for language models that write; leave it out")
        if is_vision(source):
            if bound.planned or tune is not None or activations:
                raise usage("a classifier of pictures takes whole --bits or a SPEC; leave out --size, --plan, --kld, --tune, --no-tune and "
                            "--activations")
            vision.compress(source, out, spec, bits, calib, effort, force=force, quiet=quiet, json=json, seed=seed)
            return
        if activations is not None:
            if is_speech(source) or language.is_self(calib) or bound.planned or tune or any(v is not None for v in writing.values()):
                raise usage("--activations is for encoders and language models, with text, whole --bits or a SPEC; leave out --size, "
                            f"--plan, --kld, --tune, {', '.join(writing)}")
            encoders.with_inputs(source, out, spec, bits, activations, calib, effort, force=force, quiet=quiet, json=json)
            return
        if is_speech(source):
            speech.compress(source, out, spec, bound, calib, effort, force=force, quiet=quiet, json=json, seed=seed, tune=tune)
            return
        if is_encoder(source):
            if language.is_self(calib):
                raise usage("an encoder cannot write its own text; name a file of sentences with --calib")
            encoders.compress(source, out, spec, bound, calib, effort, force=force, quiet=quiet, json=json, seed=seed, tune=tune)
            return
        language.compress(source, out, spec, bound, calib, effort, force=force, quiet=quiet, json=json, seed=seed, tune=tune,
                          verbose=verbose, fit=fit or "layer", stack=stack, blocks=blocks, pv=pv, device=device or "auto")
        return
    if (spec or bits) and not (base or stdout) and (source / "adapter_config.json").is_file():
        from . import adapters

        if idle:
            raise usage(f"{' and '.join(idle)} mean nothing for a LoRA adapter; leave that out")
        set_threads(threads)
        adapters.compress(source, out, spec, bits, force=force, quiet=quiet, json=json, verbose=verbose)
        return
    stdout = stdout or (str(source) == "-" and out is None)
    if stdout and (out or json):
        raise usage("-c writes the file to standard output; leave out " + ("-o" if out else "--json"))
    if stdout and sys.stdout.isatty():
        fail("will not write compressed data to a terminal", "send it on with > or |, or name a file with -o")
        raise typer.Exit(1)
    if len(given) == bool(quality) and not (base or stdout) and (found := frames.found(source)):
        if others := [name for name in idle if name != "--key"]:
            raise usage(f"{' and '.join(others)} mean nothing for a folder of frames; leave that out")
        set_threads(threads)
        frames.compress(source, found, out, quality, key or 30, force=force, quiet=quiet, json=json)
        return
    if key is not None:
        raise usage(f"--key is for a folder of frames of splats, coded with --quality or nothing; {source} is none")
    if limit and not base and str(source) != "-" and is_stack(source):
        shorten(source, target(out, force) if out else None, size_of(limit), quiet=quiet, json=json, force=force)
        return
    if bits or limit or ratio:
        spec, bits = without_text(source, spec, bits, quiet or json)
    source = arrived(source)
    goal = Goal(bits, None if limit is None else size_of(limit), ratio, max_error, quality, per_splat, bpp, tile)
    set_threads(threads)
    path = out or source.with_name(source.resolve().name + ".cpd")
    if nbytes is not None or wanted is not None:
        target(path, force or stdout)
        spec = for_search(source, nbytes, wanted, queries, quiet or json)
    stage = ready(source, spec, seed)
    if queries is not None:
        stage = asked_for(source, stage, queries)
    if stdout:
        with tempfile.TemporaryDirectory(prefix="compand-") as folder:
            path = Path(folder, "out.cpd")
            run(source, path, stage, goal, lossless, base=base, seed=seed, quiet=quiet, progressive=progressive, around=keep)
            with open(path, "rb") as f:
                shutil.copyfileobj(f, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()
        return
    result = run(source, target(path, force), stage, goal, lossless, base=base, seed=seed, quiet=quiet or json, force=force,
                 progressive=progressive, around=keep)
    if result["bytes_out"] > result["bytes_in"]:
        shared = shared_of(path)
        note("the output is larger than the input" + (f": {size(shared)} of it are what all codes share, stored once, which pays off with "
             "more rows; int:8 shares nothing" if shared else ""), quiet or json)
    if json:
        put_json(result)
    elif not quiet:
        typer.echo(line(result))
        for entry in result["arrays"] if verbose else ():
            typer.echo(f"  {entry['name']}  {entry['dtype']}{entry['shape']}  {entry['spec']}  {short(entry['bits_per_value'])} bits  "
                       f"error {short(entry['relative_error'])}")


def is_stack(source: Path) -> bool:
    """Whether a path is a .cpd file some of whose matrices are sums of terms."""
    from .. import open as open_file
    from ..modality.stack import stacked
    from .arrays import is_cpd

    if not is_cpd(source):
        return False
    with open_file(source) as file:
        return any(stacked(entry) > 1 for entry in file.values())


def shorten(source: Path, out: Path | None, nbytes: int, *, quiet: bool, json: bool, force: bool) -> None:
    """Write the terms of a stacked file that are worth most within so many bytes."""
    from ..modality.stack import cut

    if out is None:
        raise usage(f"{source} is compressed already; name the smaller file with -o")
    start = time.perf_counter()
    kept = cut(source, out, size=nbytes, overwrite=force)
    result = {"input": str(source), "output": str(out), "bytes_in": source.stat().st_size, "bytes_out": out.stat().st_size,
              "terms": kept, "seconds": time.perf_counter() - start}
    if json:
        put_json(result)
    elif not quiet:
        typer.echo(f"{source.name} → {out.name}: {size(result['bytes_in'])} → {size(result['bytes_out'])}, "
                   f"{sum(kept.values())} terms of {len(kept)} matrices kept")


def for_search(source: Path, nbytes: int | None, recall: float | None, queries: Path | None, quiet: bool) -> str:
    """The spec for vectors that take so many bytes each, or whose codes find so many neighbours, with the reason said."""
    from ..fit import lists
    from ..fit.recall import shared_bytes, smallest
    from ..modality import detect
    from .arrays import is_cpd

    asked = "--bytes" if recall is None else "--recall"
    if is_cpd(source):
        return "int:8"  # and `ready` says what is wrong
    with detect(source) as opened:
        items = [i for i in opened.items() if len(i.shape) == 2]
        if not items:
            raise usage(f"{asked} is for rows of vectors; {source} has no two-dimensional array")
        item = max(items, key=lambda i: i.shape)
        if "float" not in item.dtype:
            raise usage(f"{asked} is for vectors of floats; {source} holds {item.dtype}: leave it out to keep every bit, or convert them")
        n, d = item.shape
        if recall is None:
            spec, why = lists.preset(nbytes or 0, d, n)
            note(f"{nbytes} bytes a vector + {size(shared_bytes(spec, d))} once: using {spec} ({why})", quiet)
            return spec
        if len(items) > 1:
            raise usage(f"--recall is for one array of vectors; {source} has {len(items)}")
        with Progress(100 << 20, "budget", quiet) as bar:
            found = smallest(item.load(), recall, queries=None if queries is None else only_vectors(queries),
                             progress=lambda share: bar.reach(int(100 * share), 100))
        with_lists = f"; --bytes {round(found.nbytes)} adds lists, faster to search and a little less found" if n >= lists.LEAST else ""
        note(f"recall {short(found.recall)} at {short(found.nbytes)} bytes a vector + {size(shared_bytes(found.spec, d))} once "
             f"({found.how}): using {found.spec} ({found.why}{with_lists})", quiet)
        return found.spec


def only_vectors(path: Path) -> np.ndarray:
    """The one array of vectors of a file, float32."""
    import numpy as np

    from ..modality import detect
    from .search import pick

    with detect(path) as opened:
        own = {i.name: i for i in opened.items() if len(i.shape) == 2}
        return np.asarray(own[pick(list(own), None, path)].load(), np.float32)


def asked_for(source: Path, stage: Stage | None, queries: Path) -> Stage:
    """The stage fitted to the one array of vectors of the source and to these queries."""
    from .. import Codec
    from ..modality import detect
    from .search import pick

    if stage is None:
        raise usage("--queries goes with --bytes, --recall or a SPEC that begins with klt")
    with detect(source) as opened:
        rows = {i.name: i for i in opened.items() if len(i.shape) == 2}
        return Codec(stage).fit(rows[pick(list(rows), None, source)].load(), queries=only_vectors(queries)).stage


def without_text(source: Path, spec: str | None, bits: float | None, quiet: bool) -> tuple[str | None, float | None]:
    """Spec and bits for a model folder with no text to fit to: whole bits of a decoder are those of its codes, as with --calib."""
    from ..integration.language import is_decoder

    if not is_decoder(source):
        return spec, bits
    note("no text, so each weight is rounded by itself; --calib FILE, or --calib self, loses less", quiet)
    if bits is None or bits != int(bits):
        return spec, bits
    from ..integration.language_fit import specs_of

    return specs_of(int(bits), "medium"), None


def set_threads(n: int) -> None:
    """Threads of the kernels; 0 is all that this process may use."""
    from .. import _native  # type: ignore[attr-defined]
    from ..environment import MOST_THREADS

    if n > MOST_THREADS:
        raise usage(f"-T is at most {MOST_THREADS}; more threads than the {_native.threads()} CPUs that this process may use gain nothing")
    _native.set_threads(n)


def line(r: dict) -> str:
    """The result in one line."""
    if "bits_per_pixel" in r:
        lost = "exact" if r["exact"] else f"PSNR {short(r['psnr'])} dB"
        what = f"{short(r['bits_per_pixel'])} bits/pixel, {lost}, "
        return (f"{Path(r['input']).name} → {Path(r['output']).name}: {size(r['bytes_in'])} → {size(r['bytes_out'])}, {what}"
                f"{short(r['seconds'])} s  [{r['spec']}]")
    return (f"{Path(r['input']).name} → {Path(r['output']).name}: {size(r['bytes_in'])} → {size(r['bytes_out'])}, "
            f"{short(r['ratio'])}x, " + (f"{short(r['bytes_per_splat'])} bytes a splat, " if "bytes_per_splat" in r else
                                         f"{short(r['bits_per_value'])} bits/value, ")
            + ("exact, " if r["exact"] else "" if "bytes_per_splat" in r else f"error {short(r['relative_error'])}, ")
            + f"{short(r['seconds'])} s  [{r['spec']}]")


def ready(source: Path, spec: str | None, seed: int | None) -> Stage | None:
    """The stage of a spec. Faults of the spec and of the source are told before anything else is done."""
    from .. import Codec
    from .arrays import is_cpd
    from .rate import seeded

    stage = seeded(Codec(spec).stage, seed) if spec is not None else None
    if is_cpd(source):
        fail(f"{source} is compressed already", "compand info shows what is inside; compand decompress gets it back")
        raise typer.Exit(1)
    return stage


def run(source: Path, path: Path, stage: Stage | None, goal: Goal, lossless: bool, *, base: Path | None = None,
        seed: int | None = None, quiet: bool = False, force: bool = False, progressive: bool = False, around: bool = False) -> dict:
    """Compress and measure; the result as `--json` prints it."""
    from .. import parse
    from ..fit.ladder import lossless as keep
    from ..fit.ladder import preset
    from ..modality import detect
    from .arrays import size_on_disk
    from .rate import fitted, seeded, write

    if around:
        with detect(source) as opened:
            if opened.modality != "image":
                raise usage(f"--keep keeps what surrounds a picture; {source} is {opened.format}: leave it out")
    start = time.perf_counter()
    if stage is None and not goal and not lossless:
        with detect(source) as opened:
            if opened.modality == "splats":
                stage = parse(preset("splats").spec)
                note(f"splats: quality 50 ({preset('splats').why}); --quality, --bytes-per-splat, --lossless for another choice", quiet)
            elif opened.modality == "image":
                stage = parse(preset("image").spec)
                note(f"picture: quality 50 ({preset('image').why}); --quality, --bpp, --size, --lossless for another choice", quiet)
            elif opened.modality == "embeddings":
                stage = seeded(parse(preset("embeddings").spec), seed)
                note(f"embeddings: using {stage} ({preset('embeddings').why}); --lossless or a SPEC for another choice", quiet)
            else:
                lossless = True
                note("weights: losing nothing unless told to; --bits 4.5 or a SPEC such as int:4:group=64 is smaller", quiet)
    with coarse_first(source, lossless) if progressive else detect(source, exact=lossless, keep=around) as opened:
        if progressive and stage is not None:
            stage = parse(str(stage) + opened.suffix)
        for remark in opened.notes:
            note(remark, quiet)
        total = sum(i.nbytes for i in opened.items())
        if goal:
            used = fitted(opened, goal, size_on_disk(source), path, seed, quiet, base)
        else:
            with Progress(total, "compress", quiet) as bar:
                report = write(opened, path, stage, base=base, force=force, bar=bar)
            used = str(stage) if stage else max(report.entries, key=itemgetter("nbytes"), default={"spec": keep()})["spec"]
            for remark in report.notes[len(opened.notes):]:
                note(remark, quiet)
        result = measured(opened, source, path, base, time.perf_counter() - start)
        if opened.modality == "splats":
            result["bytes_per_splat"] = result["bytes_out"] / max(len(opened), 1)
        elif opened.modality == "image":
            from ..metric import psnr
            from .pictures import load

            color = opened.pixels.color
            result["bits_per_pixel"] = 8 * result["bytes_out"] / (color.shape[0] * color.shape[1])
            result["psnr"] = psnr(color, load(path)[0].color, peak=65535.0 if color.dtype == "uint16" else 255.0)
    return {**result, "spec": used, "output": str(path), "input": str(source)}


def shared_of(path: Path) -> int:
    """Bytes of what the arrays of a .cpd file were fitted to."""
    from .. import open as open_file

    with open_file(path) as file:
        return sum({id(e.codec): e.codec.nbytes for e in file.values() if e.kind == "array"}.values())


def coarse_first(source: Path, lossless: bool) -> Scene:
    """The scene of a file in layers. Raises a usage error for what has none."""
    from ..modality.splats import Scene, format_of

    if lossless or not format_of(source):
        raise usage("--progressive is for scenes of splats, and not with --lossless")
    return Scene(source, layers=True)


def measured(opened, source: Path, path: Path, base: Path | None, seconds: float) -> dict:
    """Rate and error of the file just written, array by array."""
    from ..metric import overall
    from .arrays import Arrays, compared, size_on_disk

    entries, every = [], []
    with Arrays(path, base) as packed:
        for item in opened.items():
            got = packed.named[item.name]
            every.append(e := compared(item, got))
            entries.append({"name": item.name, "shape": list(item.shape), "dtype": item.dtype, "spec": got.spec, "bytes": got.nbytes,
                            "bits_per_value": 8 * got.nbytes / max(item.size, 1), "relative_error": e.relative, "max_error": e.maximum})
    nbytes, before, values = path.stat().st_size, size_on_disk(source), sum(e.values for e in every)
    return {"bytes_in": before, "bytes_out": nbytes, "ratio": before / nbytes, "values": values,
            "bits_per_value": 8 * nbytes / max(values, 1), "relative_error": overall(every),
            "exact": all(e.exact for e in every), "seconds": seconds, "arrays": entries}
