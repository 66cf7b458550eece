"""tokenizer.json as the metadata of a GGUF file: `gguf_tokenizer` undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, UnsupportedError
from .gguf_tokenizer import BYTE, CONTROL, PATTERNS, UNKNOWN, USER

_NORMAL, _UNUSED = 1, 5
_LARGEST = 1 << 28  # bytes of a JSON file


def read_json(path: Path, missing: str = "") -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file and ``missing`` does not say why it is needed."""
    if not path.is_file():
        if missing:
            raise FormatError(f"{path.parent}: no {path.name}, {missing}")
        return {}
    if path.stat().st_size > _LARGEST:
        raise FormatError(f"{path}: {path.stat().st_size:,} bytes; {_LARGEST:,} at most")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{path} is not JSON: {str(e)[:80]}") from None
    if not isinstance(found, dict):
        raise FormatError(f"{path} is not a JSON object")
    return found


def vocabulary(folder, config: dict[str, Any], rows: int) -> dict[str, Any]:
    """Metadata ``tokenizer.*`` of a model folder whose embedding has so many rows; rows without a token are marked as unused.

    Byte-level BPE split as GPT-2, Llama 3 or Qwen 2 do, and BPE of SentencePiece (Llama 2, Gemma). Raises `UnsupportedError` for other
    tokenizers, `FormatError` for a damaged one.
    """
    folder = Path(folder)
    found = read_json(folder / "tokenizer.json", "which holds the tokenizer")
    try:
        return _vocabulary(folder, found, config, rows)
    except (AttributeError, TypeError, KeyError, IndexError) as e:  # values of other kinds
        raise FormatError(f"{folder / 'tokenizer.json'} is damaged ({type(e).__name__}: {str(e)[:80]})") from None


def _vocabulary(folder: Path, found: dict[str, Any], config: dict[str, Any], rows: int) -> dict[str, Any]:
    model, where = found["model"], folder / "tokenizer.json"
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedError(f"{where}: a tokenizer of kind {str(model.get('type'))[:40]}; GGUF is written with BPE")
    pieces = _kinds(found, "normalizer", "normalizers") | _kinds(found, "pre_tokenizer", "pretokenizers")
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    if not all(len(m) == 2 and all(isinstance(w, str) for w in m) for m in merges):
        raise FormatError(f"{where}: merges that are no pairs")
    added = {t["content"]: t for t in found.get("added_tokens") or []}
    words: list[str] = [f"[PAD{i}]" for i in range(rows)]
    kinds = np.full(rows, _UNUSED, np.int32)
    for word, i in {**model["vocab"], **{w: t["id"] for w, t in added.items()}}.items():
        if type(i) is not int or not 0 <= i < rows:
            raise FormatError(f"{where}: token {str(word)[:40]!r} has number {str(i)[:20]}, the embedding {rows:,} rows")
        words[i], kinds[i] = str(word), _NORMAL
    own = read_json(folder / "tokenizer_config.json")
    named = {name: _named(own, name, words, config) for name in ("bos", "eos", "unk", "pad")}
    for token in added.values():
        kinds[token["id"]] = CONTROL if token.get("special") else USER
    out: dict[str, Any] = {}
    if "ByteLevel" in pieces:
        out |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _split(found["pre_tokenizer"], where),
                "tokenizer.ggml.merges": [" ".join(m) for m in merges]}
    elif model.get("byte_fallback") or "▁" in json.dumps(found.get("normalizer"), ensure_ascii=False):
        unknown = model.get("unk_token")
        named["unk"] = words.index(unknown) if isinstance(unknown, str) and unknown in words else named["unk"]
        ranks: dict[str, int] = {}
        for i, (a, b) in enumerate(merges):
            ranks.setdefault(a + b, i)
        for i, word in enumerate(words):
            if len(word) == 6 and word.startswith("<0x") and word.endswith(">") and kinds[i] == _NORMAL:
                kinds[i] = BYTE
        if named["unk"] is not None:
            kinds[named["unk"]] = UNKNOWN
        out |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default",
                "tokenizer.ggml.scores": np.array([-ranks.get(w, len(merges)) for w in words], np.float32),
                "tokenizer.ggml.add_space_prefix": bool({"Prepend", "Metaspace"} & pieces)}
    else:
        raise UnsupportedError(f"{where}: BPE that is neither byte-level nor SentencePiece's")
    out |= {"tokenizer.ggml.tokens": words, "tokenizer.ggml.token_type": kinds}
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    out |= {f"tokenizer.ggml.{keys[name]}_token_id": i for name, i in named.items() if i is not None}
    out["tokenizer.ggml.add_bos_token"] = named["bos"] is not None and _starts(found, words[named["bos"]])
    template = own.get("chat_template")
    if (file := folder / "chat_template.jinja").is_file() and file.stat().st_size < 1 << 24:
        template = file.read_text(encoding="utf-8", errors="replace")
    return out | ({"tokenizer.chat_template": template} if isinstance(template, str) else {})


def _kinds(found: dict[str, Any], key: str, many: str) -> set[str]:
    """The kinds of steps that stand under a key, by itself or in a sequence."""
    one = found.get(key) or {}
    return {step["type"] for step in (one.get(many) or [one]) if step}


def _split(one: dict[str, Any], where: Path) -> str:
    """The name that GGUF has for how text is cut before merging."""
    steps = one.get("pretokenizers") or [one]
    last = steps[-1]
    if last["type"] == "ByteLevel" and not last.get("add_prefix_space"):
        if len(steps) == 1 and last.get("use_regex", True):
            return "gpt-2"
        if len(steps) == 2 and steps[0]["type"] == "Split" and not last.get("use_regex", True):
            pattern = steps[0]["pattern"].get("Regex")
            for name, known in PATTERNS.items():
                if known is not None and known == pattern:
                    return name
    raise UnsupportedError(f"{where}: text is cut in a way that GGUF is not written with; {', '.join(PATTERNS)} are")


def _named(own: dict[str, Any], name: str, words: list[str], config: dict[str, Any]) -> int | None:
    """The number of the token that is named so, from tokenizer_config.json or config.json."""
    word = own.get(f"{name}_token")
    word = word.get("content") if isinstance(word, dict) else word
    if isinstance(word, str) and word in words:
        return words.index(word)
    i = config.get(f"{name}_token_id")
    i = i[0] if isinstance(i, list) and i else i
    return i if type(i) is int and 0 <= i < len(words) else None


def _starts(found: dict[str, Any], first: str) -> bool:
    """Whether the tokenizer puts a start before a text."""
    one = found.get("post_processor") or {}
    for step in one.get("processors") or [one]:
        single = step.get("single") or [{}]
        if step.get("type") == "TemplateProcessing" and (single[0].get("SpecialToken") or {}).get("id") == first:
            return True
    return False
