"""compand refit: the same GGUF types and size, better codes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .console import Progress, put_json, short, size, target, usage


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(refit)


def refit(
    source: Annotated[Path, typer.Argument(metavar="IN.gguf", help="A quantized model, as llama-quantize writes it.", show_default=False)],
    reference: Annotated[Path, typer.Option(help="The model it was made from: a Hugging Face folder, or GGUF or safetensors of more bits.",
                                            show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--output", help="The GGUF file to write.", show_default=False)],
    calib: Annotated[Path | None, typer.Option(help="Text like what the model will read (UTF-8, also .xz): best. Needs compand\\[hf].",
                                               show_default=False)] = None,
    imatrix: Annotated[Path | None, typer.Option(help="Instead of text: what llama-imatrix wrote (GGUF form).", show_default=False)] = None,
    tokens: Annotated[int, typer.Option(min=512, help="So many tokens of the text.")] = 24_576,
    sweeps: Annotated[int, typer.Option(min=0, max=50, help="Rounds of descent; each takes time and gains less.")] = 2,
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite.")] = False,
    threads: Annotated[int, typer.Option("-T", "--threads", min=0, help="Threads; 0: all.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No result line, no progress.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Give a quantized GGUF better codes: same types, same size, same speed, any program that reads GGUF runs it.

    [bold]compand refit gemma-Q3_K_M.gguf --reference gemma/ --calib text.txt -o better.gguf[/]
    [bold]compand refit gemma-Q3_K_M.gguf --reference gemma-BF16.gguf --imatrix imatrix.gguf -o better.gguf[/]

    With text, every layer is fitted to what the refitted layers before it give, against the full second-order error of its outputs.
    """
    from ..integration import gguf_refit
    from .compress import set_threads
    from .language import read_text

    if calib is not None and imatrix is not None:
        raise usage("--calib and --imatrix exclude each other; text is better")
    if out.resolve() == source.resolve():
        raise usage("-o must be another file: the source is kept")
    set_threads(threads)
    target(out, force)
    with Progress(1, "refit", quiet or json) as bar:
        result = gguf_refit.refit(source, reference, out, calibration=None if calib is None else read_text(calib), imatrix=imatrix,
                                  sequences=max(1, tokens // 512), sweeps=sweeps, overwrite=force, progress=partial(bar.reach, unit=2))
    if json:
        put_json({**result, "input": str(source), "output": str(out)})
    elif not quiet:
        before, after = (sum(v[i] for v in result["lost"].values()) / len(result["lost"]) for i in (0, 1))
        typer.echo(f"{source.name} → {out.name}: {size(result['bytes'])} as before, {len(result['lost'])} tensors fitted, "
                   f"mean error of outputs {before ** 0.5:.2%} → {after ** 0.5:.2%}, {short(result['seconds'])} s")
