"""Speech recognisers (Whisper and its kind: encoder and decoder) compressed with speech, and measured by the transcripts they give.

Needs ``pip install compand[hf]``; recordings other than WAV need ``compand[audio]``.
"""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, InputError, OverwriteError
from ..modality import detect
from . import module_file, module_fit
from .clips import RATE
from .language import as_folder, transformers

SECONDS = 30  # of a window, which is what the encoder takes
PAUSE = 0.4   # seconds between clips that share one
BATCH = 8


def is_speech(folder) -> bool:
    """Whether a model folder says that its model writes what it hears, with an encoder and a decoder."""
    try:
        config = json.loads(Path(folder, "config.json").read_bytes())
        return bool(config.get("is_encoder_decoder")) and "num_mel_bins" in config and bool(config.get("architectures"))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


class Recogniser:
    """A model folder opened: the torch model (float32, eval), its features of clips, its tokens.

    Raises `FormatError` if transformers cannot open it.
    """

    def __init__(self, folder, language: str = "en"):
        torch, library = transformers()
        try:
            self.net = library.AutoModelForSpeechSeq2Seq.from_pretrained(folder, dtype=torch.float32).eval()
            self.tokenizer = library.AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as e:
            raise FormatError(f"{folder}: transformers cannot open it: {str(e)[:200]}") from None
        config = self.net.config
        self.mel = library.WhisperFeatureExtractor(feature_size=config.num_mel_bins)
        tokens = ("<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>", "<|notimestamps|>")
        known = self.tokenizer.get_vocab()
        self.start = [known[t] for t in tokens if t in known] or [config.decoder_start_token_id]
        self.end = config.eos_token_id
        said = (getattr(self.net.generation_config, k, None) or [] for k in ("suppress_tokens", "begin_suppress_tokens"))
        self.never, self.never_first = ([t for t in tokens if t < config.vocab_size] for tokens in said)
        self.most = config.max_target_positions

    def features(self, clips: list[np.ndarray]):
        """Log-mel spectra of clips (16 kHz, at most 30 s each): float32 (n, bands, frames)."""
        torch, _ = transformers()
        return torch.from_numpy(self.mel([c[:SECONDS * RATE] for c in clips], sampling_rate=RATE, return_tensors="np").input_features)

    def tokens(self, features, length: int | None = None) -> list[list[int]]:
        """The likeliest next token, again and again: the tokens of each clip after the start, without the end."""
        torch, _ = transformers()
        rows: list[list[int]] = [[] for _ in features]
        known = inspect.signature(type(self.net).forward).parameters
        past = "cache" if "cache" in known else "past_key_values"  # the name of before transformers 5.24
        with torch.no_grad():
            heard = self.net.get_encoder()(features)
            ids, cache = torch.tensor([self.start] * len(rows)), None
            running = np.ones(len(rows), bool)
            for step in range(min(length or self.most, self.most - len(self.start))):
                out = self.net(encoder_outputs=heard, decoder_input_ids=ids, use_cache=True, **{past: cache})
                z, cache = out.logits[:, -1], out[past]
                z[:, self.never + (self.never_first if not step else [])] = -torch.inf
                best = z.argmax(-1)
                running &= best.numpy() != self.end
                for i in np.flatnonzero(running):
                    rows[i].append(int(best[i]))
                if not running.any():
                    break
                ids = best[:, None]
        return rows

    def transcribe(self, clips: list[np.ndarray], progress: Callable[[int, int, str], None] | None = None) -> list[str]:
        """What is said in each clip, greedily decoded."""
        texts = []
        for at in range(0, len(clips), BATCH):
            if progress:
                progress(at, len(clips), "")
            rows = self.tokens(self.features(clips[at:at + BATCH]))
            texts += [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
        return texts


def windows(clips: list[np.ndarray]) -> list[np.ndarray]:
    """Clips one after the other with pauses, as many to a window of 30 s as fit; longer ones are cut.

    >>> [len(w) / RATE for w in windows([np.zeros(12 * RATE, np.float32)] * 3)]
    [24.4, 12.0]
    """
    found: list[np.ndarray] = []
    pause = np.zeros(int(PAUSE * RATE), np.float32)
    for clip in clips:
        if found and len(found[-1]) + len(pause) + len(clip) <= SECONDS * RATE:
            found[-1] = np.concatenate([found[-1], pause, clip])
        else:
            found.append(clip[:SECONDS * RATE])
    return found


def compress(model, out, spec: str, clips: list[np.ndarray], *, language: str = "en", damping: float = 0.02, overwrite: bool = False,
             progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write the recogniser in the folder ``model`` to the .cpd file ``out``, every layer and embedding fitted to the clips.

    Clips are float32 at 16 kHz; what the original hears in them is what the decoder is fitted to. Layers follow each other as in
    `compand.integration.module_fit.fit`. Returns sizes, ``lost`` by tensor, seconds and remarks. Raises `InputError` without clips,
    `OverwriteError` if ``out`` exists.
    """
    torch, _ = transformers()
    if Path(out).exists() and not overwrite:
        raise OverwriteError(f"{out} exists; say overwrite=True to replace it")
    if not clips:
        raise InputError("there are no clips to fit the model to")
    start = time.perf_counter()
    own = Recogniser(model, language)
    batches = []
    for window in windows(clips):
        features = own.features([window])
        batches.append((features, torch.tensor([own.start + own.tokens(features)[0]])))
    found = module_fit.fit(own.net, lambda b: own.net(input_features=b[0], decoder_input_ids=b[1], use_cache=False), batches,
                           module_fit.chooser(own.net, spec), damping=damping, progress=progress)
    return {**module_file.write(model, out, found, overwrite=overwrite), "seconds": time.perf_counter() - start, "windows": len(batches)}


def evaluate(model, reference, clips: list[np.ndarray], *, language: str = "en",
             progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """A recogniser (folder or .cpd) against the one it came from, on clips.

    Returns ``bits`` (of the file, a parameter), ``same``: the share of clips whose words are unchanged, ``same_text``: letter by letter,
    with punctuation and case, ``words_changed``: the word error rate against the original's transcripts, and both transcripts.
    """
    with as_folder(model) as own, as_folder(reference) as other:
        texts = [Recogniser(f, language).transcribe(clips, progress) for f in (other, own)]
        with detect(other) as source:
            values = sum(item.size for item in source.items())
    size = Path(model).stat().st_size if Path(model).is_file() else sum(p.stat().st_size for p in Path(model).rglob("*") if p.is_file())
    return {"bits": 8 * size / values, "bytes": size, "clips": len(clips), **agreement(*texts), "transcripts": texts[1],
            "transcripts_reference": texts[0]}


def agreement(before: list[str], after: list[str]) -> dict[str, float]:
    """How far transcripts are unchanged; see `evaluate`.

    >>> agreement(["The cat sat.", "Yes."], ["the cat sat", "No."])
    {'same': 0.5, 'same_text': 0.0, 'words_changed': 0.25}
    """
    pairs = [(words(a), words(b)) for a, b in zip(before, after, strict=True)]
    return {"same": float(np.mean([a == b for a, b in pairs])), "same_text": float(np.mean([a == b for a, b in
                                                                                          zip(before, after, strict=True)])),
            "words_changed": sum(distance(a, b) for a, b in pairs) / max(sum(len(a) for a, _ in pairs), 1)}


def words(text: str) -> list[str]:
    """Words in lower case without punctuation.

    >>> words("Don't -- stop, please!")
    ["don't", 'stop', 'please']
    """
    return re.findall(r"[\w']+", text.lower())


def distance(a: list[str], b: list[str]) -> int:
    """Least number of words put in, taken out or replaced that make b of a (Levenshtein 1966).

    >>> distance(["a", "b", "c"], ["a", "c", "d"])
    2
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]
