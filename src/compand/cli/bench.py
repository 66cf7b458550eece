"""compand bench: rate and distortion of specs on your own data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from .console import Progress, command_line, console, note, put_json, short, size, target, usage, write_text

HEAD = ("spec", "bits/value", "ratio", "relative error", "cosine", "recall@10", "encode MB/s", "decode MB/s")
MOST = 1 << 25  # values of an array that specs are measured on


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(bench)


def bench(
    words: Annotated[list[str], typer.Argument(metavar="[SPECS]... INPUT", help="Specs, then the file. Without specs: a ladder of "
                                               "good ones for this kind of data.", show_default=False)],
    entry: Annotated[str | None, typer.Option(help="The array to measure on.  \\[default: the largest]", show_default=False)] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Measure on so many evenly spaced rows.", show_default=False)] = None,
    peer: Annotated[str | None, typer.Option(help="Of a language model: time another program in turn with ours, transformers on a "
                                             "Hugging Face folder (bfloat16) or llama-bench on a .gguf.", show_default=False)] = None,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained report with plots.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite the report.")] = False,
    threads: Annotated[int, typer.Option("-T", "--threads", min=0, help="Threads; 0: all.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no remarks.")] = False,
) -> None:
    """Compare specs on your own data: bits per value (every byte of the file counted), error, cosine, recall, speed.

    [bold]compand bench int:8 hadamard,int:4 pq:48x8 vectors.npy[/]
    [bold]compand bench vectors.npy --html report.html[/]
    [bold]compand bench int:4:group=64 hadamard,int:4:group=64 model.safetensors --entry lm_head.weight[/]

    Of a language model, without specs or with the one it is coded with while loading: tokens/s, GB/s, the share of what this machine
    reads from memory.

    [bold]compand bench gemma.cpd --peer gemma-3-270m/[/]
    """
    from .. import parse
    from ..fit.ladder import ladder, lossless
    from .arrays import Arrays
    from .compress import set_threads
    from .run import is_model, speed

    *specs, last = words
    for spec in specs:
        parse(spec)
    if not Path(last).exists():
        raise FileNotFoundError(f"{last}: no such file or folder (the file to measure on comes last, after the specs)")
    if html:
        target(html, force)
    set_threads(threads)
    if is_model(Path(last)) and entry is None and len(specs) < 2:
        if rows is not None or html is not None:
            raise usage(f"{'--rows' if html is None else '--html'} is for arrays, and this is a language model: measure specs on one of "
                        "its matrices with --entry NAME")
        return speed(Path(last), peer, specs[0] if specs else None, json=json, quiet=quiet)
    with Arrays(Path(last)) as opened:
        array = _choose(opened, entry)
        n = array.shape[0] if array.shape else 1
        keep = min(rows or n, max(1, MOST * n // max(array.size, 1)))
        x = array.load(slice(0, None, -(-n // keep))) if keep < n else array.load()
        if keep < n:
            note(f"measuring on {x.shape[0]:,} of {n:,} rows", quiet)
        search = opened.modality == "embeddings"
        specs = specs or [*ladder(opened.modality, 1), lossless()]
    result = {"input": last, "array": array.name, "shape": list(x.shape), "dtype": x.dtype.name, "modality": opened.modality,
              "bytes": x.nbytes, "specs": []}
    with Progress(len(specs) * x.nbytes, "bench", quiet) as bar:
        for spec in specs:
            result["specs"].append(one(x, spec, search))
            bar.add(x.nbytes, spec)
    if html:
        write_text(html, report(result))
        note(f"wrote {html}", quiet)
    put_json(result) if json else _show(result)


def _choose(opened, entry: str | None):
    from ..errors import InputError

    if entry is None:
        return opened.one()
    if entry not in opened.named:
        raise InputError(f"no array {entry!r} in {opened.path}; there are {', '.join(list(opened.named)[:8])}")
    return opened.named[entry]


def one(x: np.ndarray, spec: str, search: bool) -> dict:
    """Rate, distortion and speed of one spec on x; with the key 'fault' if it does not fit x."""
    from ..codec import Codec
    from ..errors import FitError, InputError, SpecError
    from ..metric import errors, recall

    try:
        start = time.perf_counter()
        codec = Codec(spec).fit(x)
        ready = time.perf_counter()
        codes = codec.encode(x)
        encoded = time.perf_counter()
        x_hat = codec.decode(codes)
        done = time.perf_counter()
    except (FitError, InputError, SpecError) as fault:
        return {"spec": spec, "fault": str(fault)}
    nbytes, e = len(codes.to_bytes()), errors(x, x_hat)
    row = {"spec": codec.spec, "bytes": nbytes, "bits_per_value": 8 * nbytes / max(x.size, 1), "ratio": x.nbytes / nbytes,
           "relative_error": e.relative, "max_error": e.maximum, "cosine": e.cosine, "exact": e.exact, "fit_seconds": ready - start,
           "encode_mb_s": x.nbytes / 1e6 / (encoded - ready), "decode_mb_s": x.nbytes / 1e6 / (done - encoded)}
    if search and x.ndim == 2 and x.shape[0] > 10 and x.shape[1] > 1:
        row["recall@10"] = recall(x, x_hat)
    return row


def cells(r: dict) -> list[str]:
    """One spec as the cells of a table."""
    if "fault" in r:
        return [r["spec"], "-", "-", r["fault"].partition("\n")[0], "-", "-", "-", "-"]
    return [r["spec"], short(r["bits_per_value"]), short(r["ratio"]) + "x", "exact" if r["exact"] else short(r["relative_error"]),
            f"{r['cosine']:.5f}", f"{r['recall@10']:.1%}" if "recall@10" in r else "-",
            f"{r['encode_mb_s']:,.0f}", f"{r['decode_mb_s']:,.0f}"]


def _show(result: dict) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    what = f"{result['array']}  {result['dtype']}{result['shape']}, {size(result['bytes'])}"
    out.print(f"[bold]{escape(result['input'])}[/]  {escape(what)}\n", soft_wrap=True)
    table = Table(*HEAD, box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for r in result["specs"]:
        table.add_row(*(escape(c) for c in cells(r)))
    out.print(table)


def family(spec: str) -> str:
    """The stages of a spec without their numbers: what one line of the plot joins.

    >>> family("hadamard,int:4:group=64")
    'hadamard,int'
    """
    import re

    return re.sub(r":[^,+()]*", "", spec)


def report(result: dict) -> str:
    """The HTML report."""
    from ..report import Page, table, tiles

    shape = " × ".join(f"{v:,}" for v in result["shape"])
    page = Page(f"Rate and distortion on {Path(result['input']).name}",
                f"{result['array']}: {shape} {result['dtype']}, {size(result['bytes'])}. Rates count every byte of the file: codes, "
                "scales, codebooks, index.", command_line())
    good = [r for r in result["specs"] if "fault" not in r]
    page.add(tiles([("specs", str(len(good))), ("values", f"{int(np.prod(result['shape'])):,}"), ("before", size(result["bytes"])),
                    ("bits per value before", short(8 * result["bytes"] / max(int(np.prod(result["shape"])), 1)))]))
    plots(page, good)
    page.section("Measured", table(HEAD, [cells(r) for r in result["specs"]]),
                 "Speeds are of this machine and this moment, in bytes of the source.")
    return page.html()


def plots(page, good: list[dict]) -> None:
    """Put the plots of rate, distortion, recall and speed on a page."""
    from ..report import Series, bar_plot, line_plot

    def series(key: str) -> list:
        groups: dict[str, list] = {}
        for r in good:
            if key in r and not r["exact"]:
                groups.setdefault(family(r["spec"]), []).append((r["bits_per_value"], r[key], r["spec"]))
        return [Series(name, points) for name, points in groups.items()]

    if lossy := series("relative_error"):
        page.section("Rate and distortion", line_plot(lossy, "bits per value", "relative error ‖x − x̂‖ / ‖x‖", log_y=True),
                     "Each point is a spec. Lower and further left is better.")
    if kept := series("recall@10"):
        page.section("Neighbours kept", line_plot(kept, "bits per value", "recall@10"),
                     "The share of each query's true ten nearest rows that are still among its ten nearest. "
                     "Higher and further left is better.")
    if good and "decode_mb_s" in good[0]:
        page.section("Decoding speed", bar_plot([(r["spec"], [r["decode_mb_s"]]) for r in good], ["MB/s"], unit="MB/s",
                                                text=lambda v: f"{v:,.0f}"))
