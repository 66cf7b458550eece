"""What compression did to a language model: perplexity, and how far its next-token distributions are from the original's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ..array import to_numpy
from .activation_file import Codings
from .language import Language, as_folder, transformers

CHUNK = 64  # positions whose logits are held at once


def evaluate(model, reference, text: str, *, length: int = 512, sequences: int = 3, device: str = "auto",
             progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """A model (folder or .cpd) against the one it came from, on the first tokens of a text.

    Returns ``bits`` (file bits a parameter, everything counted), ``perplexity`` and ``perplexity_reference``, ``kld`` (mean of
    KL(reference || model) in nats a token), ``kld_99`` (its 99th percentile), ``top1`` (how often both would say the same next token),
    ``tokens``. Inputs of layers are coded where the file says how (`compand.integration.activation_file`).
    """
    torch, _ = transformers()
    with as_folder(model) as own, as_folder(reference) as other, torch.no_grad():
        found, base = Language(own, device), Language(other, device)
        try:
            ids = base.tokens(text, length, sequences)
            hidden = [_hidden(m, ids, Codings(folder, path)) for m, folder, path in ((base, other, reference), (found, own, model))]
            kld, same, loss = [], [], ([], [])
            for i, row in enumerate(ids):
                for at in range(0, length - 1, CHUNK):
                    to = min(at + CHUNK, length - 1)
                    p, q = (m.logits(h[i][at:to]).log_softmax(-1) for m, h in zip((base, found), hidden, strict=True))
                    kld.append(to_numpy((p.exp() * (p - q)).sum(-1)))
                    same.append(to_numpy(p.argmax(-1) == q.argmax(-1)))
                    for sums, logs in zip(loss, (p, q), strict=True):
                        sums.append(to_numpy(-logs.gather(1, row[at + 1:to + 1, None])[:, 0]))
                if progress:
                    progress(i + 1, len(ids))
            values = sum(item.size for item in base.items.values())
        finally:
            found.close()
            base.close()
    each = np.concatenate(kld).astype(np.float64)
    ppl = [float(np.exp(np.concatenate(sums).astype(np.float64).mean())) for sums in loss]
    size = Path(model).stat().st_size if Path(model).is_file() else sum(p.stat().st_size for p in Path(model).rglob("*") if p.is_file())
    return {"bits": 8 * size / values, "bytes": size, "perplexity": ppl[1], "perplexity_reference": ppl[0], "kld": float(each.mean()),
            "kld_99": float(np.quantile(each, 0.99)), "top1": float(np.concatenate(same).mean()), "tokens": int(each.size)}


def _hidden(language: Language, ids, codings: Codings | None = None) -> list[Any]:
    """The last hidden states of each sequence, layers loaded one at a time, with inputs coded as a file says; the head is loaded after."""
    language.load(language.embedding)
    hidden = [language.embedding(row[None]) for row in ids]
    arguments = language.arguments(ids[:1])
    for layer, more in zip(language.layers, arguments, strict=True):
        language.load(layer)
        with codings.within(layer, language.names[id(layer)]) if codings else nullcontext():
            for j, h in enumerate(hidden):
                y = layer(h, **more)
                hidden[j] = y[0] if isinstance(y, tuple) else y
        language.drop(layer)
    norm = getattr(language.body, "norm", None)
    if norm is not None:
        language.load(norm)
        hidden = [norm(h) for h in hidden]
    if language.tied:
        language.head.weight = language.embedding.weight
    else:
        language.load(language.head)
    return [h[0] for h in hidden]
