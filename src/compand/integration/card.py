"""Evaluation cards: what a model was measured to be worth, kept in the file that was measured."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from ..file import File
from ..file import open as open_file
from ..writer import Writer

KEY, MOST = "evaluation", 16
BOUND = 200  # characters of a name on a card


def put(path, result: dict[str, Any], *, text: str | bytes, name: str, reference: str) -> dict[str, Any]:
    """Write what was measured on a text into the file's meta, in one step; no byte of codes changes. Returns the card.

    result : numbers, as `language_eval.evaluate`, `encoder.evaluate` and their kind give them
    text, name, reference : the text as it was read, or the bytes of whatever it was measured on, its name, and the name of the original

    A card holds the SHA-256 of the text, of the checksums of all codes (so that a reader sees if they changed since), and the versions that
    measured. It takes the place of the card of the same text and original; the last sixteen are kept. ``bits`` does not count the cards.
    """
    path = Path(path)
    with open_file(path) as file:
        own, old = file.digest, cards(file)
    numbers = {k: v if type(v) is int else float(v) if math.isfinite(v) else None for k, v in result.items() if isinstance(v, (int, float))}
    name, reference = (v.encode("utf-8", "replace").decode()[:BOUND] for v in (name, reference))  # names of files need not be text
    measured = hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()
    card = {**numbers, "text": name, "text_sha256": measured, "reference": reference, "codes_sha256": own, "versions": versions()}
    kept = [{k: v for k, v in c.items() if k != "current"} for c in old
            if (c["text_sha256"], c["reference"]) != (card["text_sha256"], reference)]
    with Writer(path, append=True, meta={KEY: [*kept, card][-MOST:]}):
        pass
    return card


def cards(file: File) -> list[dict[str, Any]]:
    """The cards of an opened file, oldest first, each with ``current``: whether the codes are still those that were measured.

    What is no card (meta may be anything) is left out; values are numbers, strings or None.
    """
    found = file.meta.get(KEY)
    kept = []
    for card in found[:MOST] if isinstance(found, list) else ():
        if isinstance(card, dict) and isinstance(card.get("text_sha256"), str) and isinstance(card.get("reference"), str):
            plain = {k: v for k, v in card.items() if v is None or type(v) in (int, float, str)}
            own = card.get("versions")
            plain["versions"] = {k: v for k, v in own.items() if type(v) is str} if isinstance(own, dict) else {}
            kept.append(plain | {"current": card.get("codes_sha256") == file.digest})
    return kept


def versions() -> dict[str, str]:
    """The versions of what measures."""
    from importlib import metadata

    from .. import __version__

    found = {"compand": __version__}
    for package in ("torch", "transformers"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def lines(card: dict[str, Any]) -> list[str]:
    """A card in words, for people."""
    def number(key: str, form: str) -> str:
        value = card.get(key)
        return format(value, form) if type(value) in (int, float) else "?"

    says = [f"{number('bits', '.4g')} bits/value"]
    if "pictures" in card:
        says += [f"same class {number('top1', '.1%')}, where sure {number('top1_sure', '.1%')}", f"KL divergence {number('kld', '.4f')}",
                 f"{number('pictures', ',')} pictures"]
        says += [f"right {number('accuracy', '.1%')} (original {number('accuracy_reference', '.1%')})"] if "accuracy" in card else []
    elif "kld" in card:
        says += [f"perplexity {number('perplexity', '.3f')} (original {number('perplexity_reference', '.3f')})",
                 f"KL divergence {number('kld', '.4f')}, 99 % below {number('kld_99', '.3f')}", f"same next token {number('top1', '.1%')}",
                 f"{number('tokens', ',')} tokens"]
    if "cosine" in card:
        says += [f"cosine {number('cosine', '.4f')}, 99 % above {number('cosine_1', '.4f')}", f"neighbours {number('neighbours', '.1%')}"]
        says += [f"Spearman {number('spearman', '.2f')} (original {number('spearman_reference', '.2f')})"] if "spearman" in card else []
    if "ndcg" in card:
        says += [f"nDCG@10 {number('ndcg', '.2f')} (original {number('ndcg_reference', '.2f')})",
                 f"same documents {number('found', '.1%')}"]
    head = f"{str(card.get('text', '?'))[:BOUND]} (SHA-256 {card['text_sha256'][:12]}), against {card['reference'][:BOUND]}"
    by = ", ".join(f"{k} {v}"[:60] for k, v in list(card["versions"].items())[:6])
    said = [head + ("" if card["current"] else "; THE CODES HAVE CHANGED SINCE"), "  " + "; ".join(says), f"  measured by {by or '?'}"]
    return ["".join(c if c.isprintable() else "?" for c in line) for line in said]
