"""The two variables that say how the kernels run, COMPAND_THREADS and COMPAND_ISA: what cannot be heeded is told once."""

from __future__ import annotations

import os
import warnings

from . import _native

ISAS = ("scalar", "avx2", "avx512")
MOST_THREADS = 256


def check() -> None:
    """Warn of a variable whose value the kernels pass over.

    >>> os.environ["COMPAND_THREADS"] = "two"
    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     check()
    >>> print(told[0].message)
    COMPAND_THREADS='two' is passed over: it is a number from 1 to 256
    >>> del os.environ["COMPAND_THREADS"]
    """
    threads, isa = os.environ.get("COMPAND_THREADS", ""), os.environ.get("COMPAND_ISA", "")
    words = []
    if threads and not (threads.isascii() and threads.isdigit() and 1 <= int(threads[:9]) <= MOST_THREADS):
        words.append(f"COMPAND_THREADS={threads[:40]!r} is passed over: it is a number from 1 to {MOST_THREADS}")
    if isa and isa not in (*ISAS, "auto"):
        words.append(f"COMPAND_ISA={isa[:40]!r} is passed over: it is one of {', '.join(ISAS)}, auto")
    elif isa in ISAS and _native.isa() != isa:
        words.append(f"COMPAND_ISA={isa} is passed over: this CPU has no more than {_native.isa()}")
    for fault in words:
        warnings.warn(fault, RuntimeWarning, stacklevel=3)
