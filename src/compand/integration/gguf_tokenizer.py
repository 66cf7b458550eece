"""The tokenizer in a GGUF file's metadata, as tokenizer.json. Needs ``pip install compand[hf]``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CompandError, FormatError, InputError, UnsupportedError

UNKNOWN, CONTROL, USER, BYTE = 2, 3, 4, 6  # token types
_LONGEST = 1024
_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PATTERNS = {"llama-bpe": _LLAMA3, "qwen2": _LLAMA3.replace("{1,3}", ""), "gpt-2": None, "default": None}


def write_tokenizer(metadata: dict[str, Any], folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Raises `UnsupportedError` for vocabularies that are neither SentencePiece BPE nor byte-level BPE.
    """
    words, kinds = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise FormatError("the metadata holds no tokenizer.ggml.tokens")
    if not isinstance(kinds, np.ndarray) or len(kinds) != len(words):
        kinds = np.ones(len(words), np.int32)
    model = metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str) or model not in ("llama", "gpt2"):
        raise UnsupportedError(f"tokenizer model {str(model)[:40]!r}; 'llama' (SentencePiece BPE) and 'gpt2' (byte-level BPE) are read")
    try:
        _write(metadata, words, kinds, folder)
    except CompandError:
        raise
    except Exception as e:  # the package has no class of its own for vocabularies that contradict themselves
        raise FormatError(f"the tokenizer in the metadata cannot be built: {str(e)[:200]}") from None


def _write(metadata: dict[str, Any], words: list[str], kinds: np.ndarray, folder: Path) -> None:
    model = metadata["tokenizer.ggml.model"]
    tokenizer = _pieces(metadata, words, kinds) if model == "llama" else _bytes(metadata, words)
    from tokenizers import AddedToken, processors

    for kind, special in ((USER, False), (CONTROL, True), (UNKNOWN, True)):
        found = [AddedToken(words[i], normalized=False, special=special) for i in np.flatnonzero(kinds == kind) if words[i]]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(found)
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in
           (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))}
    named = {f"{name}_token": words[i] for name, i in ids.items() if type(i) is int and 0 <= i < len(words)}
    first = named.get("bos_token") if metadata.get("tokenizer.ggml.add_bos_token", int(model == "llama")) == 1 else None
    if first:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[first, "$A"], pair=[first, "$A", first, "$B"], special_tokens=[(first, ids["bos"])])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    if isinstance(template := metadata.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _library():
    try:
        import tokenizers
    except ImportError:
        raise InputError("tokenizers of GGUF files need the tokenizers package: pip install 'compand[hf]'") from None
    return tokenizers


def _pieces(metadata: dict[str, Any], words: list[str], kinds: np.ndarray):
    """Scored pieces: a pair of pieces merges where their union is a piece, the best score first."""
    library = _library()
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(words):
        raise FormatError("the metadata holds no tokenizer.ggml.scores for its tokens")
    if max(map(len, words)) > _LONGEST:  # the search for merges takes the square of this
        raise FormatError(f"a token of {max(map(len, words)):,} characters; {_LONGEST:,} at most")
    vocab = {w: i for i, w in enumerate(words)}
    normal = [i for i in np.argsort(-scores, kind="stable") if kinds[i] not in (UNKNOWN, CONTROL, USER, BYTE)]
    merges = [(w[:c], w[c:]) for w in map(words.__getitem__, normal) for c in range(1, len(w)) if w[:c] in vocab and w[c:] in vocab]
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    unknown = words[unknown] if type(unknown) is int and 0 <= unknown < len(words) else None
    tokenizer = library.Tokenizer(library.models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    space = [library.normalizers.Replace(" ", "▁")]
    first = [library.normalizers.Prepend("▁")] if metadata.get("tokenizer.ggml.add_space_prefix", True) else []
    tokenizer.normalizer = library.normalizers.Sequence(first + space)
    d = library.decoders
    strip = [d.Strip(" ", 1, 0)] if first else []
    tokenizer.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), *strip])
    return tokenizer


def _bytes(metadata: dict[str, Any], words: list[str]):
    """Byte-level BPE: merges and the kind of pre-tokenizer stand in the metadata."""
    library = _library()
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise FormatError("the metadata holds no tokenizer.ggml.merges")
    kind = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(kind, str) or kind not in PATTERNS:
        raise UnsupportedError(f"pre-tokenizer {str(kind)[:40]!r}; {', '.join(PATTERNS)} are read")
    pairs = [tuple(m.split(" ", 1)) for m in merges if isinstance(m, str) and " " in m]
    tokenizer = library.Tokenizer(library.models.BPE({w: i for i, w in enumerate(words)}, pairs, fuse_unk=False, byte_fallback=False))
    p = library.pre_tokenizers
    if (pattern := PATTERNS[kind]) is None:
        tokenizer.pre_tokenizer = p.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = p.Sequence([p.Split(library.Regex(pattern), "isolated"), p.ByteLevel(add_prefix_space=False,
                                                                                                       use_regex=False)])
    tokenizer.decoder = library.decoders.ByteLevel()
    return tokenizer
