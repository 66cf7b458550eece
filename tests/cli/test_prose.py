"""Docstrings as `compand specs NAME` shows them."""

import io

import pytest
from rich.console import Console

from compand import registry
from compand.cli.prose import prose


def shown(doc: str, width: int = 60) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width)
    for piece in prose(doc):
        console.print(piece)
    return out.getvalue()


DOC = """One ``word`` of code, in a paragraph
    of two lines.

    Parameters
    ----------
    by : a or b
        what it is

    ====== =========
    name   meaning
    ====== =========
    ``a``  the first,
           in two lines
    b      the second
    ====== =========

    The end.
    """


def test_paragraphs_headings_and_tables():
    lines = [line.rstrip() for line in shown(DOC).splitlines()]
    assert lines[0] == "One word of code, in a paragraph of two lines."
    assert "by : a or b" in lines and "what it is" in lines
    assert any(line.split() == ["a", "the", "first,", "in", "two", "lines"] for line in lines)
    assert any(line.split() == ["name", "meaning"] for line in lines)
    assert lines[-1] == "The end."
    assert "==" not in "".join(lines) and "--" not in "".join(lines) and "``" not in "".join(lines)


@pytest.mark.parametrize("name", registry.names())
def test_nothing_is_lost_of_any_stage(name):
    doc = (registry.lookup(name).__doc__ or "").split(">>>")[0]
    text, words = shown(doc, 100), set("".join(c if c.isalnum() else " " for c in doc).split())
    assert words - set("".join(c if c.isalnum() else " " for c in text).split()) == set()
    assert not any(len(line.rstrip()) > 100 for line in text.splitlines())


def test_help_loses_nothing_in_brackets():
    """Words such as compand[hf] are markup to rich unless they are escaped."""
    import re

    import typer
    from rich.markup import render

    from compand.cli.app import app

    for name, verb in typer.main.get_command(app).commands.items():
        for text in (verb.help or "", *(getattr(p, "help", None) or "" for p in verb.params)):
            said = re.sub(r"(?<!\\)\[/?(bold|dim)?\]", "", text).replace("\\[", "[")
            assert render(text).plain == said, name
