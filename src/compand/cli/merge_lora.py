"""compand merge-lora: a LoRA adapter added to the weights of its base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Progress, put_json, size, target


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(merge_lora)


def merge_lora(
    base: Annotated[Path, typer.Argument(help="The model that was tuned: a Hugging Face folder, or the .cpd of one.", show_default=False)],
    adapter: Annotated[Path, typer.Argument(help="What PEFT saved: adapter_config.json and adapter_model.safetensors.",
                                            show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.", show_default=False)],
    force: Annotated[bool, typer.Option("-f", "--force", help="Write into a folder that exists.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No result line, no progress.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Merge a LoRA adapter into its model, which then can be compressed. Base and adapter are kept, and so is the dtype of weights.

    [bold]compand merge-lora gemma/ adapter/ -o tuned/[/]
    [bold]compand compress tuned/ --bits 4 --calib text.txt[/]
    [bold]compand compress tuned/ --lossless --base gemma/[/]       the changes alone
    """
    from ..integration.merge_lora import merge

    with Progress(1, "merge", quiet or json) as bar:
        result = merge(base, adapter, out if force and out.is_dir() else target(out, force), overwrite=force, progress=bar.reach)
    if json:
        put_json({**result, "base": str(base), "adapter": str(adapter), "output": str(out)})
    elif not quiet:
        typer.echo(f"{base.name} + {adapter.name} → {out.name}: {result['merged']} of {result['tensors']} tensors changed"
                   + (f", {result['replaced']} replaced" if result["replaced"] else "") + f", {size(result['bytes'])}")
