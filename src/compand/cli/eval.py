"""compand eval: how far B is from A, and what it cost."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Progress, command_line, console, note, put_json, short, size, target, usage, write_text

if TYPE_CHECKING:
    from .arrays import Arrays

HEAD = ("array", "shape", "spec", "bits/value", "relative error", "max error", "SNR dB", "cosine", "least cosine")
ROWS = 60


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command(name="eval")(evaluate)


def evaluate(
    a: Annotated[Path, typer.Argument(metavar="A", help="The original: a file compand reads, or a .cpd.", show_default=False)],
    b: Annotated[Path | None, typer.Argument(metavar="B", help="What became of it: a .cpd, or a file decompressed from one.",
                                             show_default=False)] = None,
    against: Annotated[Path | None, typer.Option(help="The original, if it is not A: compand eval B --against A.",
                                                 show_default=False)] = None,
    text: Annotated[Path | None, typer.Option(help="Language models: measure perplexity and KL divergence on this text. "
                                              "Encoders: how near the embeddings stay (.tsv of scored pairs: Spearman; "
                                              "a folder with corpus.jsonl, queries.jsonl and qrels/, as BEIR has: nDCG@10).",
                                              show_default=False)] = None,
    clips: Annotated[Path | None, typer.Option(help="Whisper: how many transcripts of these recordings stay as they are.",
                                               show_default=False)] = None,
    photos: Annotated[Path | None, typer.Option("--pictures", help="Classifiers of pictures (ResNet, EfficientNet, ViT ...): how often "
                                                "these pictures, a folder, keep their class.", show_default=False)] = None,
    card: Annotated[bool, typer.Option("--card", help="With --text or --pictures: keep what was measured in the .cpd file, where "
                                       "compand info shows it.")] = False,
    base: Annotated[Path | None, typer.Option(help="The base model, if B holds differences to one.", show_default=False)] = None,
    conceal: Annotated[bool, typer.Option("--conceal", help="Pictures: B in spite of damage; how much of it was lost is told.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained report with plots.", show_default=False)] = None,
    views: Annotated[int, typer.Option(min=1, help="Splats: places around the scene to draw it from.")] = 24,
    width: Annotated[int, typer.Option(min=0, max=4096, help="Splats: width of the pictures.  \\[default: 640, or as the cameras say]",
                                       show_default=False)] = 0,
    cameras: Annotated[Path | None, typer.Option(help="Splats: cameras.json (or .npz) to draw from instead.", show_default=False)] = None,
    up: Annotated[str, typer.Option(help="Splats: which way is up in the scene, for placing cameras.")] = "0,-1,0",
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite the report.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no remarks.")] = False,
) -> None:
    """Measure what was lost: errors of each array, the rate of all; recall@10 of embeddings, PSNR and SSIM of pictures and splats.

    [bold]compand eval vectors.npy vectors.cpd[/]
    [bold]compand eval model.safetensors model.cpd --html report.html[/]
    [bold]compand eval original/ restored/ --json[/]
    [bold]compand eval scene.ply scene.cpd --html report.html[/]
    [bold]compand eval photo.png photo.cpd --html report.html[/]
    [bold]compand eval model.cpd --against model/ --text test.txt --card[/]
    [bold]compand eval minilm.cpd --against minilm/ --text scifact/[/]
    [bold]compand eval resnet.cpd --against resnet/ --pictures photos/[/]
    [bold]compand eval whisper.cpd --against whisper/ --clips recordings/[/]
    """
    from . import pictures, scenes
    from .arrays import Arrays, is_cpd

    if (b is None) == (against is None):
        raise usage("give the original and what became of it: compand eval A B, or compand eval B --against A")
    if against is not None:
        a, b = against, a
    assert b is not None
    if card and ((text is None and photos is None) or not is_cpd(b)):
        raise usage("--card goes with --text or --pictures, and is kept in a .cpd file")
    if photos is not None:
        from . import vision

        vision.evaluate(a, b, photos, json=json, quiet=quiet, card=card)
        return
    if clips is not None:
        from . import speech

        speech.evaluate(a, b, clips, json=json, quiet=quiet)
        return
    if text is not None:
        from ..integration.encoder import is_encoder
        from . import encoders, language

        if is_encoder(a):
            encoders.evaluate(a, b, text, json=json, quiet=quiet, card=card)
            return
        language.evaluate(a, b, text, json=json, quiet=quiet, card=card)
        return
    if html:
        target(html, force)
    if scenes.is_scene(a) or scenes.is_scene(b):
        result, shown = scenes.compare(a, b, views, width, cameras, up, quiet)
        if html:
            write_text(html, scenes.report(result, shown))
            note(f"wrote {html}", quiet)
        put_json(result) if json else scenes.show(result, quiet)
        return
    if conceal and not (pictures.is_picture(a) and pictures.is_picture(b)):
        raise usage("--conceal is for pictures")
    if pictures.is_picture(a) and pictures.is_picture(b):
        result, x, y = pictures.compare(a, b, conceal)
        if html:
            write_text(html, pictures.report(result, x, y))
            note(f"wrote {html}", quiet)
        put_json(result) if json else pictures.show(result)
        return
    with Arrays(b, base) as second, Arrays(a, blocks=second.blocks) as first:
        result = compare(first, second, quiet)
    if html:
        write_text(html, report(result))
        note(f"wrote {html}", quiet)
    if json:
        put_json(result)
    else:
        _show(result)


def pairs(a: Arrays, b: Arrays) -> list[tuple[str, str]]:
    """Names of arrays that belong together: of one name, or the only ones."""
    from ..errors import InputError

    if len(a.named) == len(b.named) == 1:
        return [(next(iter(a.named)), next(iter(b.named)))]
    both = [(n, n) for n in a.named if n in b.named]
    if not both:
        raise InputError(f"{a.path} and {b.path} share no array: {', '.join(list(a.named)[:4])} / {', '.join(list(b.named)[:4])}")
    return both


def compare(a: Arrays, b: Arrays, quiet: bool = False) -> dict:
    """Errors of b against a; the dict that `--json` prints."""
    from ..metric import errors, overall, recall

    both, every = pairs(a, b), []
    rows: list[dict[str, Any]] = []
    recalls: list[float] = []
    with Progress(sum(a.named[n].nbytes for n, _ in both), "compare", quiet) as bar:
        for name, other in both:
            x, x_hat, stored = a.named[name].load(), b.named[other].load(), b.named[other]
            ranked = a.modality == "embeddings" and x.ndim == 2 and x.shape[0] > 10 and x.shape[1] > 1 and "float" in x.dtype.name
            first, step = bar.done, a.named[name].nbytes
            own = 0.2 if ranked else 1.0  # neighbours take most of the time
            every.append(e := errors(x, x_hat, lambda share, first=first, step=step, own=own: bar.set(first + int(own * share * step))))
            row: dict[str, Any] = {"name": name, "shape": list(stored.shape), "dtype": stored.dtype}
            row |= {"spec": stored.spec, "values": e.values,
                   "bytes": stored.nbytes, "bits_per_value": 8 * stored.nbytes / max(e.values, 1), "relative_error": e.relative,
                   "max_error": e.maximum, "snr_db": e.snr, "cosine": e.cosine, "cosine_min": e.cosine_min, "exact": e.exact}
            if ranked:
                row["recall@10"] = recall(x, x_hat, progress=lambda share, first=first, step=step, own=own: bar.set(
                    first + int((own + (1 - own) * share) * step)))
                recalls.append(row["recall@10"])
            rows.append(row)
            bar.set(first + step, name)
    missing = sorted(set(a.named) - {n for n, _ in both})
    if missing:
        note(f"not in {b.path}: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}", quiet)
    values = sum(r["values"] for r in rows)
    total = {"bytes_a": a.nbytes, "bytes_b": b.nbytes, "ratio": a.nbytes / b.nbytes, "values": values,
             "bits_per_value": 8 * b.nbytes / max(values, 1), "relative_error": overall(every),
             "exact": all(e.exact for e in every), "arrays": len(rows), "missing": missing}
    if recalls:
        total["recall@10"] = sum(recalls) / len(recalls)
    return {"a": str(a.path), "b": str(b.path), "modality": a.modality, "total": total, "arrays": rows}


def _show(result: dict) -> None:
    from rich.markup import escape
    from rich.table import Table

    out, total = console(), result["total"]
    shown = [i for i, head in enumerate(HEAD) if out.width >= 110 or head not in ("max error", "SNR dB", "least cosine")]
    table = Table(*(HEAD[i] for i in shown), box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in table.columns[3:]:
        column.justify, column.no_wrap = "right", True
    worst = sorted(result["arrays"], key=lambda r: -r["relative_error"])[:ROWS] if len(result["arrays"]) > ROWS else result["arrays"]
    for r in worst:
        own = cells(r)
        table.add_row(*(escape(str(own[i])) for i in shown))
    out.print(table)
    if len(result["arrays"]) > ROWS:
        out.print(f"the {ROWS} of {len(result['arrays'])} arrays with the largest errors; --json has all")
    out.print(f"\n[bold]all[/]  {size(total['bytes_a'])} → {size(total['bytes_b'])}, {short(total['ratio'])}x, "
              f"{short(total['bits_per_value'])} bits/value, {lost(total)}")


def lost(total: dict) -> str:
    """What was lost, in words."""
    found = "[bold]exact[/]: every bit is the same" if total["exact"] else f"relative error {short(total['relative_error'])}"
    return found + (f", recall@10 {total['recall@10']:.1%}" if "recall@10" in total else "")


def cells(r: dict) -> list[str]:
    """One array as the cells of a table."""
    exact = r["exact"]
    return [r["name"], "x".join(map(str, r["shape"])) + " " + r["dtype"], r["spec"] or "-", short(r["bits_per_value"]),
            "exact" if exact else short(r["relative_error"]), "-" if exact else short(r["max_error"]),
            "-" if exact else f"{r['snr_db']:.1f}", short(nan if exact else r["cosine"]), short(nan if exact else r["cosine_min"])]


def report(result: dict) -> str:
    """The HTML report."""
    from ..report import Page, Series, bar_plot, line_plot, table, tiles

    total, rows = result["total"], result["arrays"]
    page = Page(f"{Path(result['a']).name} against {Path(result['b']).name}",
                f"{total['arrays']} array{'s' * (total['arrays'] != 1)}, {total['values']:,} values. Relative error is ‖x − x̂‖ / ‖x‖; "
                "rates count every byte of the file.", command_line())
    facts = [("before", size(total["bytes_a"])), ("after", size(total["bytes_b"])), ("times smaller", short(total["ratio"]) + "×"),
             ("bits per value", short(total["bits_per_value"])),
             ("relative error", "exact" if total["exact"] else short(total["relative_error"]))]
    if "recall@10" in total:
        facts.append(("recall@10 of self-queries", f"{total['recall@10']:.1%}"))
    page.add(tiles(facts))
    lossy = sorted((r for r in rows if not r["exact"]), key=lambda r: -r["relative_error"])
    if len(lossy) > 1:
        groups: dict[str, list] = {}
        for r in lossy:
            groups.setdefault(r["spec"] or "array", []).append((r["bits_per_value"], r["relative_error"], r["name"]))
        page.section("Rate and error of each array", line_plot([Series(k, v, False) for k, v in groups.items()],
                                                                 "bits per value", "relative error", log_y=True),
                     "One point an array, coloured by its spec. Lower and further left is better.")
    if len(lossy) > 1:
        page.section("Largest errors", bar_plot([(r["name"], [r["relative_error"]]) for r in lossy[:30]], ["relative error"], text=short),
                     f"The {min(30, len(lossy))} arrays that lost most.")
    biggest = sorted(rows, key=lambda r: -r["bytes"])[:30]
    if len(rows) > 1:
        page.section("Where the bytes went", bar_plot([(r["name"], [r["bytes"]]) for r in biggest], ["bytes"], text=size))
    page.section("Arrays", table(HEAD, [cells(r) for r in rows], code=(0, 1, 2)))
    return page.html()
