"""compand info: what is inside, how it is coded, and where the bytes went."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import console, put_json, short, size

GROUPS = ("symbols", "scales", "codebooks", "files", "index")
READ = {"image": 1 << 60, "tokens": 1 << 26}  # stages whose codes tell the bytes of steps, and up to how many values they are asked
OWN: dict[str, dict[str, str]] = {  # stages whose parts say more than symbols and scales, and names for them
    "splat": {}, "image": {}, "neighbours": {"columns": "tables of columns", "coded": "foretold values", "raw": "last bits"}}
SYMBOLS = ("values", "planes", "bytes", "bits", "ids", "coefficients")  # parts that are no side information, though bytes or floats
MANY = 40


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(info)


def info(
    file: Annotated[Path, typer.Argument(help="A .cpd file, or an original.", show_default=False)],
    every: Annotated[bool, typer.Option("-a", "--all", help="Show every entry, however many.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what a file holds: entries, specs, bits per value by part, and where the bytes went. Reads the index only.

    [bold]compand info vectors.cpd[/]
    [bold]compand info model.cpd --json | jq .entries[0][/]
    """
    from .arrays import Arrays, is_cpd

    if is_cpd(file):
        facts = describe(file)
        return put_json(facts) if json else _show(facts, every)
    with Arrays(file) as a:
        entries: list[dict[str, Any]] = [{"name": n.name, "shape": list(n.shape), "dtype": n.dtype, "bytes": n.nbytes}
                                           for n in a.named.values()]
        if json:
            return put_json({"file": str(file), "format": a.kind, "modality": a.modality, "bytes": a.nbytes, "entries": entries,
                             "notes": a.notes})
        values = sum(n.size for n in a.named.values())
        typer.echo(f"{file}: {a.kind}, {a.modality}, {size(a.nbytes)}, {len(entries)} arrays, {values:,} values")
        for e in entries if every else entries[:MANY]:
            typer.echo(f"  {e['name']}  {e['dtype']}{e['shape']}  {size(e['bytes'])}")
        _more(len(entries), every)


def part_group(entry, path: str, form: Any) -> str:
    """Whether a part holds symbols or side information."""
    part = form.get(path)
    return "symbols" if part is None or part.k is not None or path.rpartition(".")[2] in SYMBOLS else "scales"


def describe(file: Path) -> dict:
    """Everything `--json` prints about a .cpd file."""
    import compand

    from ..integration.card import cards
    from .arrays import modality_of

    with compand.open(file) as f:
        entries, totals, kinds = [], defaultdict(int, dict.fromkeys(GROUPS, 0)), []
        splats = modality_of(f) == "splats"
        for name, e in f.items():
            groups: dict[str, int] = defaultdict(int)
            stored, told = e.parts(), False
            if e.kind == "file":
                groups["files"] = e.nbytes
                exact = lossless = True
            else:
                stage = e.codec.stage
                layout = stage.layout(e.codec.form(e.shape, e.dtype)) if _size(e) else {}
                if stage.name in READ and 0 < _size(e) <= READ[stage.name]:
                    held = {"codes": e.unchecked("codes")} if stage.name == "image" else e.intact()
                    own = stage.sizes(held, e.codec.form(e.shape, e.dtype))
                    told = sum(own.values()) == sum(stored.values())
                    stored = own if told else stored
                named = OWN.get(stage.name, {})
                for path, n in stored.items():
                    groups[named.get(path, path) if told or stage.name in OWN else name if splats else part_group(e, path, layout)] += n
                groups["codebooks"] = e.nbytes - sum(stored.values())
                exact, lossless = stage.exact, stage.raw
            for group, n in groups.items():
                totals[group] += n
            kinds.append(exact)
            values = _size(e)
            entries.append({"name": name, "kind": e.kind, "shape": list(e.shape), "dtype": e.dtype, "spec": e.spec, "bytes": e.nbytes,
                            "values": values, "bits_per_value": 8 * e.nbytes / max(values, 1), "lossless": lossless,
                            "decoding": "exact" if exact else "bounded", "bytes_by_group": dict(groups), "bytes_by_part": stored,
                            "attrs": e.attrs, "sha256": e.sha256})
        totals["index"] = max(0, f.nbytes - sum(totals.values()))
        values = sum(e["values"] for e in entries if e["kind"] == "array")
        return {"file": str(file), "format": "cpd " + ".".join(map(str, f.version)), "writer": f.writer, "modality": modality_of(f),
                "meta": f.meta, "bytes": f.nbytes, "values": values, "bits_per_value": 8 * f.nbytes / max(values, 1),
                "decoding": "exact" if all(kinds) else "bounded", "bytes_by_group": dict(totals), "evaluation": cards(f),
                "entries": entries}


def _size(entry) -> int:
    from math import prod

    return prod(entry.shape)


def _show(facts: dict, every: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..integration.card import lines

    out = console()
    out.print(f"[bold]{escape(facts['file'])}[/]  {facts['modality']}, {size(facts['bytes'])}, {facts['values']:,} values, "
              f"[bold]{short(facts['bits_per_value'])} bits/value[/]")
    source = facts["meta"].get("source")
    origin = source.get("format") if isinstance(source, dict) else None
    meaning = "the same on every machine" if facts["decoding"] == "exact" else "last bits may differ between machines"
    out.print(f"{facts['format']}, written by {escape(facts['writer'])}{f', from {escape(str(origin))}' if origin else ''}; "
              f"decoding {facts['decoding']}: {meaning}\n")
    out.print(_tree(facts["entries"] if every else facts["entries"][:MANY]))
    _more(len(facts["entries"]), every)
    table = Table("", "bytes", "share", "bits/value", "", box=None, header_style="dim", padding=(0, 2, 0, 0), title_justify="left")
    for column in table.columns[1:4]:
        column.justify = "right"
    for group in dict.fromkeys([*(g for g in facts["bytes_by_group"] if g not in GROUPS), *GROUPS]):
        n = facts["bytes_by_group"].get(group, 0)
        if n or group == "index":
            share = n / facts["bytes"]
            table.add_row({"index": "index, padding"}.get(group, group), f"{n:,}", f"{share:.1%}", short(8 * n / max(facts["values"], 1)),
                          "█" * round(share * max(8, min(40, out.width - 50))) or "▏")
    out.print("\n[bold]Where the bytes went[/]")
    out.print(table)
    for i, card in enumerate(facts["evaluation"]):
        out.print("\n[bold]Measured[/]" if i == 0 else "")
        out.print(escape("\n".join(lines(card))))


def _tree(entries: list[dict]):
    from rich.markup import escape
    from rich.tree import Tree

    root, nodes = Tree("entries", hide_root=True), {}
    for e in entries:
        at, path = root, ""
        *folders, leaf = e["name"].replace("/", ".").split(".") if e["kind"] == "array" else [e["name"]]
        for folder in folders:
            path += folder + "."
            if path not in nodes:
                nodes[path] = at.add(f"[bold]{escape(folder)}[/]")
            at = nodes[path]
        shape = "x".join(map(str, e["shape"])) or "scalar"
        text = f"[dim]{size(e['bytes'])}, kept as it is[/]" if e["kind"] == "file" else (
            f"{e['dtype']} {shape}  [cyan]{escape(e['spec'])}[/]  {short(e['bits_per_value'])} bits  [dim]{size(e['bytes'])}"
            f"{', lossless' if e['lossless'] else ''}{', against the base' if 'base' in e['attrs'] else ''}[/]")
        at.add(f"{escape(leaf)}  {text}")
    return root


def _more(n: int, every: bool) -> None:
    if n > MANY and not every:
        typer.echo(f"  … and {n - MANY} more; -a shows all")
