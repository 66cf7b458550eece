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


CODED = "scale:rms,int:12:step={},rans"  # a uniform grid and an entropy coder: near the least bits for an error

PRESETS = (
    Preset("embeddings", "embeddings, the default", "int:8", "4x smaller, fastest to decode, any row alone; nearest neighbours kept"),
    Preset("embeddings-4", "embeddings, small", "int:4:group=64", "7.5x smaller, computable as it is"),
    Preset("embeddings-small", "embeddings, smallest to keep", CODED.format("0.25"), "4 bits a value, a third less error than int:4"),
    Preset("embeddings-search", "embeddings to search, up to d / 5 bytes", "klt,grouped:48", "48 bytes a vector, searched as stored; "
           "compress --bytes N chooses for you, --recall R measures"),
    Preset("embeddings-search-more", "embeddings to search, more bytes", "klt,ecsq:96:trellis=true,rans",
           "96 bytes a vector, entropy-coded: most found for its bytes; 2 d bytes of memory while searched"),
    Preset("weights-8", "weights, safe", "int:8:group=64", "half of bfloat16; no calibration needed"),
    Preset("weights-4", "weights, small", "hadamard,int:4:group=64", "4.25 bits; the rotation spreads outliers"),
    Preset("weights-table", "weights, 4 bits of any distribution", "table:16:group=64", "16 fitted levels times a scale for 64 values"),
    Preset("archive", "any floats, smallest for its error", CODED.format("0.1"), "smaller steps lose less; rows decode in blocks"),
    Preset("splats", "3D Gaussian splats", "splat:3.75:9:7.5:80:0.05:0.1:adapt=0.35:turn=0.75:thin=0.5",
           "about 9 bytes a splat, 14 with strong harmonics; pictures within 45 dB and more"),
    Preset("image", "pictures", "image:24", "about a quarter of a bit a pixel for a smooth photograph, one for a busy one"),
    Preset("lossless", "anything, bit for bit", "planes,rans", "what is predictable in a float, mostly its exponent, is coded"),
)

LOSSLESS = ("planes,rans", "raw")


def coded(fineness: int) -> tuple[str, ...]:
    """Entropy-coded uniform grids with steps from 4 down to 1/512 of the array's rms, ``fineness`` steps an octave."""
    return tuple(CODED.format(f"{2 ** (2 - i / fineness):.5g}") for i in range(11 * fineness + 1))


LADDERS: dict[str, tuple[str, ...]] = {
    "embeddings": ("center,hadamard,sign", "sign", "sign+sign", "hadamard,int:2:mid=true",
                   *(f"hadamard,int:{b}" for b in (3, 4, 5, 6, 7)), *(f"int:{b}" for b in (4, 6, 8, 10, 12)),
                   "int:4:group=64", "table:16"),
    "splats": tuple(f"splat:{3.75 + i / 2:g}:{round(9 * 2 ** (i / 2))}:{7.5 + i / 2:g}:{round(80 * 2 ** (i / 2))}:{0.05 / 2 ** (i / 2):.3g}"
                    f":{0.1 / 2 ** (i / 2):.3g}:adapt=0.35:turn=0.75:thin=0.5" for i in range(-4, 5)),
    "image": tuple(f"image:{2 ** (i / 2):.3g}" for i in range(16, 2, -1)),
    "language": (*(f"hadamard,trellis:{b}:memory=14" for b in (1, 2, 3, 4)),
                 *(f"hadamard,(trellis:4:factors=2:memory=14+trellis:{b}:factors=2:memory=14)" for b in (1, 2)),
                 "hadamard,int:7", "hadamard,int:8"),
    "weights": ("sign:64", "sign", *(f"hadamard,trellis:{b}:memory=12" for b in (1, 2, 3, 4)),
                *(f"hadamard,int:{b}:group=64" for b in (2, 3, 4, 5, 6)), "table:16", "table:16:group=64",
                *(f"int:{b}:group={g}" for b in (3, 4, 8) for g in (32, 128))),
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


def ladder(modality: str, fineness: int = 3) -> tuple[str, ...]:
    """The specs to try for arrays of a modality ('embeddings', 'weights', 'language' or 'splats'), coarse and fine mixed.

    Those of language models are what `compand.lm` multiplies on the codes.

    >>> "int:8" in ladder("embeddings")
    True
    """
    plain = LADDERS.get(modality, LADDERS["weights"])
    return tuple(spec for spec in (*plain, *(coded(fineness) if modality not in ("splats", "language") else ())) if usable(spec))


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
