"""Encoders on the command line: compress --calib, eval --text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .console import Progress, note, put_json, short, size, target, usage
from .language import EFFORTS, Bound, forecast, keep, read_text


def compress(source: Path, out: Path | None, spec: str | None, bound: Bound, calib: Path, effort: str, *, force: bool, quiet: bool,
             json: bool, seed: int | None = None, tune: bool | None = None) -> None:
    """Fit an encoder to sentences of a text and write it."""
    from ..integration import encoder

    if bound.kld is not None:
        raise usage("--kld is a divergence of what comes next, which an encoder does not say; give --bits or --size")
    tuned(encoder.compress, lambda: read_text(calib), source, out, spec, bound, effort, force=force, quiet=quiet, json=json, seed=seed,
          tune=tune)


def with_inputs(source: Path, out: Path | None, spec: str | None, bits: float | None, inputs: str, calib: Path, effort: str, *, force: bool,
                quiet: bool, json: bool) -> None:
    """Fit an encoder or a decoder whose layers' inputs are coded too."""
    from ..integration import activation_file

    if bits is not None and (bits != int(bits) or not 1 <= bits <= 8):
        raise usage("--bits with --activations is the bits of each weight, a whole number from 1 to 8")
    if inputs.isdecimal() and not 2 <= int(inputs) <= 8:
        raise usage("--activations takes 2 to 8 bits, or a spec of inputs as hadamard,int:4")
    used, weights = activation_file.specs_of(inputs, int(bits or 8))
    fitted(partial(activation_file.compress, inputs=used), lambda: read_text(calib), source, out,
           spec or (weights if bits is not None else None), None, effort, force=force, quiet=quiet, json=json)


def tuned(fit: Callable[..., dict], examples: Callable[[], Any], source: Path, out: Path | None, spec: str | None, bound: Bound,
          effort: str, *, force: bool, quiet: bool, json: bool, seed: int | None, tune: bool | None) -> None:
    """`fitted` for models that can be tuned, and whose bits may be shared among the weights."""
    how = {"effort": effort, "seed": seed or 0, "tune": effort != "low" if tune is None else tune}
    if not bound.planned:
        fitted(partial(fit, **how), examples, source, out, spec, bound.bits, effort, force=force, quiet=quiet, json=json)
        return
    budget = {k: v for k, v in (("bits", bound.bits), ("size", bound.nbytes), ("kld", bound.kld)) if v is not None}

    def planned(model, path, _, given, **words):
        return fit(model, path, budget, given, **how, **words)

    fitted(planned, examples, source, out, str(bound), None, effort, force=force, quiet=quiet, json=json)


def fitted(fit: Callable[..., dict], examples: Callable[[], Any], source: Path, out: Path | None, spec: str | None, bits: float | None,
           effort: str, *, force: bool, quiet: bool, json: bool) -> None:
    """Check the options of compress --calib, ``fit`` a model of torch modules to what ``examples`` reads, and say what came of it."""
    from ..integration.language_fit import specs_of

    if (spec is None) == (bits is None):
        raise usage("--calib fits a model: give --bits, or a SPEC")
    if effort not in EFFORTS:
        raise usage(f"--effort must be one of {', '.join(EFFORTS)}")
    if bits is not None and bits != int(bits):
        raise usage(f"--bits with --calib is the bits of each code, a whole number from 1 to 8; try {int(bits)} or {int(bits) + 1}")
    path = target(out or source.with_name(source.resolve().name + ".cpd"), force)
    used, given = spec or specs_of(int(bits or 0), effort), examples()
    with Progress(1, "fit", quiet or json) as bar:
        result = fit(source, path, used, given, overwrite=force, progress=forecast(bar.reach, quiet or json))
    for remark in result["notes"]:
        note(remark, quiet)
    if json:
        put_json({**result, "spec": used, "input": str(source), "output": str(path)})
    elif not quiet:
        worst = max(result["lost"], key=result["lost"].__getitem__)
        print(f"{source.name} → {path.name}: {size(result['bytes'])}, {short(result['bits'])} bits/value, "
              f"{short(result['seconds'])} s, largest error of outputs {result['lost'][worst] ** 0.5:.1%} ({worst})  [{used}]")


def evaluate(reference: Path, model: Path, text: Path, *, json: bool, quiet: bool, card: bool = False) -> None:
    """Measure a compressed encoder on sentences of a text, on scored pairs (.tsv), or on a retrieval collection (a folder)."""
    from ..integration import encoder, retrieval

    if text.is_dir():
        collection = retrieval.read(text)
        with Progress(1, "evaluate", quiet or json) as bar:
            result = retrieval.evaluate(model, reference, collection, progress=bar.reach)
        if json:
            put_json({**result, "model": str(model), "reference": str(reference), "text": str(text)})
        else:
            print(f"{model.name}: {short(result['bits'])} bits/value, {size(result['bytes'])}\n"
                  f"nDCG@10 {result['ndcg']:.2f} (original {result['ndcg_reference']:.2f})\n"
                  f"the original's ten documents found again {result['found']:.1%}  "
                  f"({result['queries']:,} queries, {result['documents']:,} documents of {text.resolve().name})")
        if card:
            keep(model, result, retrieval.contents(text), text, reference, quiet)
        return
    pairs = ".tsv" in text.suffixes
    words = read_text(text)
    result = encoder.evaluate(model, reference, words, pairs=pairs)
    if json:
        put_json({**result, "model": str(model), "reference": str(reference), "text": str(text)})
    else:
        print(f"{model.name}: {short(result['bits'])} bits/value, {size(result['bytes'])}\n"
              f"cosine with the original's embeddings {result['cosine']:.4f}, 99 % above {result['cosine_1']:.4f}\n"
              f"ten nearest sentences in common {result['neighbours']:.1%}  ({result['sentences']:,} sentences of {text.name})")
        if pairs:
            print(f"Spearman with the scores {result['spearman']:.2f} (original {result['spearman_reference']:.2f})")
    if card:
        keep(model, result, words, text, reference, quiet)
