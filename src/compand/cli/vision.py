"""Classifiers of pictures on the command line: compress --calib PICTURES, eval --pictures PICTURES."""

from __future__ import annotations

from pathlib import Path

from .console import Progress, put_json, short, size
from .encoders import fitted
from .language import is_self, keep


def compress(source: Path, out: Path | None, spec: str | None, bits: float | None, calib: Path, effort: str, *, force: bool, quiet: bool,
             json: bool, seed: int | None = None) -> None:
    """Fit a classifier to pictures, or to what its batch norms remember of them, and write it."""
    from functools import partial

    from ..integration import vision

    fitted(partial(vision.compress, seed=seed or 0), lambda: None if is_self(calib) else vision.pictures(calib), source, out, spec, bits,
           effort, force=force, quiet=quiet, json=json)


def evaluate(reference: Path, model: Path, pictures: Path, *, json: bool, quiet: bool, card: bool = False) -> None:
    """Compare the classes that a compressed classifier gives pictures with the original's."""
    from ..integration import vision

    paths = vision.pictures(pictures)
    with Progress(1, "look", quiet or json) as bar:
        result = vision.evaluate(model, reference, paths, progress=bar.reach)
    if json:
        put_json({**result, "model": str(model), "reference": str(reference), "pictures_of": str(pictures)})
    else:
        sure = f", {result['top1_sure']:.1%} of the {result['sure']} where the original is sure" if result["sure"] else ""
        right = f"right {result['accuracy']:.1%} (original {result['accuracy_reference']:.1%})\n" if "accuracy" in result else ""
        print(f"{model.name}: {short(result['bits'])} bits/value, {size(result['bytes'])}\n"
              f"same class {result['top1']:.1%} of {result['pictures']:,} pictures{sure}\n{right}"
              f"KL divergence {result['kld']:.4f} nats a picture, 99 % below {result['kld_99']:.3f}")
    if card:
        keep(model, result, vision.contents(paths), pictures, reference, quiet)
