"""compand search: nearest vectors, found on the codes of a .cpd file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from ..errors import InputError
from .console import note, put_json, short, target

SHOWN = 5  # queries shown to a person


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(search)


def search(
    file: Annotated[Path, typer.Argument(help="A .cpd file of vectors.", show_default=False)],
    queries: Annotated[Path, typer.Argument(help="Query vectors: .npy, Parquet, Arrow, safetensors or .cpd. With --model: a .txt file of "
                                            "a query a line, or the query itself.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours of each query.")] = 10,
    out: Annotated[Path | None, typer.Option("-o", "--output", help="Write ids here: .npy, queries x k; int64 (row numbers unless you "
                                             "gave ids), or your strings.",
                                             show_default=False)] = None,
    scores: Annotated[Path | None, typer.Option(help="Write scores here: .npy, float32, queries x k.", show_default=False)] = None,
    metric: Annotated[Literal["ip", "cosine", "l2"], typer.Option(help="Inner product, cosine, or minus squared distance.")] = "ip",
    rerank: Annotated[int | None, typer.Option(min=0, help="Short list scored again with all terms of a sum.  \\[default: 10 k]",
                                               show_default=False)] = None,
    probes: Annotated[int | None, typer.Option(min=1, help="Of an index with lists: how many to visit.", show_default=False)] = None,
    recall: Annotated[float | None, typer.Option(help="Of an index with lists: visit those that hold this part of the true "
                                                 r"neighbours.  \[default: 0.95]", show_default=False)] = None,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Code queries as the rows are: signs are then compared by the bits that "
                                            "differ, fastest.")] = False,
    only: Annotated[Path | None, typer.Option(help="Find these ids only: .npy, or text, one a line.", show_default=False)] = None,
    exclude: Annotated[Path | None, typer.Option(help="Do not find these ids.", show_default=False)] = None,
    entry: Annotated[str | None, typer.Option(help="The array to search, if the file has several.", show_default=False)] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a sentence-transformers model that turns text queries into vectors.",
                                               show_default=False)] = None,
    texts: Annotated[Path | None, typer.Option(help="A file whose line i is the text of row i, in the order rows were added, to print "
                                               "what is found.",
                                               show_default=False)] = None,
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite.")] = False,
    threads: Annotated[int, typer.Option("-T", "--threads", min=0, help="Threads; 0: all.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No result line.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON; with row numbers and scores unless -o is given.")] = False,
) -> None:
    """Find the nearest vectors without decoding them: the compressed file is the index.

    [bold]compand compress vectors.npy klt,grouped:48 -o vectors.cpd[/]
    [bold]compand search vectors.cpd queries.npy -k 10 -o ids.npy --scores scores.npy[/]
    [bold]compand search vectors.cpd "how do planes fly" --model ./all-MiniLM-L6-v2 --texts lines.txt[/]
    """
    from ..op.index import Index
    from ..op.search import decodes
    from .add import read_ids
    from .compress import set_threads

    set_threads(threads)
    for path in (out, scores):
        if path:
            target(path, force)
    lines = _lines(texts) if texts else None
    how = {"metric": metric, "rerank": rerank, "probes": probes, "recall": recall, "symmetric": symmetric}
    how |= {name: read_ids(path) for name, path in (("ids", only), ("exclude", exclude)) if path}
    start = time.perf_counter()
    index = Index(file, entry=entry)
    said = None if lines is None else _said(texts, lines, index)
    q = _vectors(queries) if model is None else _embedded(queries, model)
    there = set(index.ids.tolist()) if only or exclude else set()
    for name, some in (("--only", how.get("ids")), ("--exclude", how.get("exclude"))):
        if some is not None and (unknown := len(set(np.asarray(some).tolist()) - there)):
            note(f"{unknown:,} of the {len(some):,} ids of {name} are not in {file}", quiet or json)
    if index.codes.blocks and decodes(index.codes, metric):
        note(f"there is no kernel for {index.codec.spec}: every row is decoded for each search; what compand compress "
             "--bytes makes is scanned as it is", quiet or json)
    index.search(q[:1], k, **how)
    ready = time.perf_counter()
    found, rows = index.search(q, k, **how)
    seconds = time.perf_counter() - ready
    ids = np.array([["" if r is None else r for r in own] for own in rows.tolist()]) if rows.dtype == object else rows
    for path, array in ((out, ids), (scores, found)):
        if path:
            _save(path, array)
    result = {"file": str(file), "queries": len(q), "vectors": len(index), "k": k, "metric": metric, "spec": index.codec.spec,
              "seconds": seconds, "load_seconds": ready - start, "queries_per_second": len(q) / max(seconds, 1e-9)}
    if json:
        return put_json(result if out else result | {"ids": rows.tolist(), "scores": found.tolist()})
    if out is None and scores is None:
        for i in range(min(SHOWN, len(q))):
            pairs = [(r, s) for r, s in zip(rows[i], found[i], strict=True) if np.isfinite(s)]
            if said is None:
                typer.echo(f"query {i}: " + "  ".join(f"{r} ({s:.3f})" for r, s in pairs))
            else:
                typer.echo("\n".join([f"query {i}", *(f"  {s:.3f}  {r}  {said.get(r, '')}" for r, s in pairs)]))
        if len(q) > SHOWN:
            typer.echo(f"... {len(q) - SHOWN} more; write all with -o ids.npy")
    if not quiet:
        typer.echo(f"{len(q)} queries, {len(index)} vectors, {short(seconds)} s, {short(result['queries_per_second'])} queries/s  "
                   f"[{index.codec.spec}]", err=out is None and scores is None)


def _said(texts: Path | None, lines: list[str], index) -> dict:
    """The text of each id: line i is that of row i, deleted ones counted."""
    if len(lines) != len(index) + index.deleted:
        raise InputError(f"{texts} has {len(lines)} lines, {index.path.name} has {len(index) + index.deleted} rows, deleted ones counted; "
                         "give a line for each")
    return dict(zip(index.all_ids.tolist(), lines, strict=True))


def _vectors(path: Path) -> np.ndarray:
    """The queries of a file: its one array of vectors, or one vector."""
    from .arrays import Arrays

    if not path.exists():
        raise InputError(f"{path}: no such file; a query in words needs --model, the folder of a sentence-transformers model")
    with Arrays(path) as asked:
        if [a for a in asked.named.values() if len(a.shape) == 1] and len(asked.named) == 1:
            return np.asarray(asked.one().load(), np.float32)[None]
        own = pick([n for n, a in asked.named.items() if len(a.shape) == 2], None, path)
        return np.asarray(asked.named[own].load(), np.float32)


def _embedded(queries: Path, model: Path) -> np.ndarray:
    """The vectors of the lines of a text file, or of the argument itself where there is no such file."""
    from ..integration.sentence_transformers import embed

    if not queries.exists() and queries.suffix == ".txt":
        raise FileNotFoundError(2, "No such file or directory", str(queries))
    if queries.exists() and queries.suffix != ".txt":
        raise InputError(f"{queries} is not text; give a .txt file with --model, or vectors without it")
    return embed(_lines(queries) if queries.exists() else [str(queries)], model)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as e:
        raise InputError(f"{path} is not text in UTF-8 (byte {e.start})") from None


def pick(names: list[str], wanted: str | None, path: Path) -> str:
    """The name of the one array that is meant. Raises `InputError`."""
    if wanted is not None and wanted in names:
        return wanted
    if wanted is not None or len(names) != 1:
        raise InputError(f"{path} has {len(names)} arrays of vectors{': ' + ', '.join(names[:8]) if names else ''}; "
                         "name one with --entry" if names else f"{path} has no two-dimensional array")
    return names[0]


def _save(path: Path, array: np.ndarray) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            np.save(f, array)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
