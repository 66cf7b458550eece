"""compand delete: vectors out of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .add import read_ids, told
from .console import usage


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(delete)


def delete(
    file: Annotated[Path, typer.Argument(help="The index: a .cpd file of vectors.", show_default=False)],
    names: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids.", show_default=False)] = None,
    ids: Annotated[Path | None, typer.Option(help="More ids: .npy, or text, one a line; - is standard input.", show_default=False)] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Pass over ids that are not there, instead of deleting nothing.")] = False,
    entry: Annotated[str | None, typer.Option(help="The array of the index, if the file has several.", show_default=False)] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No result line.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Delete vectors by their ids. They are not found any more; [bold]compand compact[/] gives back their room.

    [bold]compand delete docs.cpd doc17 doc99[/]
    [bold]compand delete docs.cpd --ids gone.txt[/]
    """
    from ..op.index import Index

    if not names and ids is None:
        raise usage("name ids, or a file of them with --ids")
    index = Index(file, entry=entry)
    given: list = list(names or []) + ([] if ids is None else [i if isinstance(i, str) else int(i) for i in read_ids(ids)])
    if index.ids.dtype == object:
        given = [str(i) for i in given]
    else:
        try:
            given = [int(i) for i in given]
        except ValueError as e:
            raise usage(f"the ids of {file} are integers: {e}") from None
    told(index, {"deleted_now": index.delete(list(dict.fromkeys(given)), missing=missing)}, quiet, json)
