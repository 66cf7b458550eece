"""Presets and ladders: named spec strings, from coarse to fine, that the search for a rate climbs."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from ..errors import CompandError


class Preset(NamedTuple):
    """A spec with a name: what it is for, and why."""

    name: str
    use: str
    spec: str
    why: str


PRESETS = (
    Preset("embeddings", "embeddings, the default", "hadamard,int:8", "4x smaller than float32, rows decode alone, neighbours kept"),
    Preset("embeddings-4", "embeddings, small", "hadamard,int:4", "8x smaller; the rotation spreads outliers over the row"),
    Preset("embeddings-1", "embeddings, first stage of a search", "center,hadamard,sign", "about 30x smaller; rerank with more bits"),
    Preset("embeddings-pq", "embeddings, few bytes a vector", "pca,pq:48x8", "codebooks fitted to the data; needs thousands of rows"),
    Preset("weights-8", "weights, safe", "int:8:group=64", "half of bfloat16; no calibration needed"),
    Preset("weights-4", "weights, small", "hadamard,int:4:group=64", "4.25 bits; the rotation spreads outliers"),
    Preset("weights-lut", "weights, 4 bits, any distribution", "table:4", "a fitted table of 16 values"),
    Preset("archive", "any floats, smallest for its error", "scale:rms,int:step=0.1,rans", "a uniform grid and an entropy coder"),
    Preset("lossless", "anything, bit for bit", "planes,rans", "exponents entropy-coded, mantissas kept"),
)

LOSSLESS = ("planes,rans", "raw")
_STEPS = tuple(f"{2 ** (-i / 3):.4g}" for i in range(-5, 22))  # in units of the row's rms
_CODED = tuple(f"scale:rms,int:step={s},rans" for s in _STEPS)
LADDERS: dict[str, tuple[str, ...]] = {
    "embeddings": (
        "center,hadamard,sign", "hadamard,sign", "sign",
        *(f"hadamard,int:{b}" for b in (2, 3, 4, 5, 6, 7, 8, 10, 12)), *(f"int:{b}" for b in (4, 6, 8)), *_CODED),
    "weights": (
        "sign:group=64", *(f"int:{b}:group={g}" for b in (2, 3, 4, 5, 6, 8) for g in (32, 128)),
        *(f"hadamard,int:{b}:group=64" for b in (2, 3, 4, 5, 6, 8)), "float:e4m3", *_CODED),
}


@cache
def usable(spec: str) -> bool:
    """Whether this installation has the stages of a spec, with these arguments."""
    from ..codec import Codec

    try:
        Codec(spec)
    except CompandError:
        return False
    return True


def ladder(modality: str) -> tuple[str, ...]:
    """The specs to try for arrays of a modality ('embeddings' or 'weights'), coarse and fine mixed.

    >>> "int:8" in ladder("embeddings")
    True
    """
    return tuple(spec for spec in LADDERS.get(modality, LADDERS["weights"]) if usable(spec))


def preset(name: str) -> Preset:
    """The preset of a name; its spec falls back to the nearest simpler one that this installation has."""
    found = next(p for p in PRESETS if p.name == name)
    if usable(found.spec):
        return found
    return found._replace(spec=lossless() if "planes" in found.spec else "int:8")


def lossless() -> str:
    """The spec that keeps every bit in the fewest bytes.

    >>> from compand import parse
    >>> parse(lossless()).raw
    True
    """
    return next(spec for spec in LOSSLESS if usable(spec))
