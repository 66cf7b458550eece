"""Docstrings for people at a terminal: paragraphs that fit the window, tables as tables."""

from __future__ import annotations

import re
from inspect import cleandoc

BORDER = re.compile(r"\s*=+(\s+=+)+\s*")


def prose(doc: str) -> list:
    """A docstring as things that rich prints, one under the other: paragraphs, headings, tables, with empty lines between.

    >>> [type(p).__name__ for p in prose("One\\nparagraph.\\n\\n=== ===\\n``a`` one\\n    two\\n=== ===")]
    ['Text', 'Text', 'Table']
    """
    from rich.text import Text

    found: list = []
    lines, at, paragraph = cleandoc(doc).splitlines(), 0, []

    def end() -> None:
        if paragraph:
            found.append(_marked(" ".join(line.strip() for line in paragraph)))
            paragraph.clear()

    while at < len(lines):
        line = lines[at]
        if BORDER.fullmatch(line):
            end()
            stop = max(i for i in range(at, len(lines)) if BORDER.fullmatch(lines[i]) and all(s.strip() for s in lines[at:i]))
            found += [_table(lines[at:stop + 1]), Text("")]
            at = stop
        elif at + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[at + 1].strip()):
            end()
            found.append(Text(line.strip(), "underline"))
            at += 1
        elif not line.strip():
            end()
            if found and not (isinstance(found[-1], Text) and not found[-1]):
                found.append(Text(""))
        else:
            if re.match(r"\S.* : ", line) or line.endswith(" :"):  # a parameter
                end()
                found.append(Text(line.strip(), "bold"))
            else:
                paragraph.append(line)
        at += 1
    end()
    while found and isinstance(found[-1], Text) and not found[-1]:
        found.pop()
    return found


def _marked(text: str):
    """Text with ``code`` in bold."""
    from rich.text import Text

    out = Text()
    for i, piece in enumerate(text.split("``")):
        out.append(piece, "bold" if i % 2 else "")
    return out


def _table(lines: list[str]):
    """The table between two borders; between three, the first row is its head."""
    from rich.table import Table

    starts = [m.start() for m in re.finditer("=+", lines[0])]
    cut = [slice(a, b) for a, b in zip(starts, [*starts[1:], None], strict=True)]
    head, rows = None, []
    for line in lines[1:]:
        if BORDER.fullmatch(line):
            if line is not lines[-1] and head is None and rows:
                head, rows = rows[0], []
            continue
        cells = [line[c].strip() for c in cut]
        if cells[0] or not rows:
            rows.append(cells)
        else:
            rows[-1] = [f"{a} {b}".strip() for a, b in zip(rows[-1], cells, strict=True)]
    table = Table(box=None, show_header=head is not None, header_style="dim", padding=(0, 2, 0, 2))
    for i in range(len(cut)):
        table.add_column(head[i] if head else "", no_wrap=i == 0)
    for row in rows:
        table.add_row(*map(_marked, row))
    return table
