"""Scenes of splats on the command line: told apart from other files, read, and compared by attributes and by pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arrays import is_cpd, size_on_disk
from .console import Progress, command_line, console, note, short, size, usage

if TYPE_CHECKING:
    from ..modality.splats import Splats
    from ..op.compare import View

UP = "0,-1,0"  # scenes from structure-from-motion have y pointing down
SHOWN = 4  # pairs of pictures in a report
HEAD = ("view", "PSNR dB", "PSNR dB where the scene is", "SSIM")


def is_scene(path: Path) -> bool:
    """Whether a path is meant as a scene of splats: by its mark or suffix, or by what a .cpd says of itself. Raises `FileNotFoundError`."""
    if path.is_dir() or not is_cpd(path):
        from ..modality.splats import format_of

        return format_of(path) is not None
    from ..file import open as open_file

    with open_file(path) as file:
        return file.meta.get("modality") == "splats"


def direction(text: str) -> tuple[float, ...]:
    """A direction of three numbers that are not all zero. Raises a usage error.

    >>> direction("0,0,1")
    (0.0, 0.0, 1.0)
    """
    try:
        found = tuple(float(v) for v in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 3 or not any(found) or not all(map(math.isfinite, found)):
        raise usage(f"{text!r} is not a direction; write three numbers, as 0,0,1")
    return found


def load(path: Path) -> Splats:
    """The scene of a path. Raises `FormatError`."""
    from ..modality.splats import read

    return read(path)


def compare(a: Path, b: Path, views: int, width: int, cameras: Path | None, up: str, quiet: bool) -> tuple[dict[str, Any], list[View]]:
    """The dict that `--json` prints, and the views worth showing: the worst, and others all around."""
    from ..metric import attribute_errors
    from ..modality.cameras import read_cameras
    from ..op.compare import summary
    from ..op.compare import views as compared
    from ..op.render import around

    upward = direction(up)
    first, second = load(a), load(b)
    places = [c.resized(width) if width else c for c in read_cameras(cameras)] if cameras else \
        around(first, views, width or 640, round((width or 640) * 0.75), up=upward)
    every: list[View] = []
    with Progress(len(places), "render", quiet) as bar:
        for view in compared(first, second, places):
            every.append(view if len(places) <= 64 else view._replace(a=None, b=None))  # pictures of many views may not fit in memory
            bar.add(1)
    found = summary(every)
    worst = min(range(len(every)), key=lambda i: every[i].psnr)
    shown = list(dict.fromkeys([worst, *((worst + i * len(every) // SHOWN) % len(every) for i in range(1, SHOWN))]))
    total = {"bytes_a": size_on_disk(a), "bytes_b": size_on_disk(b), "ratio": size_on_disk(a) / max(size_on_disk(b), 1),
             "splats": len(second), "bytes_per_splat": size_on_disk(b) / max(len(second), 1),
             "exact": _exact(first, second)}
    errors = attribute_errors(first, second)
    result = {"a": str(a), "b": str(b), "modality": "splats", "total": total, "attributes": errors, "render": found}
    return result, [every[i] for i in shown]


def _exact(a: Splats, b: Splats) -> bool:
    """Whether every bit of every attribute is the same, in the same order."""
    import numpy as np

    x, y = a.arrays(), b.arrays()
    return x.keys() == y.keys() and all(np.array_equal(x[k].view(np.uint32), y[k].view(np.uint32)) for k in x)


def rows(result: dict) -> list[tuple[str, str]]:
    """Errors of attributes in words."""
    e = result["attributes"]
    p, r, s = e["position"], e["rotation"], e["shape"]
    lines = [("position, of the splat's size", f"mean {short(p['mean'])}, p95 {short(p['p95'])}, max {short(p['max'])}"),
             ("rotation, degrees", f"mean {short(r['mean'])}, p95 {short(r['p95'])}"),
             ("shape (covariance), relative", f"mean {short(s['mean'])}, p95 {short(s['p95'])}"),
             ("scale, logarithm", f"RMS {short(e['scale'])}"), ("opacity, 0 to 1", f"RMS {short(e['opacity'])}"),
             ("colour (sh0)", f"RMS {short(e['sh0'])}")]
    if e["sh_signal"]:
        lines.append(("higher harmonics", f"RMS {short(e['sh'])}, {e['sh_relative']:.1%} of the signal"))
    if e["matched"] != "order":
        lines.append(("order", f"another: compared with the nearest; {e['paired']:.1%} have a partner of their own"))
    return lines


def show(result: dict, quiet: bool = False) -> None:
    """Print a comparison."""
    from rich.markup import escape
    from rich.table import Table

    out, total, r = console(), result["total"], result["render"]
    table = Table("attribute", "error", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for line in rows(result):
        table.add_row(*map(escape, line))
    out.print(table)
    out.print(f"\n[bold]pictures[/]  {len(r['views'])} views: PSNR {decibel(r['psnr'])} (worst {decibel(r['psnr_min'])}, "
              f"{escape(r['worst'])}; where the scene is {decibel(r['psnr_seen'])}), SSIM {r['ssim']:.5f} (worst {r['ssim_min']:.5f})")
    out.print(f"[bold]all[/]  {size(total['bytes_a'])} → {size(total['bytes_b'])}, {short(total['ratio'])}x, {total['splats']:,} splats, "
              f"{short(total['bytes_per_splat'])} B/splat" + (", [bold]exact[/]: every bit is the same" if total["exact"] else ""))
    if result["attributes"]["splats_a"] != result["attributes"]["splats_b"]:
        note(f"{result['attributes']['splats_a']:,} splats became {result['attributes']['splats_b']:,}", quiet)


def decibel(value: float) -> str:
    """A ratio for people; without bound where pictures are equal."""
    return "∞ dB" if value == float("inf") else f"{value:.2f} dB"


def report(result: dict, shown: list[View]) -> str:
    """The HTML report: figures, and pictures of both scenes under a slider."""
    from ..report import Page, table, tiles
    from ..report.picture import PAIR, pair

    total, r = result["total"], result["render"]
    a, b = Path(result["a"]).name, Path(result["b"]).name
    page = Page(f"{a} against {b}", f"{total['splats']:,} splats, drawn from {len(r['views'])} places. PSNR and SSIM compare the pictures "
                "of the two files with each other; rates count every byte of the file.", command_line())
    page.add(tiles([("before", size(total["bytes_a"])), ("after", size(total["bytes_b"])), ("times smaller", short(total["ratio"]) + "×"),
                    ("bytes a splat", short(total["bytes_per_splat"])), ("PSNR, mean of views", decibel(r["psnr"])),
                    ("worst view", decibel(r["psnr_min"])), ("SSIM", f"{r['ssim']:.4f}")]))
    pictures = "".join(pair(v.a, v.b, f"{a} · {v.camera.name or 'view'}", f"{b} · {decibel(v.psnr)}")
                       for v in shown if v.a is not None and v.b is not None)
    if pictures:
        page.section("Pictures", PAIR + pictures, f"Left of the line {a}, right of it {b}; drag the line. The worst view comes first.")
    page.section("Attributes", table(("attribute", "error"), rows(result), code=()))
    lines = [[v["camera"], f"{v['psnr']:.2f}", f"{v['psnr_seen']:.2f}", f"{v['ssim']:.5f}"] for v in r["views"]]
    page.section("Views", table(HEAD, lines))
    return page.html()
