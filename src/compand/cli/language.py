"""Language models on the command line: compress --calib, eval --text."""

from __future__ import annotations

import lzma
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import typer

from .console import Progress, note, put_json, short, size, target, usage

EFFORTS = ("low", "medium", "high")
FITS = ("layer", "attention", "kronecker")
DEVICES = ("auto", "cpu", "cuda")
GENERATIONS = 15  # of `language_evolve`, with --effort high


def read_text(path: Path) -> str:
    """A text file, UTF-8, also .xz."""
    from ..errors import InputError

    try:
        data = path.read_bytes()
        return (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8", "replace")
    except (OSError, lzma.LZMAError) as e:
        raise InputError(f"{path}: cannot read the text ({getattr(e, 'strerror', None) or e})") from None


class Bound(NamedTuple):
    """What a language model shall keep to: one of bits, bytes of the file and KL divergence; ``plan`` shares whole bits too."""

    bits: float | None = None
    nbytes: int | None = None
    kld: float | None = None
    plan: bool = False

    @property
    def planned(self) -> bool:
        """Whether bits are shared among the weights."""
        return self.plan or self.nbytes is not None or self.kld is not None or (self.bits is not None and self.bits != int(self.bits))

    def __str__(self) -> str:
        if self.bits is not None:
            return f"{self.bits:g} bits shared by measured slopes"
        what = f"KL divergence {self.kld}" if self.kld is not None else size(self.nbytes or 0)
        return f"{what}, bits shared by measured slopes"


def compress(source: Path, out: Path | None, spec: str | None, bound: Bound, calib: Path, effort: str, *, force: bool, quiet: bool,
             json: bool, seed: int | None = None, tune: bool | None = None, fit: str = "layer",
             stack: bool = False, blocks: bool | None = None, pv: bool = False, device: str = "auto", verbose: bool = False) -> None:
    """Fit a decoder language model to calibration text, or to what it writes itself, and write it."""
    from ..codec import Codec
    from ..integration import language_distil, language_expect, language_fit, language_stack
    from ..terms import count

    if (spec is None) == (bound == Bound()):
        raise usage("--calib fits a language model: give --bits, --size, --kld, or a SPEC")
    if effort not in EFFORTS:
        raise usage(f"--effort must be one of {', '.join(EFFORTS)}")
    if fit not in FITS:
        raise usage(f"--fit must be one of {', '.join(FITS)}")
    if device.partition(":")[0] not in DEVICES:
        raise usage(f"--device must be one of {', '.join(DEVICES)}")
    path = target(out or source.with_name(source.resolve().name + ".cpd"), force)
    text, planned = _own_text(source, seed or 0, quiet or json, device) if is_self(calib) else read_text(calib), None
    if bound.planned:
        planned = _plan(source, bound, text, effort, quiet or json, device)
        note(f"expected: {size(planned.bytes)} of weights, {short(planned.bits)} bits a value, "
             f"KL divergence {short(planned.kld)} nats a token", quiet or json)
    specs_of = language_stack.spec_of if stack else language_fit.specs_of
    used = spec or (str(bound) if planned else specs_of(int(bound.bits or 0), effort))
    if stack and not planned and count(Codec(used).stage) == 1:
        raise usage(f"--stack needs a SPEC that is a sum of terms, as hadamard,(trellis:2+trellis:1+trellis:1), not {used}")
    expect = {"bytes": planned.bytes, "kld": planned.kld} if planned else {"bytes": _size(source, used)}
    if not planned and language_distil.small(source):
        expect["kld"] = language_expect.expected(source, used, text)
    if not planned:
        words = f", KL divergence about {short(expect['kld'])} nats a token before any tuning" if "kld" in expect else ""
        note(f"expected: about {size(expect['bytes'])}{words}", quiet or json)
    if stack and (tune or blocks or pv):
        raise usage("--stack fits every term of a sum by itself; tuning is for all of them together: leave out --tune, --blocks and --pv")
    if tune is None:
        tune = not stack and effort != "low" and language_distil.small(source)
    if blocks is None:
        blocks = not stack and effort != "low" and not tune
    same = {"fit": fit, "seed": seed or 0, "overwrite": force, "device": device}
    long = {} if isinstance(text, str) else {"length": text.shape[1]}
    with Progress(1, "fit", quiet or json) as bar:
        reach = forecast(bar.reach, quiet or json)
        if tune:
            result = language_distil.compress(source, path, planned.spec if planned else used, text, effort=effort, blocks=blocks,
                                              progress=reach, **same, **long)
        elif stack:
            result = language_stack.compress(source, path, planned.spec if planned else used, text, sweeps=language_fit.SWEEPS[effort],
                                             progress=reach, **same)
        else:
            result = language_fit.compress(source, path, planned.spec if planned else used, text, blocks=effort if blocks else None,
                                           sweeps=0 if blocks else language_fit.SWEEPS[effort], progress=reach, **same)
    if pv:
        result = _moved(source, path, text, result, quiet or json, seed=seed or 0, device=device, **long)
    for remark in result["notes"]:
        note(remark, quiet)
    if json:
        shared = {"specs": planned.specs, "plan": planned.table()} if planned else {}
        put_json({**result, "expected": expect, **shared, "spec": used, "input": str(source), "output": str(path)})
    elif not quiet:
        worst = max(result["lost"], key=result["lost"].__getitem__)
        typer.echo(f"{source.name} → {path.name}: {size(result['bytes'])}, {short(result['bits'])} bits/value, "
                   f"{short(result['seconds'])} s, largest error of outputs {result['lost'][worst] ** 0.5:.1%} ({worst})  "
                   f"[{used}{', tuned' if tune else ''}]")
        if verbose:
            _show(planned.table() if planned else [], result["lost"])


def _moved(source: Path, path: Path, text, result: dict[str, Any], quiet: bool, **words: Any) -> dict[str, Any]:
    """The file with codes that were moved by gradients, and the result with what that did."""
    from ..errors import InputError
    from ..integration import language_codes

    fresh = path.with_name(path.name + ".moved")
    try:
        with Progress(1, "move codes", quiet) as bar:
            found = language_codes.tune(source, path, fresh, text, overwrite=True, progress=bar.reach, **words)
    except InputError as e:
        note(f"codes stay as they are: {e}", quiet)
        return result
    fresh.replace(path)
    note(f"codes moved in {', '.join(f'{share:.1%}' for share in found['moved'])} of the rows; KL divergence of text held back "
         f"{short(found['losses'][0])} → {short(found['losses'][-1])}", quiet)
    return {**result, "pv": found, "bytes": path.stat().st_size, "bits": 8 * path.stat().st_size / result["values"],
            "seconds": result["seconds"] + found["seconds"]}


def _show(plan: list[dict[str, Any]], lost: dict[str, float]) -> None:
    """A line for each weight: what it got, what that is expected to cost, and what its last step up won."""
    rows = {r["name"]: r for r in plan}
    for name, error in lost.items():
        words = f"  {name}  error of outputs {error ** 0.5:.1%}"
        if r := rows.get(name):
            won = f", {size(r['cost'])} more than the next smaller won {short(r['won'])}" if "cost" in r else ""
            words += f"  {r['spec']}  {size(r['bytes'])}, expected KL divergence {short(r['kld'])}{won}"
        typer.echo(words)


def forecast(reach: Callable[..., None], quiet: bool) -> Callable[..., None]:
    """``reach``, that says once, when a twentieth of ten seconds' work or more is done, how long the rest will take."""
    first: list[tuple[int, float]] = []
    told: list[bool] = []
    totals: list[int] = []

    def see(now: int, total: int, what: str | None = None) -> None:
        reach(now, total, what)
        if [total] != totals:  # other work begins
            totals[:], first[:] = [total], []
        first.append((now, time.monotonic()))
        done, spent = now - first[0][0], time.monotonic() - first[0][1]
        if not told and spent > 10 and done > 0 and done >= (total - first[0][0]) / 20:
            told.append(True)
            left = spent * (total - now) / done
            note(f"about {left / 60:.0f} minutes more" if left > 90 else f"about {left:.0f} seconds more", quiet)
        del first[1:]
    return see


def _size(source: Path, spec: str) -> int:
    """Bytes of the file to expect if every matrix is coded by a spec."""
    from ..integration.language_plan import around
    from ..integration.language_slopes import nbytes
    from ..modality import detect

    with detect(source) as opened:
        return around(source) + round(sum(nbytes(spec, *i.shape) if len(i.shape) == 2 else i.nbytes for i in opened.items()))


def is_self(calib: Path) -> bool:
    """Whether the model shall write the text: the word self, where no file has that name."""
    return str(calib) == "self" and not calib.exists()


def _own_text(source: Path, seed: int, quiet: bool, device: str):
    """Tokens that the model writes, with progress."""
    from ..integration import language_generate

    note(f"calibration: {language_generate.SEQUENCES} x 512 tokens that the model writes itself (seed {seed})", quiet)
    with Progress(1, "write text", quiet) as bar:
        return language_generate.generate(source, seed=seed, device=device, progress=bar.reach)


def keep(model: Path, result: dict[str, Any], words: str | bytes, text: Path, reference: Path, quiet: bool) -> None:
    """Put the card of a measurement into the file."""
    from ..integration import card

    card.put(model, result, text=words, name=text.resolve().name, reference=reference.resolve().name)
    note(f"the card is in {model}; compand info shows it", quiet)


def _plan(source: Path, bound: Bound, text, effort: str, quiet: bool, device: str):
    """Which bits each weight gets, with progress; with much effort, bettered by trying."""
    from ..integration import language_distil, language_plan

    tried = GENERATIONS if effort == "high" and bound.kld is None and language_distil.small(source) else 0
    room = None if bound.nbytes is None else bound.nbytes - language_plan.around(source)
    with Progress(1, "measure", quiet) as bar:
        return language_plan.plan(source, bound.bits, text, size=room, kld=bound.kld, effort=effort, generations=tried, device=device,
                                  progress=bar.reach)


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
