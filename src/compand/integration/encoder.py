"""Encoders (BERT and its kind) compressed with text, and measured by the embeddings they give. Needs ``pip install compand[hf]``."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, InputError, OverwriteError
from . import module_file
from .language import as_folder, rate, transformers
from .module_plan import Measured
from .module_tune import Tuning, rate_of

BATCH = 32
EFFORT = {"low": (3, 16, 32), "medium": (6, 24, 64), "high": (12, 64, 256)}  # of `Tuning`: sections, steps after each, steps at the end
DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def is_encoder(folder) -> bool:
    """Whether a model folder says that its model is neither a decoder nor an encoder with one."""
    try:
        config = json.loads(Path(folder, "config.json").read_bytes())
        kinds = config.get("architectures") or []
        return bool(kinds) and not config.get("is_encoder_decoder") and not any(str(k).endswith(DECODERS) for k in kinds)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


def open_encoder(folder, coded=None):
    """The torch model (float32, eval) and the tokenizer of a folder. `FormatError` if transformers cannot open it.

    Layers whose inputs the folder says are coded (`compand.integration.activation_file`) compute with codes; ``coded`` is the .cpd file the
    folder came from.
    """
    from .activation_file import Codings

    torch, library = transformers()
    try:
        net = library.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = library.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as e:
        raise FormatError(f"{folder}: transformers cannot open it: {str(e)[:200]}") from None
    Codings(folder, coded).put(net)
    return net, tokenizer


def sentences(text: str, count: int | None = None) -> list[str]:
    """Pieces of 20 to 400 characters that lines and full stops end; evenly spaced ones if there are more than ``count``."""
    found = [s for s in (s.strip() for s in re.split(r"\n+|(?<=[.!?])\s+", text)) if 20 <= len(s) <= 400]
    if not found:
        raise InputError("the text has no sentences of 20 to 400 characters")
    return found if count is None else found[::max(1, len(found) // count)][:count]


def compress(model, out, spec: str | Mapping[str, float], calibration: str, *, sequences: int = 512, length: int = 128,
             damping: float = 0.02, effort: str = "medium", tune: bool = True, seed: int = 0, overwrite: bool = False,
             progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write the encoder in the folder ``model`` to the .cpd file ``out``, every linear layer and embedding fitted to sentences of the text.

    With a budget (as of `module_file.compress`) instead of a spec, bits are shared among the weights by what each is worth.
    Layers follow each other as in `compand.integration.module_fit.fit`, and are tuned on the way unless ``tune`` is false; biases make up
    for the mean of what is lost. Finished layers are kept in OUT.parts: a run that was stopped goes on from there, to the same bytes on
    the same machine and number of threads. Returns sizes, ``lost`` by tensor, ``losses`` of the tuning, seconds and remarks. Raises
    `InputError` for text without sentences, `OverwriteError` if ``out`` exists.
    """
    torch, _ = transformers()
    if (out := Path(out)).exists() and not overwrite:
        raise OverwriteError(f"{out} exists; say overwrite=True to replace it")
    start = time.perf_counter()
    net, tokenizer = open_encoder(model)
    ids = sorted((tokenizer(s, truncation=True, max_length=length)["input_ids"] for s in sentences(calibration, sequences)), key=len)
    batches = []
    for at in range(0, len(ids), BATCH):  # cut to the shortest rather than padded: what stands for nothing is no input
        short = len(ids[at])
        batches.append(torch.tensor([row[:short - 1] + row[-1:] for row in ids[at:at + BATCH]]))
    batches = [batches[i] for i in np.random.default_rng(seed).permutation(len(batches))]  # those held back are of any length
    config = net.config
    what = Measured(net, lambda b: net(input_ids=b), batches, likeness(net, batches, takes_first(Path(model))), {})
    tuning = None
    if tune:
        step = rate_of(getattr(config, "num_hidden_layers", 12), getattr(config, "hidden_size", 768))
        tuning = Tuning(what.loss, len(batches), step, *EFFORT[effort], batch=1, seed=seed)
    result = module_file.compress(model, out, what, spec, tuning=tuning, damping=damping, effort=effort, seed=seed, overwrite=overwrite,
                                  progress=progress)
    return {**result, "seconds": time.perf_counter() - start}


def likeness(net, batches, first: bool = False) -> Callable[[Any], Any]:
    """The loss of an encoder that is tuned to its present state, by numbers of batches: relative squared error of the embeddings, and of
    the states of all tokens."""
    torch, _ = transformers()
    with torch.no_grad():
        wanted = [net(input_ids=b).last_hidden_state for b in batches]

    def pooled(states):
        return torch.nn.functional.normalize(states[:, 0] if first else states.mean(1), dim=-1)

    def loss(numbers):
        total = 0.0
        for i in numbers.tolist():
            states, want = net(input_ids=batches[i]).last_hidden_state, wanted[i]
            total = total + (pooled(states) - pooled(want)).square().sum(-1).mean()
            total = total + (states - want).square().mean() / want.square().mean()
        return total / len(numbers)
    return loss


def embed(net, tokenizer, texts: list[str], *, first: bool = False, length: int = 256,
          progress: Callable[[int], None] | None = None) -> np.ndarray:
    """Unit embeddings of texts, float32 (n, d): the mean over tokens, or the first token's."""
    torch, _ = transformers()
    rows: list[Any] = [None] * len(texts)
    turn = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for at in range(0, len(turn), BATCH):
        some = turn[at:at + BATCH]
        if progress:
            progress(at)
        batch = tokenizer([texts[i] for i in some], padding=True, truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            hidden = net(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].float()
        e = hidden[:, 0] if first else (hidden * mask).sum(1) / mask.sum(1)
        for i, row in zip(some, torch.nn.functional.normalize(e, dim=1).numpy(), strict=True):
            rows[i] = row
    return np.stack(rows)


def evaluate(model, reference, text: str, *, pairs: bool = False, count: int = 1000) -> dict[str, Any]:
    """An encoder (folder or .cpd) against the one it came from, on sentences of a text.

    Returns ``bits`` (file bits a parameter), ``cosine`` of the two embeddings of a sentence (mean; ``cosine_1``: 1st percentile), and
    ``neighbours``, the share of ten nearest that both find among the sentences. With ``pairs`` each line is
    score, tab, sentence, tab, sentence: then ``spearman`` and ``spearman_reference`` too, in points.
    """
    with as_folder(model) as own, as_folder(reference) as other:
        for folder, path in ((own, model), (other, reference)):
            if not is_encoder(folder):
                raise InputError(f"{path} does not hold an encoder, so that its embeddings cannot be compared with another's")
        first = takes_first(other)
        if pairs:
            lines = [line.split("\t") for line in text.splitlines()]
            try:
                rows = [(float(p[0]), p[1], p[2]) for p in lines if len(p) >= 3 and p[0].strip()]
            except ValueError:
                rows = []
            if len(rows) < 3:
                raise InputError("pairs are lines of score, tab, sentence, tab, sentence; at least three")
            texts = [r[1] for r in rows] + [r[2] for r in rows]
        else:
            rows, texts = [], sentences(text, count)
        a, b = (embed(*open_encoder(f, path), texts, first=first) for f, path in ((other, reference), (own, model)))
        size = rate(model, other)
    cosine = (a * b).sum(axis=1)
    k = min(10, len(texts) - 1)
    near = [np.argsort(-(x @ x.T - 9 * np.eye(len(x), dtype=np.float32)), axis=1)[:, :k] for x in (a[:2000], b[:2000])]
    found: dict[str, Any] = {**size, "cosine": float(cosine.mean()),
                             "cosine_1": float(np.quantile(cosine, 0.01)), "sentences": len(texts),
                             "neighbours": float(np.mean([len(set(p) & set(q)) / max(k, 1) for p, q in zip(*near, strict=True)]))}
    if rows:
        gold, n = np.array([r[0] for r in rows]), len(rows)
        for name, x in (("spearman", b), ("spearman_reference", a)):
            found[name] = 100 * spearman((x[:n] * x[n:]).sum(axis=1), gold)
    return found


def takes_first(folder: Path) -> bool:
    """Whether a sentence-transformers folder takes the first token's state instead of the mean."""
    try:
        return bool(json.loads((folder / "1_Pooling" / "config.json").read_bytes()).get("pooling_mode_cls_token"))
    except (OSError, ValueError, AttributeError):
        return False


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation; equal values share their mean rank.

    >>> round(spearman(np.array([1.0, 2, 3, 4]), np.array([1.0, 1, 5, 9])), 3)
    0.949
    """
    ranks = []
    for v in (x, y):
        _, inverse, counts = np.unique(v, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    return float(np.corrcoef(*ranks)[0, 1])
