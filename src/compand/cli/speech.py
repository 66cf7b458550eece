"""Speech recognisers on the command line: compress --calib CLIPS, eval --clips CLIPS."""

from __future__ import annotations

from pathlib import Path

from .console import Progress, put_json, short, size, usage
from .encoders import tuned
from .language import Bound


def compress(source: Path, out: Path | None, spec: str | None, bound: Bound, calib: Path, effort: str, *, force: bool, quiet: bool,
             json: bool, seed: int | None = None, tune: bool | None = None) -> None:
    """Fit a recogniser to recordings and write it."""
    from ..integration import clips, speech

    if not clips.is_clips(calib):
        raise usage(f"a speech recogniser is fitted to recordings; --calib {calib} has none (a file or folder of {', '.join(clips.KINDS)})")
    tuned(speech.compress, lambda: list(clips.read_all(calib).values()), source, out, spec, bound, effort,
          force=force, quiet=quiet, json=json, seed=seed, tune=tune)


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
