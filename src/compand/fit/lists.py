"""How many inverted lists, and which spec, for so many vectors. Measured in benchmarks/ivf.py."""

from __future__ import annotations

from math import log2, sqrt

from . import vectors

LEAST = 20_000  # vectors from which lists are worth their tables
SAMPLE = 64     # rows that a centroid should be learnt from, at least


def count(n: int) -> int:
    """Lists for n vectors: the power of two nearest to 3 √n, at most 65,536.

    >>> count(100_000), count(1_000_000), count(10**9)
    (1024, 4096, 65536)
    """
    return 2 ** min(max(round(log2(3 * sqrt(max(n, 1)))), 0), 16)


def preset(size: int, d: int, n: int) -> tuple[str, str]:
    """A spec with lists that takes about ``size`` bytes a vector of d values, and why; without lists where n is small.

    A list's number takes 1 to 2 bytes of it. Rows keep their order; for an index under ids of your own write ``runs`` for ``rans``:
    rows then lie list after list, which costs nothing, and ids are kept with them.

    >>> preset(48, 384, 100_000)[0]
    '(vq:1024:codewords=float16,rans)+(klt:368,grouped:46)'
    >>> preset(48, 384, 5000)[0]
    'klt,grouped:48'
    """
    spec, why = vectors.preset(size, d)
    if n < LEAST or size >= d + 2:
        return spec, f"{why}; {n:,} vectors are scanned whole" if n < LEAST else why
    spec, why = vectors.preset(max(size - (count(n) > 256) - 1, 4), d)
    return f"(vq:{count(n)}:codewords=float16,rans)+({spec})", f"{count(n):,} lists, of which a query visits a few; in each: {why}"
