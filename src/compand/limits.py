"""What a file may ask of the machine that opens it."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import LimitError


@dataclass(frozen=True)
class Limits:
    """Safety limits, on by default; pass your own to `compand.open` for sources you trust.

    >>> Limits(index_bytes=1 << 20).check("index_bytes", 100, "index")
    100
    """

    index_bytes: int = 16 << 20       # JSON index
    entries: int = 1 << 20            # named entries in a file
    allocation: int = 4 << 30         # bytes of one array
    decoded_bytes: int = 64 << 30     # bytes of all entries, decoded
    expansion: int = 4096             # decoded bytes per stored byte, for each entry
    work: int = 2048                  # multiplications per stored byte to set stages up (above 2^33, which any file may take)
    calls: int = 32768                # stages run to decode every array once, slow ones counted as several, for each MiB (and 2^13)
    stages: int = 32                  # stages in one spec
    terms: int = 16                   # terms of one sum
    spec_length: int = 2048           # characters of a spec
    ndim: int = 8

    def check(self, limit: str, value: int, what: str) -> int:
        """Return ``value`` if it is within the named limit, else raise `LimitError`."""
        most = getattr(self, limit)
        if value > most:
            raise LimitError(f"{what}: {value:,} is over the limit of {most:,}; "
                             f"if you trust the source, pass limits=Limits({limit}={value})")
        return value


DEFAULT = Limits()
