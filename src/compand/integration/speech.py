"""Speech recognisers (Whisper and its kind: encoder and decoder) compressed with speech, and measured by the transcripts they give.

Needs ``pip install compand[hf]``; recordings other than WAV need ``compand[audio]``.
"""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, InputError, OverwriteError
from ..modality import detect
from . import module_file
from .clips import RATE, resampled
from .language import as_folder, transformers
from .module_plan import MEASURED, Measured
from .module_tune import Tuning, products, rate_of

SECONDS = 30  # of a window, which is what the encoder takes
PAUSE = 0.4   # seconds between clips that share one
BATCH = 8
EFFORT = {"low": (0, 0, 3, 8, 16), "medium": (0, 2, 6, 12, 24), "high": (1, 3, 9, 24, 72)}  # perturbed copies of the windows, transcripts
# that are drawn; of `Tuning`: sections, steps after each, steps at the end
BATCH_TUNED = 2  # windows of a step


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
        with torch.no_grad():
            return self.written(self.net.get_encoder()(features), length)

    def written(self, heard, length: int | None = None, pick: Callable[[Any], Any] | None = None) -> list[list[int]]:
        """`tokens` of what the encoder gave; ``pick`` takes the next ones of logits (n, vocabulary)."""
        torch, _ = transformers()
        rows: list[list[int]] = [[] for _ in heard[0]]
        known = inspect.signature(type(self.net).forward).parameters
        past = "cache" if "cache" in known else "past_key_values"  # the name of before transformers 5.24
        with torch.no_grad():
            ids, cache = torch.tensor([self.start] * len(rows)), None
            running = np.ones(len(rows), bool)
            for step in range(min(length or self.most, self.most - len(self.start))):
                out = self.net(encoder_outputs=heard, decoder_input_ids=ids, use_cache=True, **{past: cache})
                z, cache = out.logits[:, -1], out[past]
                z[:, self.never + (self.never_first if not step else [])] = -torch.inf
                best = z.argmax(-1) if pick is None else pick(z)
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


def perturbed(window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A window said a little faster or slower, louder or softer, with noise 10 to 30 dB below it."""
    x = resampled(window, round(RATE * rng.uniform(0.9, 1.1)))[:SECONDS * RATE] * np.float32(rng.uniform(0.5, 1.2))
    noise = np.cumsum(rng.standard_normal(len(x))) if rng.random() < 0.5 else rng.standard_normal(len(x))
    noise -= np.convolve(noise, np.full(400, 1 / 400), "same")  # of the sum of noise, that is loud where speech is, no slow drift
    noise *= 10 ** (-rng.uniform(10, 30) / 20) * np.sqrt(np.square(x).mean() / max(np.square(noise).mean(), 1e-30))
    return np.clip(x + noise, -1, 1).astype(np.float32)


class Lesson:
    """What an original hears in windows, and what it would say next in transcripts of them: what a coded copy is fitted and tuned to.

    A window's transcripts are the original's, and ``drawn`` ones of the same length: by chance, by its own probabilities.
    """

    def __init__(self, own: Recogniser, windows: list[np.ndarray], *, drawn: int = 0, seed: int = 0,
                 progress: Callable[[int, int, str], None] | None = None):
        torch, _ = transformers()
        self.own, self.head = own, own.net.get_output_embeddings().weight.detach().clone()
        self.batches: list[tuple[Any, Any]] = []  # features (1, bands, frames), transcripts (n, length)
        self.states: list[Any] = []
        generator = torch.Generator().manual_seed(seed)

        def pick(z):
            z[:, own.end] = -torch.inf
            return torch.multinomial(z.softmax(-1), 1, generator=generator)[:, 0]

        for at in range(0, len(windows), BATCH):
            if progress:
                progress(0, 1, f"what the original hears, {at} of {len(windows)}")
            features = own.features(windows[at:at + BATCH])
            with torch.no_grad():
                heard = own.net.get_encoder()(features).last_hidden_state
            rows = own.written((heard,))
            others = own.written((heard.repeat_interleave(drawn, 0),), max(map(len, rows)), pick) if drawn and max(map(len, rows)) else []
            for i, row in enumerate(rows):
                ids = torch.tensor([own.start + row, *(own.start + r[:len(row)] for r in others[i * drawn:(i + 1) * drawn])])
                self.batches.append((features[i:i + 1].clone(), ids))
                with torch.no_grad():
                    self.states.append(self.said(heard[i:i + 1], ids))

    def said(self, heard, ids):
        """The decoder's last states for transcripts (n, length) of a window, from where the first word is said."""
        out = self.own.net.get_decoder()(input_ids=ids, encoder_hidden_states=heard.expand(len(ids), -1, -1), use_cache=False)
        return out.last_hidden_state[:, len(self.own.start) - 1:]

    def run(self, batch):
        """The model's logits for a window and its transcripts."""
        features, ids = batch
        heard = self.own.net.get_encoder()(features).last_hidden_state
        return self.own.net.get_output_embeddings()(self.said(heard, ids))

    def importance(self) -> dict[str, np.ndarray]:
        """How often each token of the head is said in windows that plans are not measured on, by the name of its weight."""
        head, size = self.own.net.get_output_embeddings(), len(self.head)
        ids = [b[1].numpy().ravel() for b in self.batches[MEASURED:]]
        counts = np.bincount(np.concatenate(ids) if ids else [], minlength=size)
        return {f"{n}.weight": counts for n, m in self.own.net.named_modules() if m is head}

    def loss(self, numbers):
        """Mean KL divergence (nats a token) from what the original would say next, with gradients."""
        torch, _ = transformers()
        total, net, size = 0.0, self.own.net, sum(p.numel() for p in self.own.net.parameters())
        for i in numbers.tolist():
            features, ids = self.batches[i]
            with products(size if torch.is_grad_enabled() else 0):
                heard = net.get_encoder()(features).last_hidden_state
                q = net.get_output_embeddings()(self.said(heard, ids)).float().log_softmax(-1)
                with torch.no_grad():
                    p = torch.nn.functional.linear(self.states[i], self.head).float().log_softmax(-1)
            total = total + (p.exp() * (p - q)).sum(-1).mean()
        return total / len(numbers)


def compress(model, out, spec: str | Mapping[str, float], clips: list[np.ndarray], *, language: str = "en", damping: float = 0.02,
             effort: str = "medium", tune: bool = True, seed: int = 0, overwrite: bool = False,
             progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write the recogniser in the folder ``model`` to the .cpd file ``out``, every layer and embedding fitted to the clips.

    Clips are float32 at 16 kHz; what the original hears in them is what the decoder is fitted to, and, with more effort than low, what it
    draws by chance; with high effort, in clips that are perturbed too. With a budget (as of `module_file.compress`) instead of a spec,
    bits are shared among the weights by what each is worth. Layers follow each other as in `compand.integration.module_fit.fit`, and are
    tuned on the way unless ``tune`` is false. Finished layers are kept in OUT.parts: a run that was stopped goes on from there, to the
    same bytes on the same machine and number of threads. Returns sizes, ``lost`` by tensor, ``losses`` of the tuning, seconds and
    remarks. Raises `InputError` without clips, `OverwriteError` if ``out`` exists.
    """
    transformers()
    if (out := Path(out)).exists() and not overwrite:
        raise OverwriteError(f"{out} exists; say overwrite=True to replace it")
    if not clips:
        raise InputError("there are no clips to fit the model to")
    start, own, rng = time.perf_counter(), Recogniser(model, language), np.random.default_rng(seed)
    plain = windows(clips)
    copies, drawn, sections, each, last = EFFORT[effort]
    apart = min(2 * BATCH_TUNED, len(plain) // 4)  # windows that are not tuned to come last
    ahead = plain[:len(plain) - apart]
    whole = [*ahead, *(perturbed(w, rng) for _ in range(copies) for w in ahead), *plain[len(plain) - apart:]]
    lesson = Lesson(own, whole, drawn=drawn, seed=seed, progress=progress)
    config = own.net.config
    rate = rate_of(config.encoder_layers + config.decoder_layers, config.d_model)
    tuning = Tuning(lesson.loss, len(whole), rate, sections, each, last, BATCH_TUNED, seed) if tune else None
    what = Measured(own.net, lesson.run, lesson.batches, lesson.loss, lesson.importance())
    result = module_file.compress(model, out, what, spec, tuning=tuning, damping=damping, effort=effort, seed=seed, overwrite=overwrite,
                                  progress=progress)
    return {**result, "seconds": time.perf_counter() - start, "windows": len(whole)}


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
