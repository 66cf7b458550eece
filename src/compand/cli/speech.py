"""Speech recognisers on the command line: compress --calib CLIPS, eval --clips CLIPS."""

from __future__ import annotations

from pathlib import Path

from .console import Progress, note, put_json, short, size, target, usage
from .language import EFFORTS


def compress(source: Path, out: Path | None, spec: str | None, bits: float | None, calib: Path, effort: str, *, force: bool, quiet: bool,
             json: bool) -> None:
    """Fit a recogniser to recordings and write it."""
    from ..integration import clips, speech
    from ..integration.language_fit import specs_of

    if (spec is None) == (bits is None):
        raise usage("--calib fits a model: give --bits, or a SPEC")
    if effort not in EFFORTS:
        raise usage(f"--effort must be one of {', '.join(EFFORTS)}")
    if bits is not None and bits != int(bits):
        raise usage(f"--bits with --calib is the bits of each code, a whole number from 1 to 8; try {int(bits)} or {int(bits) + 1}")
    if not clips.is_clips(calib):
        raise usage(f"a speech recogniser is fitted to recordings; --calib {calib} has none (a file or folder of {', '.join(clips.KINDS)})")
    path = target(out or source.with_name(source.resolve().name + ".cpd"), force)
    used = spec or specs_of(int(bits or 0), effort)
    heard = clips.read_all(calib)
    with Progress(1, "fit", quiet or json) as bar:
        result = speech.compress(source, path, used, list(heard.values()), overwrite=force, progress=bar.reach)
    for remark in result["notes"]:
        note(remark, quiet)
    if json:
        put_json({**result, "spec": used, "input": str(source), "output": str(path)})
    elif not quiet:
        worst = max(result["lost"], key=result["lost"].__getitem__)
        print(f"{source.name} → {path.name}: {size(result['bytes'])}, {short(result['bits'])} bits/value, "
              f"{short(result['seconds'])} s, largest error of outputs {result['lost'][worst] ** 0.5:.1%} ({worst})  [{used}]")


def evaluate(reference: Path, model: Path, recordings: Path, *, json: bool, quiet: bool) -> None:
    """Compare the transcripts of a compressed recogniser with the original's."""
    from ..errors import InputError
    from ..integration import clips, speech

    if reference.is_dir() and not speech.is_speech(reference):
        raise InputError(f"{reference}: not the folder of a speech recogniser with encoder and decoder; --text measures other models")
    heard = clips.read_all(recordings)
    with Progress(1, "listen", quiet or json) as bar:
        result = speech.evaluate(model, reference, list(heard.values()), progress=bar.reach)
    both = list(zip(heard, result.pop("transcripts_reference"), result.pop("transcripts"), strict=True))
    if json:
        texts = [{"clip": name, "reference": a, "model": b} for name, a, b in both]
        put_json({**result, "transcripts": texts, "model": str(model), "reference": str(reference), "clips_of": str(recordings)})
        return
    print(f"{model.name}: {short(result['bits'])} bits/value, {size(result['bytes'])}\n"
          f"same words {result['same']:.1%} of {result['clips']} clips, same text {result['same_text']:.1%}, "
          f"words changed {result['words_changed']:.2%}")
    for name, a, b in both:
        if a != b and not quiet:
            print(f"  {name}\n  - {a}\n  + {b}")
