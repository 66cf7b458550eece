"""Which block type each tensor of a GGUF file gets for the name of a mixture, as Q4_K_M: the rules of llama.cpp's quantizer.

Source: ``llama_tensor_get_type`` of llama.cpp. A name of one type, as Q4_K or IQ4_XS, is that type for all matrices of layers.
"""

from __future__ import annotations

from ..errors import InputError
from ..modality.gguf_grid import writable
from ..modality.gguf_types import TYPES

PLAIN = ("F32", "F16", "BF16")
MIXTURES = {"Q2_K_S": "Q2_K", "Q3_K_S": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K", "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K", "Q5_K_S": "Q5_K",
            "Q5_K_M": "Q5_K"}
_LESS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL", "TQ2_0": "Q4_0",
         **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), "IQ4_NL")}
_KINDS = {t.name: t for t in TYPES.values()}


def names() -> list[str]:
    """What a file can be written as."""
    return [*PLAIN, *writable(), *MIXTURES]


def type_of(mixture: str, tensor: str, shape: tuple[int, ...], layers: int, *, tied: bool, shared: int = 1, ends: str | None = None) -> str:
    """The type of a tensor ``blk.3.attn_v.weight`` of this shape in a model of so many layers.

    ``tied``: the embedding is the head too; ``shared``: heads of queries for each of keys; ``ends`` is the type of embedding and head, if
    the mixture's own is not wanted. Raises `InputError` for a name that is not one of `names`.

    >>> [type_of("Q4_K_M", f"blk.{i}.attn_v.weight", (256, 256), 8, tied=True) for i in (0, 1, 2)]
    ['Q6_K', 'Q4_K', 'Q4_K']
    >>> type_of("Q4_K_M", "blk.1.attn_v.weight", (256, 640), 8, tied=True)      # rows that are no whole blocks of 256
    'Q5_0'
    """
    for name in (mixture, *([ends] if ends else ())):
        if name not in names():
            raise InputError(f"no GGUF type {name!r} to write; there are {', '.join(names())}")
    if len(shape) < 2 or not tensor.endswith(".weight") or "norm" in tensor or tensor.startswith("rope"):
        return "F32"
    if mixture in PLAIN:
        return mixture
    if tensor.startswith(("token_embd", "output.")):
        head = tied or tensor.startswith("output.")
        own = MIXTURES.get(mixture, mixture)
        return _fitting(ends or ("Q6_K" if head and own != "Q8_0" else own), shape)
    _, layer, own, _ = tensor.split(".")
    return _fitting(_of_layer(mixture, own, int(layer), layers, shared), shape)


def _of_layer(mixture: str, own: str, i: int, n: int, shared: int) -> str:
    base = MIXTURES.get(mixture, mixture)
    more = i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2
    if mixture == base and base != "Q2_K":
        return base
    if own == "attn_v":
        if base == "Q2_K":
            return "Q4_K" if shared >= 4 else "Q3_K" if mixture == "Q2_K" else base
        return {"Q3_K_M": "Q5_K" if i < 2 else "Q4_K", "Q3_K_L": "Q5_K", "Q4_K_S": "Q5_K" if i < 4 else base}.get(
            mixture, "Q6_K" if mixture.endswith("M") and more else base)
    if own == "ffn_down":
        return {"Q2_K": "Q3_K", "Q2_K_S": "Q4_K" if i < n // 8 else base, "Q3_K_M": "Q5_K" if i < n // 16 else "Q4_K", "Q3_K_L": "Q5_K",
                "Q4_K_S": "Q5_K" if i < n // 8 else base}.get(mixture, "Q6_K" if mixture.endswith("M") and more else base)
    if own == "attn_output":
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(mixture, base)
    return base


def _fitting(kind: str, shape: tuple[int, ...]) -> str:
    """The type, or one of smaller blocks where rows are no whole ones of its own."""
    while kind not in PLAIN and shape[-1] % _KINDS[kind].values:
        kind = _LESS.get(kind, "F16")
    return kind
