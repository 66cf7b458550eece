"""The page around tables and plots."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c1d20;--soft:#5d626b;--line:#e4e5e8;--grid:#eceef1;--rest:#a9aeb7;
--c0:#2563c9;--c1:#c85a06;--c2:#0c8270;--c3:#7f45c8;--c4:#b92f6d;--c5:#75740a;--good:#0c8270;--bad:#b92f2f}
@media(prefers-color-scheme:dark){:root{--bg:#141518;--card:#1c1e22;--ink:#e9eaed;--soft:#a0a6b0;--line:#31343a;--grid:#292c32;
--rest:#666c77;--c0:#79a8f5;--c1:#f0965a;--c2:#4cc4ad;--c3:#bb93f2;--c4:#ef86b3;--c5:#c9c64f;--good:#4cc4ad;--bad:#f08a8a}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:36px 24px 56px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:17px;margin:0 0 2px}
p{margin:0 0 12px;color:var(--soft);max-width:76ch}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px 22px;margin:18px 0;overflow-x:auto}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 18px;flex:1 1 130px}
.tile b{display:block;font-size:23px;font-weight:620;letter-spacing:-.01em;font-variant-numeric:tabular-nums;white-space:nowrap}
.tile span{color:var(--soft);font-size:13px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:560;color:var(--soft);border-bottom:1px solid var(--line);padding:6px 10px;white-space:nowrap}
td{border-bottom:1px solid var(--grid);padding:5px 10px}tr:last-child td{border-bottom:0}
.num{text-align:right;white-space:nowrap}
td.code{min-width:84px;overflow-wrap:anywhere}code,td.code{font-family:ui-monospace,"SF Mono",Menlo,Consolas,monospace;font-size:12.5px}
svg{display:block;max-width:100%;height:auto;margin:10px 0 2px;font:12.5px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg text{fill:var(--soft)}
svg .strong{fill:var(--ink);paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-linejoin:round}
svg .axis{stroke:var(--line)}svg .grid{stroke:var(--grid)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;color:var(--soft);margin-top:8px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:7px;vertical-align:-1px}
footer{color:var(--soft);font-size:12.5px;margin-top:22px}footer code{color:var(--ink)}
"""


class Page:
    """A report in the making.

    >>> page = Page("Errors", "of a test")
    >>> page.section("Table", table(["name", "bits"], [["a", 4.0]]))
    >>> "http" in page.html()
    False
    """

    def __init__(self, title: str, lead: str = "", command: str = ""):
        self.title, self.lead, self.command = title, lead, command
        self.body: list[str] = []

    def add(self, html: str) -> None:
        """Put ready HTML on the page, outside of any card."""
        self.body.append(html)

    def section(self, title: str, html: str, note: str = "") -> None:
        """Put a titled card on the page."""
        self.body.append(f"<section><h2>{escape(title)}</h2>{f'<p>{escape(note)}</p>' if note else ''}{html}</section>")

    def html(self) -> str:
        """The whole page."""
        import numpy

        from .. import __version__

        made = f"compand {__version__} · Python {platform.python_version()} · NumPy {numpy.__version__} · " \
               f"{platform.system()} {platform.machine()}"
        again = f"<br>To make this again: <code>{escape(self.command)}</code>" if self.command else ""
        return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(self.title)}</title>'
                f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body><main>'
                f"<h1>{escape(self.title)}</h1><p>{escape(self.lead)}</p>{''.join(self.body)}"
                f"<footer>{escape(made)}{again}</footer></main></body></html>\n")


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """A row of (label, value) figures."""
    return '<div class="tiles">' + "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>'
                                           for label, value in values) + "</div>"


def table(head: Sequence[str], rows: Iterable[Sequence], code: Sequence[int] = (0,)) -> str:
    """A table; numbers stand right, the columns ``code`` in a fixed-width face."""
    rows = [list(row) for row in rows]
    right = [any(isinstance(row[i], (int, float)) or _numeric(row[i]) for row in rows) or all(row[i] == "-" for row in rows)
             for i in range(len(head))]

    def cell(tag: str, i: int, value) -> str:
        kind = "num" if right[i] else "code" if i in code and tag == "td" else ""
        text = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        html = re.sub(r"([,.:/+ ])", r"\1<wbr>", escape(text)) if kind == "code" else escape(text)
        return f"<{tag}{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{html}</{tag}>"

    lines = ["<tr>" + "".join(cell("th", i, h) for i, h in enumerate(head)) + "</tr>"]
    lines += ["<tr>" + "".join(cell("td", i, v) for i, v in enumerate(row)) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _numeric(value) -> bool:
    return isinstance(value, str) and value[:1].isdigit() and value.replace(",", "").replace(".", "").rstrip(" %×xBkMGi").isdigit()
