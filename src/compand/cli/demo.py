"""compand demo: real embeddings and a real model there and back at several rates; what ``make demo`` runs."""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from .console import console, note, short, write_text

SHIPPED = ("embeddings", "model")
HEAD = ("file", "asked for", "spec", "bytes", "ratio", "bits/value", "error", "recall@10", "compress s", "restore s")
PLAN: dict[str, tuple[tuple[str, dict], ...]] = {  # modality → (what is asked for, arguments of the search)
    "embeddings": (("--lossless", {}), ("int:8", {}), ("hadamard,int:4", {}), ("--bits 3", {"bits": 3.0}), ("--bits 2", {"bits": 2.0}),
                   ("sign", {}), ("--max-error 0.01", {"error": 0.01})),
    "weights": (("--lossless", {}), ("int:8:group=64", {}), ("hadamard,int:4:group=64", {}), ("--bits 4.5", {"bits": 4.5}),
                ("--bits 3", {"bits": 3.0}), ("--max-error 0.02", {"error": 0.02})),
}


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the files made.")] = Path("demo-out"),
    html: Annotated[Path, typer.Option(help="The report.")] = Path("demo-report.html"),
    inputs: Annotated[list[Path] | None, typer.Argument(metavar="[INPUT]...", show_default=False,
                                                        help="Your own files instead of those that ship with the package.")] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No remarks.")] = False,
) -> None:
    """Compress real embeddings and a real model at several rates, restore and verify them, and report.

    [bold]compand demo[/]
    [bold]compand demo my-vectors.npy my-model.safetensors[/]
    """
    from ..errors import InputError

    out.mkdir(parents=True, exist_ok=True)
    sources = inputs or list(filter(None, (shipped(name, out) for name in SHIPPED)))
    if not sources:
        raise InputError("this installation ships no demo data; name files of your own: compand demo vectors.npy model.safetensors")
    start, results = time.perf_counter(), []
    for source in sources:
        results.append(one(source, out, quiet))
    _show(results)
    write_text(html, report(results))
    note(f"everything restored and verified in {time.perf_counter() - start:.0f} s; wrote {html} (files are in {out}/)", quiet)


def shipped(name: str, out: Path) -> Path | None:
    """The demo data of this name, restored from the .cpd that ships with the package; None if it is not there."""
    import compand

    from .decompress import default_name, restore

    packed = resources.files("compand").joinpath("demo", f"{name}.cpd")
    if not packed.is_file():
        return None
    with resources.as_file(packed) as path, compand.open(path) as opened:
        target = out / default_name(Path(f"{name}.cpd"), opened, None).name
        restore(opened, target, force=True, quiet=True)
    return target


def one(source: Path, out: Path, quiet: bool) -> dict:
    """One file at every rate of the plan: compressed, verified, restored, compared."""
    from ..fit.ladder import usable
    from ..modality import detect

    with detect(source) as opened:
        modality = opened.modality
    rows = []
    for asked, goal in PLAN[modality]:
        if not asked.startswith("-") and not usable(asked):
            note(f"{asked} is left out: this installation lacks a stage of it", quiet)
            continue
        rows.append(_trip(source, out, asked, goal))
    return {"file": source.name, "modality": modality, "rows": rows}


def _trip(source: Path, out: Path, asked: str, goal: dict) -> dict:
    import compand

    from .arrays import Arrays
    from .compress import run
    from .decompress import restore
    from .eval import compare
    from .rate import Goal

    name = source.name + "." + asked.strip("-").replace(" ", "-").replace(":", "-").replace(",", "-").replace("=", "")
    packed, back = out / f"{name}.cpd", out / f"{name}.restored{source.suffix}"
    stage = None if asked.startswith("-") else compand.parse(asked)
    made = run(source, packed, stage, Goal(**goal), asked == "--lossless", quiet=True, force=True)
    start = time.perf_counter()
    with compand.open(packed) as opened:
        opened.verify("full")
        restore(opened, back, force=True, quiet=True)
    seconds = time.perf_counter() - start
    with Arrays(source) as a, Arrays(back) as b:
        total = compare(a, b, quiet=True)["total"]
    identical = source.is_file() and source.read_bytes() == back.read_bytes()
    if asked == "--lossless" and not (identical if source.is_file() else total["exact"]):
        raise compand.CorruptError(f"{source}: lossless, yet {back} differs")
    return {"asked": asked, "spec": made["spec"], "bytes": made["bytes_out"], "ratio": made["ratio"], "recall@10": total.get("recall@10"),
            "bits_per_value": made["bits_per_value"], "relative_error": total["relative_error"], "exact": total["exact"],
            "identical": identical, "seconds": made["seconds"], "restore_seconds": seconds}


def cells(file: str, r: dict) -> list[str]:
    """One round trip as the cells of a table."""
    error = "same file" if r["identical"] else "exact" if r["exact"] else short(r["relative_error"])
    return [file, r["asked"], r["spec"], f"{r['bytes']:,}", short(r["ratio"]) + "x", short(r["bits_per_value"]), error,
            "-" if r["recall@10"] is None else f"{r['recall@10']:.1%}", f"{r['seconds']:.2f}", f"{r['restore_seconds']:.2f}"]


def _show(results: list[dict]) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console()
    shown = [i for i, head in enumerate(HEAD) if out.width >= 130 or head not in ("ratio", "compress s", "restore s")]
    table = Table(*(HEAD[i] for i in shown), box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in table.columns[:3]:
        column.overflow = "fold"  # specs are there to be copied
    for column in table.columns[3:]:
        column.justify, column.no_wrap = "right", True
    for result in results:
        for i, r in enumerate(result["rows"]):
            own = cells(result["file"] if not i else "", r)
            table.add_row(*(escape(own[c]) for c in shown))
        table.add_section()
    out.print(table)


def _series(results: list[dict], key: str) -> list:
    """What was found for a goal as a line, and single specs as points."""
    from ..report import Series

    out = []
    for r in results:
        for searched, name in ((True, "found for a goal"), (False, "one spec for all")):
            points = [(row["bits_per_value"], row[key], row["asked"]) for row in r["rows"]
                      if not row["exact"] and row[key] is not None and row["asked"].startswith("-") == searched]
            if points:
                out.append(Series(f"{r['file']}, {name}", points, searched))
    return out


def report(results: list[dict]) -> str:
    """The HTML report."""
    from ..report import Page, line_plot, table, tiles

    page = Page("compand demo", "Real data, compressed at several rates, restored, verified and compared with the original. "
                "Rates count every byte of the file; errors are ‖x − x̂‖ / ‖x‖.", "compand demo")
    page.add(tiles([(f"{r['file']}, {asked}", short(row["ratio"]) + "×") for r in results for asked in ("--lossless", "--bits 3")
                    for row in r["rows"] if row["asked"] == asked]))
    page.section("Rate and distortion", line_plot(_series(results, "relative_error"), "bits per value",
                                                  "relative error ‖x − x̂‖ / ‖x‖", log_y=True), "Lower and further left is better.")
    if kept := _series(results, "recall@10"):
        page.section("Neighbours kept", line_plot(kept, "bits per value", "recall@10"),
                     "The share of each query's true ten nearest rows that are still among its ten nearest after compression.")
    for r in results:
        page.section(r["file"], table(HEAD[1:], [cells(r["file"], row)[1:] for row in r["rows"]], code=(0, 1)))
    return page.html()
