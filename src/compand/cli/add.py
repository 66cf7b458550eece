"""compand add: vectors into an index, made if it is not there."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..errors import InputError
from .console import note, put_json, short, size, usage


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command("add")(put)


def put(
    file: Annotated[Path, typer.Argument(help="The index: a .cpd file of vectors; made if it is not there.", show_default=False)],
    vectors: Annotated[Path, typer.Argument(help="Vectors: .npy, Parquet, Arrow, safetensors or .cpd.", show_default=False)],
    ids: Annotated[Path | None, typer.Option(help="Ids: .npy of int64 or strings, or text, one a line; - is standard input; or the name "
                                             "of a column of Parquet or Arrow.  "
                                             r"\[default: the next numbers]", show_default=False)] = None,
    update: Annotated[bool, typer.Option("--update", help="Replace rows that have one of these ids.")] = False,
    nbytes: Annotated[int | None, typer.Option("--bytes", min=4, help="Of a new index: bytes a vector.", show_default=False)] = None,
    spec: Annotated[str | None, typer.Option(help="Of a new index: how, as (vq:1024,runs)+(klt,grouped:48).", show_default=False)] = None,
    entry: Annotated[str | None, typer.Option(help="The array of the index, if the file has several.", show_default=False)] = None,
    threads: Annotated[int, typer.Option("-T", "--threads", min=0, help="Threads; 0: all.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No result line.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Add vectors to an index, under your ids. The file is replaced in one step: a crash leaves the old one.

    [bold]compand add docs.cpd first.npy --ids first.txt --bytes 48[/]
    [bold]compand add docs.cpd more.npy --ids more.txt --update[/]
    """
    from ..fit.lists import preset
    from ..op.index import Index
    from .arrays import Arrays
    from .compress import set_threads
    from .search import pick

    set_threads(threads)
    if file.exists() and (nbytes is not None or spec is not None):
        raise usage(f"{file} is there and has its codec; leave out --bytes and --spec")
    if not file.exists() and (nbytes is None) == (spec is None):
        raise usage(f"{file} is not there; say how it shall be made with --bytes or --spec")
    with Arrays(vectors) as source:
        x = source.named[pick([n for n, a in source.named.items() if len(a.shape) == 2], None, vectors)].load()
    own = None if ids is None else _own(ids, vectors)
    start = time.perf_counter()
    if file.exists():
        index = Index(file, entry=entry)
        before = len(index)
        (index.update if update else index.add)(x, **({} if own is None and not update else {"ids": own}))
    else:
        before = 0
        if spec is None:
            spec, why = preset(nbytes or 0, x.shape[1], len(x))
            spec = spec if own is None else spec.replace(",rans)+", ",runs)+")
            note(f"using {spec}: {why}", quiet or json)
        index = Index.create(file, x, spec, ids=own, name=entry or "vectors")
    told(index, {"added": len(index) - before, "seconds": time.perf_counter() - start}, quiet, json)


def _own(ids: Path, vectors: Path) -> np.ndarray | list:
    """The ids in a file; or in a column of this name, where the vectors are in Parquet or Arrow and there is no such file."""
    from ..modality.arrow import MAGICS
    from ..modality.batches import Shard

    if str(ids) != "-" and not ids.exists():
        with open(vectors, "rb") as f:
            head = f.read(8)
        if any(head.startswith(magic) for magic in MAGICS):
            return Shard(vectors, ids=str(ids)).ids()
    return read_ids(ids)


def told(index, what: dict, quiet: bool, json: bool) -> None:
    """Say what became of an index."""
    result = {"file": str(index.path), "vectors": len(index), "deleted": index.deleted, "bytes": index.nbytes,
              "spec": index.codec.spec, **what}
    if json:
        put_json(result)
    elif not quiet:
        words = ", ".join(f"{key} {short(value)}" for key, value in what.items() if key != "seconds")
        typer.echo(f"{index.path.name}: {words + '; ' if words else ''}{len(index):,} vectors, {index.deleted:,} deleted rows, "
                   f"{size(index.nbytes)}  [{index.codec.spec}]")


def read_ids(path: Path) -> np.ndarray | list:
    """Ids of a .npy file or of lines of text: integers if all lines are, else strings."""
    if path != Path("-") and path.read_bytes()[:6] == b"\x93NUMPY":
        try:
            found = np.load(path, allow_pickle=False)
        except ValueError as e:
            raise InputError(f"{path}: {e}") from None
        return found.reshape(-1) if found.ndim < 2 else found
    try:
        lines = (sys.stdin.read() if path == Path("-") else path.read_text("utf-8")).splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: neither .npy nor text in UTF-8") from None
    try:
        numbers = [int(line) for line in lines]
        if all(str(n) == line for n, line in zip(numbers, lines, strict=True)) and all(-1 << 63 <= n < 1 << 63 for n in numbers):
            return np.array(numbers, np.int64)
    except ValueError:
        pass
    return lines
