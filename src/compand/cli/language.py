"""Language models on the command line: compress --calib, eval --text."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import typer

from .console import Progress, note, put_json, short, size, target, usage

EFFORTS = ("low", "medium", "high")
FITS = ("layer", "kronecker")


def read_text(path: Path) -> str:
    """A text file, UTF-8, also .xz."""
    from ..errors import InputError

    try:
        data = path.read_bytes()
        return (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8", "replace")
    except (OSError, lzma.LZMAError) as e:
        raise InputError(f"{path}: cannot read the text ({getattr(e, 'strerror', None) or e})") from None


def compress(source: Path, out: Path | None, spec: str | None, bits: float | None, calib: Path, effort: str, *, force: bool, quiet: bool,
             json: bool, seed: int | None = None, tune: bool | None = None, fit: str = "layer") -> None:
    """Fit a decoder language model to calibration text, or to what it writes itself, and write it."""
    from ..integration import language_distil, language_fit

    if (spec is None) == (bits is None):
        raise usage("--calib fits a language model: give --bits, or a SPEC")
    if effort not in EFFORTS:
        raise usage(f"--effort must be one of {', '.join(EFFORTS)}")
    if fit not in FITS:
        raise usage(f"--fit must be {' or '.join(FITS)}")
    path = target(out or source.with_name(source.resolve().name + ".cpd"), force)
    text, planned = _own_text(source, seed or 0, quiet or json) if is_self(calib) else read_text(calib), None
    if bits is not None and bits != int(bits):
        planned = _plan(source, bits, text, effort, quiet or json)
        note(f"expected: {size(planned.bytes)} of weights, {short(planned.bits)} bits a value, "
             f"KL divergence {short(planned.kld)} nats a token", quiet or json)
    used = spec or (f"{bits} bits shared by measured slopes" if planned else language_fit.specs_of(int(bits or 0), effort))
    if tune is None:
        tune = effort != "low" and language_distil.small(source)
    with Progress(1, "fit", quiet or json) as bar:
        if tune:
            long = {} if isinstance(text, str) else {"length": text.shape[1]}
            result = language_distil.compress(source, path, planned.spec if planned else used, text, effort=effort, seed=seed or 0,
                                              fit=fit, overwrite=force, progress=bar.reach, **long)
        else:
            result = language_fit.compress(source, path, planned.spec if planned else used, text, sweeps=language_fit.SWEEPS[effort],
                                           fit=fit, overwrite=force, progress=bar.reach)
    for remark in result["notes"]:
        note(remark, quiet)
    if json:
        expected = {"expected": {"bytes": planned.bytes, "kld": planned.kld}, "specs": planned.specs} if planned else {}
        put_json({**result, **expected, "spec": used, "input": str(source), "output": str(path)})
    elif not quiet:
        worst = max(result["lost"], key=result["lost"].__getitem__)
        typer.echo(f"{source.name} → {path.name}: {size(result['bytes'])}, {short(result['bits'])} bits/value, "
                   f"{short(result['seconds'])} s, largest error of outputs {result['lost'][worst] ** 0.5:.1%} ({worst})  "
                   f"[{used}{', tuned' if tune else ''}]")


def is_self(calib: Path) -> bool:
    """Whether the model shall write the text: the word self, where no file has that name."""
    return str(calib) == "self" and not calib.exists()


def _own_text(source: Path, seed: int, quiet: bool):
    """Tokens that the model writes, with progress."""
    from ..integration import language_generate

    note(f"calibration: {language_generate.SEQUENCES} x 512 tokens that the model writes itself (seed {seed})", quiet)
    with Progress(1, "write text", quiet) as bar:
        return language_generate.generate(source, seed=seed, progress=bar.reach)


def keep(model: Path, result: dict[str, Any], words: str, text: Path, reference: Path, quiet: bool) -> None:
    """Put the card of a measurement into the file."""
    from ..integration import card

    card.put(model, result, text=words, name=text.name, reference=reference.resolve().name)
    note(f"the card is in {model}; compand info shows it", quiet)


def _plan(source: Path, bits: float, text, effort: str, quiet: bool):
    """Which bits each weight gets, with progress."""
    from ..integration import language_plan

    with Progress(1, "measure", quiet) as bar:
        return language_plan.plan(source, bits, text, effort=effort, progress=bar.reach)


def evaluate(reference: Path, model: Path, text: Path, *, json: bool, quiet: bool, card: bool = False) -> None:
    """Measure a compressed language model on text."""
    from ..integration import language_eval

    words = read_text(text)
    with Progress(1, "evaluate", quiet or json) as bar:
        result: dict[str, Any] = language_eval.evaluate(model, reference, words, sequences=8, progress=bar.reach)
    if json:
        put_json({**result, "model": str(model), "reference": str(reference), "text": str(text)})
    else:
        typer.echo(f"{model.name}: {short(result['bits'])} bits/value, {size(result['bytes'])}\n"
                   f"perplexity {result['perplexity']:.3f} (original {result['perplexity_reference']:.3f})\n"
                   f"KL divergence {result['kld']:.4f} nats a token, 99 % below {result['kld_99']:.3f}\n"
                   f"same next token {result['top1']:.1%}  ({result['tokens']:,} tokens of {text.name})")
    if card:
        keep(model, result, words, text, reference, quiet)
