"""A decoder language model that runs on its codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import _native
from ..errors import CompandError, FormatError, InputError
from .layers import layers, norm
from .sampling import Sampling
from .shape import Shape, angles, shape_of
from .text import Text
from .weights import Weights


def load(path, *, spec: str | None = None, context: int | None = None, cache: str = "bfloat16",
         memory: int | None = None) -> Model:
    """Open a decoder model to run it.

    Parameters
    ----------
    path : a .cpd file that holds a model folder, a Hugging Face folder, or one that ``CompandConfig`` coded
    spec : codes the matrices that are not coded yet, embedding and head too, as ``int:4:group=64``
    context : most tokens, of prompt and answer together. Default: what the model was made for, 4096 at most.
    cache : "bfloat16" or "float32", how keys and values are kept
    memory : bytes that all weights may take: of matrices coded as sums of terms, the first ones that fit, by what they are worth
        (`compand.modality.stack`); the others are not read

    Codes of a .cpd file are used where they lie in its map; what was stored without loss is decoded. Raises `InputError` for a spec that
    finds nothing to code, `FormatError` for what is not such a model, `UnsupportedError` for a family that is not known, `CorruptError` for
    damage, `InputError` for a memory that the first terms alone exceed.
    """
    weights = Weights(path, spec, memory)
    try:
        model = Model(weights, context, cache)
    finally:
        weights.close()
    if spec and not weights.spec_used:
        raise InputError(f"{path}: no matrix was left to code as {spec}: they are coded already, or too small; leave out the spec, or give "
                         "the model that the file was made of")
    return model


class Model:
    """See `load`. ``shape`` are its sizes, ``bytes`` those of its weights in memory, ``bits`` the same for each value."""

    def __init__(self, weights: Weights, context: int | None = None, cache: str = "bfloat16"):
        if cache not in ("bfloat16", "float32"):
            raise InputError(f"keys and values are kept as bfloat16 or float32, not {cache!r}")
        self.shape: Shape = shape_of(weights.config)
        self.context = min(self.shape.context, 4096) if context is None else context
        if not 1 <= self.context <= self.shape.context:
            raise InputError(f"the context is from 1 to {self.shape.context} tokens, not {context}")
        try:
            self._native = _decoder(weights, self.shape, self.context, cache == "bfloat16")
        except CompandError:
            raise
        except ValueError as e:  # sizes that the native decoder refuses
            raise FormatError(f"{weights.path}: {e}") from None
        self.bytes, self.values = weights.bytes, weights.values
        self._text = Text(weights)
        self.stops = self._text.stops

    @property
    def bits(self) -> float:
        """Bits of a weight, everything counted."""
        return 8 * self.bytes / max(self.values, 1)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values."""
        return self._native.cache_bytes

    @property
    def position(self) -> int:
        """Tokens seen since the last `reset`."""
        return self._native.position

    def reset(self, position: int = 0) -> None:
        """Forget all tokens, or those from a position on."""
        if not 0 <= position <= self.position:
            raise InputError(f"{self.position} tokens were seen; one cannot go back to {position}")
        self._native.rewind(position)

    def logits(self, ids: Sequence[int], *, every: bool = False) -> np.ndarray:
        """Logits after these tokens, which follow those seen before: (vocabulary,) float32, with ``every`` (tokens, vocabulary).

        Raises `InputError` for ids that are none of the vocabulary, and more tokens than the context holds.
        """
        a = np.ascontiguousarray(ids)
        if a.ndim != 1 or not a.size or a.dtype.kind not in "iu":
            raise InputError("tokens are a list of integers, one at least")
        if int(a.min()) < 0 or int(a.max()) >= self.shape.vocabulary:
            raise InputError(f"a token is below {self.shape.vocabulary}; there is {int(a.max() if a.min() >= 0 else a.min())}")
        if a.size > self.context - self.position:
            raise InputError(f"{a.size} tokens after {self.position} do not fit the context of {self.context}; load with a larger context")
        y = self._native.forward(a.astype(np.int64), every)
        return y if every else y[0]

    def generate(self, ids: Sequence[int], *, most: int = 128, sampling: Sampling | None = None) -> Iterator[int]:
        """Tokens that go on after these, one by one, until the model ends its text, ``most`` came, or the context is full."""
        choose = (sampling or Sampling()).chooser()
        y = self.logits(ids)
        for _ in range(most):
            token = choose(y)
            if token in self.stops:
                return
            yield token
            if self.position >= self.context:
                return
            y = self.logits([token])

    def tokens(self, text: str) -> list[int]:
        """The ids of a text, with the model's own start."""
        return self._text.encode(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return self._text.decode(ids)

    def stream(self, prompt: str, *, most: int = 128, sampling: Sampling | None = None) -> Iterator[str]:
        """Pieces of the text that goes on after the prompt."""
        yield from self._text.pieces(self.generate(self.tokens(prompt), most=most, sampling=sampling))


def _decoder(weights: Weights, shape: Shape, context: int, brain: bool) -> _native.Decoder:
    """The native decoder of these weights."""
    name = next((n for n in weights.names if n.endswith("embed_tokens.weight")), None)
    first = next((n for n in weights.names if n.endswith("layers.0.input_layernorm.weight")), "")
    root = first.removesuffix("layers.0.input_layernorm.weight") if name is None else name.removesuffix("embed_tokens.weight")
    head = next((n for n in (f"{root.removesuffix('model.')}lm_head.weight", "lm_head.weight") if n in weights), None)
    if name is None and (head is None or not first):  # `CompandConfig` keeps a tied matrix as the head
        raise FormatError(f"{weights.path}: no tensor embed_tokens.weight; this is not a decoder of the families known here")
    native = _native.Decoder(shape.d, shape.ff, shape.heads, shape.shared, shape.width, context, shape.eps, shape.scale, shape.gelu,
                             shape.attention_cap, shape.logit_cap, shape.embedding_scale, brain)
    turns: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for i, layer in enumerate(layers(weights, shape, root)):
        key = repr(sorted(shape.ropes[i].items()))
        if key not in turns:
            turns[key] = angles(shape.ropes[i], shape.width, context)
        native.layer(*layer, *turns[key], shape.windows[i])
    embedding = weights.matrix(name or head, shape.vocabulary, shape.d)
    native.ends(embedding, norm(weights, shape, f"{root}norm", shape.d),
                weights.matrix(head, shape.vocabulary, shape.d) if head and not shape.tied else embedding)
    return native
