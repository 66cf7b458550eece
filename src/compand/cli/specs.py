"""compand specs: which stages exist, read off the stage classes themselves."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .console import console, put_json
from .prose import prose

KINDS = {"transform": ("Transforms", "array → array; put them before a quantizer: [bold]hadamard,int:4[/]"),
         "quantizer": ("Quantizers", "array → codes; one a chain, or several joined by +: [bold]sign+sign[/]"),
         "entropy": ("Entropy coders", "codes → fewer bytes, nothing lost; last in a chain: [bold]int:8,rans[/]")}


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(specs)


def describe(cls: Any) -> dict:
    """What a stage class says of itself: kind, summary, arguments with ranges and defaults."""
    from .. import fields

    doc = (cls.__doc__ or "").strip()
    return {
        "name": cls.name, "kind": cls.kind, "summary": doc.split("\n\n")[0].replace("\n    ", " ").replace("\n", " "),
        "text": doc, "examples": list(cls.examples), "exact": cls.exact, "lossless": cls.raw,
        "arguments": [{"name": f.name, "expected": f.expected, "required": f.default is fields.MISSING,
                       "default": None if f.default is fields.MISSING else fields.word(f.default), "positional": f.positional}
                      for f in fields.of(cls)],
    }


def _call(stage: dict) -> str:
    """How one writes the stage, with the arguments given by place: 'int:BITS', and ':...' for others by name."""
    words = [stage["name"], *(a["name"].upper() for a in stage["arguments"] if a["positional"])]
    return ":".join(words) + (":…" if len(words) <= len(stage["arguments"]) else "")


def specs(
    name: Annotated[str | None, typer.Argument(help="A stage, for all about it.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List the stages that specs are made of, the presets, and which to use when.

    A spec is a chain of stages: [bold],[/] then · [bold]+[/] codes what is left over · [bold]:[/] arguments · [bold]()[/] groups.

    [bold]compand specs[/]
    [bold]compand specs int[/]
    """
    from ..fit.ladder import PRESETS, usable
    from ..registry import lookup, names

    if name:
        stage = describe(lookup(name))
        return put_json(stage) if json else _one(stage)
    stages = [describe(lookup(n)) for n in names()]
    presets = [p._asdict() for p in PRESETS if usable(p.spec)]
    if json:
        return put_json({"stages": stages, "presets": presets})
    _all(stages, presets)


def _one(stage: dict) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..fit.ladder import PRESETS

    out = console()
    out.print(f"[bold]{escape(_call(stage))}[/]  ({stage['kind']}{', loses nothing' if stage['lossless'] else ''})")
    for piece in prose(stage["text"].split(">>>")[0]):
        out.print(piece)
    if stage["arguments"]:
        table = Table("argument", "what it takes", "default", box=None, header_style="dim", padding=(0, 2, 0, 0))
        for a in stage["arguments"]:
            table.add_row(f"[bold]{a['name']}[/]" + ("" if a["positional"] else "="), escape(a["expected"]),
                          "(required)" if a["required"] else escape(a["default"]))
        out.print()
        out.print(table)
    examples = stage["examples"] or [p.spec for p in PRESETS if stage["name"] in p.spec.replace("+", ",").replace(":", ",").split(",")]
    if examples:
        out.print(f"\nfor example: [bold]{escape('   '.join(examples))}[/]")
    if not stage["exact"]:
        out.print("\nThe last bits of decoded values may differ between machines (float sums in another order).")


def _all(stages: list[dict], presets: list[dict]) -> None:
    from rich.markup import escape
    from rich.table import Table

    out, widest = console(), max(len(_call(s)) for s in stages)
    out.print("[bold]Which should I use?[/]")
    table = Table("for", "spec", "why", box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.columns[1].overflow = "fold"  # to be copied
    for p in presets:
        table.add_row(p["use"], f"[bold]{escape(p['spec'])}[/]", p["why"])
    out.print(table)
    out.print("Or say what you need, and the spec is found: --bits 4, --size 10MiB, --ratio 8, --max-error 0.01.")
    for kind, (title, text) in KINDS.items():
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(min_width=widest, no_wrap=True)
        table.add_column()
        for stage in stages:
            if stage["kind"] == kind:
                table.add_row(f"[bold]{escape(_call(stage))}[/]", escape(stage["summary"].replace("``", "")))
        out.print(f"\n[bold]{title}[/]  {text}")
        out.print(table)
    out.print("\nAll about one stage: compand specs NAME")
