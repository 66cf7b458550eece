"""Text to tokens and back, by the tokenizer.json of a model. Needs ``pip install compand[run]``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, InputError

if TYPE_CHECKING:
    from .weights import Weights


class Text:
    """The tokenizer of a model, read when it is first used; ``stops`` are the tokens that end a text."""

    def __init__(self, weights: Weights):
        self._data, self._path, self._tokenizer = weights.file("tokenizer.json"), weights.path, None
        config = weights.json("generation_config.json") or {}
        own = config.get("eos_token_id") if isinstance(config, dict) else None
        own = weights.config.get("eos_token_id") if own is None else own
        self.stops = frozenset(t for t in (own if isinstance(own, list) else [own]) if type(t) is int)
        start = weights.config.get("bos_token_id")
        settings = weights.json("tokenizer_config.json") or {}
        adds = settings.get("add_bos_token") if isinstance(settings, dict) else None
        adds = weights.config.get("model_type") in ("llama", "mistral") if adds is None else adds
        self._start = start if type(start) is int and adds else None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer. Raises `InputError` where the package or the file is missing."""
        if self._tokenizer is None:
            try:
                from tokenizers import Tokenizer
            except ImportError:
                raise InputError("text needs tokenizers: pip install 'compand[run]'; token ids need nothing") from None
            if self._data is None:
                raise FormatError(f"{self._path} holds no tokenizer.json; give token ids")
            try:
                self._tokenizer = Tokenizer.from_str(self._data.decode())
            except MemoryError:
                raise
            except Exception as e:  # the package has no class of its own for this
                raise FormatError(f"{self._path}: tokenizer.json cannot be read: {str(e) or type(e).__name__}") from None
        return self._tokenizer

    def encode(self, text: str) -> list[int]:
        """Ids of a text. A start is put before it where the tokenizer itself does not."""
        ids = list(self.tokenizer.encode(text).ids)
        return ids if self._start is None or ids[:1] == [self._start] else [self._start, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without marks of start and end."""
        return self.tokenizer.decode(list(ids))

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of each id, held back while a character is not whole."""
        seen: list[int] = []
        done = ""
        for token in ids:
            seen.append(token)
            text = self.decode(seen)
            if text.endswith("�") and len(seen) < 8:
                continue
            if text.startswith(done) and len(text) > len(done):
                yield text[len(done):]
                done = text
            if len(seen) > 64:  # a new window, with enough of the old for the spaces
                seen = seen[-8:]
                done = self.decode(seen)
        if seen and (text := self.decode(seen)).startswith(done) and len(text) > len(done):
            yield text[len(done):]
