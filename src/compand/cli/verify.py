"""compand verify: is this file whole?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import Progress, put_json, short, size


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(verify)


def verify(
    file: Annotated[Path, typer.Argument(help="A .cpd file.", show_default=False)],
    level: Annotated[Literal["structure", "checksums", "full"], typer.Option(help="How deep to look.")] = "full",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing; the exit code tells.")] = False,
) -> None:
    """Check that a .cpd file is whole: exit code 0 if so, else 1 and the place of the damage.

    [bold]structure[/] reads the index only; [bold]checksums[/] every byte; [bold]full[/] also decodes every entry.

    [bold]compand verify model.cpd[/]
    [bold]compand verify --level checksums backup.cpd && echo fine[/]
    """
    import compand

    start = time.perf_counter()
    with compand.open(file) as f:
        with Progress(f.nbytes, "verify", quiet or json) as bar:
            report = f.verify(level, progress=lambda done, total: bar.reach(done, total, unit=1))
        entries, nbytes = len(f), f.nbytes
    seconds = time.perf_counter() - start
    if json:
        put_json({"file": str(file), "level": level, "ok": True, "entries": entries, "bytes": nbytes, "chunks": report.chunks,
                  "seconds": seconds})
    elif not quiet:
        typer.echo(f"{file}: ok ({level}; {entries} {'entry' if entries == 1 else 'entries'}, {size(nbytes)}, {short(seconds)} s)")

