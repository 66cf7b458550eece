"""The layers of a decoder under the names that transformers gives them, whoever holds the weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ..errors import FormatError
from .shape import Shape

LINEAR = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


class Named(Protocol):
    """Weights by name."""

    path: Any

    def __contains__(self, name: str) -> bool: ...

    def vector(self, name: str, size: int) -> np.ndarray:
        """A tensor of one axis: float32."""
        ...

    def matrix(self, name: str, n: int, d: int) -> Any:
        """A tensor (n, d) as a native matrix."""
        ...


def layers(weights: Named, shape: Shape, root: str) -> Iterator[tuple[list[Any], list[np.ndarray | None], list[np.ndarray | None]]]:
    """Matrices, biases and norms of each layer, in the order of ``_native.Decoder.layer``. Raises `FormatError` where a norm is missing."""
    d, q, kv = shape.d, shape.heads * shape.width, shape.shared * shape.width
    sizes = [(q, d), (kv, d), (kv, d), (d, q), (shape.ff, d), (shape.ff, d), (d, shape.ff)]
    for i in range(shape.layers):
        at = f"{root}layers.{i}."
        names = [at + n for n in LINEAR]
        matrices = [weights.matrix(f"{n}.weight", *s) for n, s in zip(names, sizes, strict=True)]
        biases = [weights.vector(f"{n}.bias", s[0]) if f"{n}.bias" in weights else None for n, s in zip(names, sizes, strict=True)]
        if f"{at}pre_feedforward_layernorm.weight" in weights:  # norms before and after both parts
            around = ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]
        else:
            around = ["input_layernorm", "", "post_attention_layernorm", ""]
        norms = [norm(weights, shape, at + n, d) if n else None for n in around]
        yield matrices, biases, norms + [norm(weights, shape, at + n, shape.width) if f"{at}{n}.weight" in weights else None
                                         for n in ("self_attn.q_norm", "self_attn.k_norm")]


def norm(weights: Named, shape: Shape, name: str, size: int) -> np.ndarray:
    """What a norm multiplies by: float32 (size,). Raises `FormatError` where it is missing."""
    if f"{name}.weight" not in weights:
        raise FormatError(f"{weights.path}: the norm {name} is missing")
    own = weights.vector(f"{name}.weight", size)
    return own + np.float32(1) if shape.gemma else own
