"""compand compact: an index without what was deleted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .add import told


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(compact)


def compact(
    file: Annotated[Path, typer.Argument(help="The index: a .cpd file of vectors.", show_default=False)],
    entry: Annotated[str | None, typer.Option(help="The array of the index, if the file has several.", show_default=False)] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No result line.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write an index anew without its deleted vectors, all rows in one piece. Codes stay as they are, bit by bit.

    [bold]compand compact docs.cpd[/]
    """
    from ..op.index import Index

    index = Index(file, entry=entry)
    before, start = index.nbytes, time.perf_counter()
    index.compact()
    told(index, {"freed_bytes": before - index.nbytes, "seconds": time.perf_counter() - start}, quiet, json)
