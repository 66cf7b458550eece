"""Which spec for vectors that are searched, by the bytes one may take. Measured in benchmarks/vectors.py."""

from __future__ import annotations

from ..errors import InputError


def preset(size: int, d: int) -> tuple[str, str]:
    """A spec that takes at most ``size`` bytes a vector of d values, and why this one.

    The fitted state (about 2 d² bytes, see `compand.fit.recall.shared_bytes`) comes on top, once. Raises `InputError` below 4 bytes.
    `compand.fit.recall.smallest` measures how many bytes a recall takes.

    >>> preset(48, 384)[0]
    'klt,grouped:48'
    >>> preset(96, 384)[0]
    'klt,ecsq:96:trellis=true,rans'
    >>> preset(24, 384)[0]
    'klt:192,grouped:24:bits=8'
    >>> preset(1024, 384)[0]
    'int:8'
    """
    if size < 4:
        raise InputError(f"{size} bytes a vector are too few to search by; give 4 or more")
    if size >= d + 2:
        return "int:8", f"one byte a value fits: recall is that of float32 to about half a point ({d + 2} bytes)"
    kept = "klt" if 8 * size >= d else f"klt:{8 * size}"
    if size <= d / 14:
        return f"{kept},grouped:{size}:bits=8", ("principal directions, 256 codewords for each run of them, unbiased inner products; "
                                                 "searched as stored")
    if size <= d / 5:
        return f"{kept},grouped:{size}", "principal directions, codewords where queries look, unbiased inner products; searched as stored"
    trellis = ":trellis=true" if size <= d * 5 / 8 else ""  # above, integers no longer fit a byte, and scans are slower
    return f"klt,ecsq:{size}{trellis},rans", (f"above {d // 5} bytes entropy coding finds more than codes of fixed length; "
                                     f"while it is searched a vector takes about {2 * d} bytes of memory")
