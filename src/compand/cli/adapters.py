"""LoRA adapters on the command line: compress ADAPTER/ --bits."""

from __future__ import annotations

from pathlib import Path

from .console import Progress, note, put_json, short, size, target, usage


def compress(source: Path, out: Path | None, spec: str | None, bits: float | None, *, force: bool, quiet: bool, json: bool,
             verbose: bool) -> None:
    """Compress an adapter folder so that the change it makes stays what it was."""
    from ..integration import adapter_fit

    if bits is not None and bits not in adapter_fit.SPECS:
        raise usage(f"--bits of an adapter is a whole number from 1 to 8; or give a SPEC, as {adapter_fit.SPECS[2]}")
    used = spec or adapter_fit.SPECS[int(bits or 0)]
    path = target(out or source.with_name(source.resolve().name + ".cpd"), force)
    with Progress(1, "compress", quiet or json) as bar:
        result = adapter_fit.compress(source, path, used, overwrite=force, progress=bar.reach)
    for remark in result["notes"]:
        note(remark, quiet)
    if json:
        put_json({**result, "spec": used, "input": str(source), "output": str(path)})
    elif not quiet:
        print(f"{source.name} → {path.name}: {size(result['bytes'])}, {short(result['bits'])} bits/value, "
              f"error of the change {result['error']:.1%}  [{used}]")
        for module, lost in result["lost"].items() if verbose else ():
            print(f"  {module}  error {lost ** 0.5:.1%}")
