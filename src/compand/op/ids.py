"""Ids of rows: the user's int64 or strings, checked, and as entries of a file."""

from __future__ import annotations

import json

import numpy as np

from ..errors import InputError
from ..writer import Writer

IDS = "delta:row,planes,rans"  # how integer ids are stored: about 1.5 bytes where they are sorted within lists


def write_ids(writer: Writer, name: str, ids: np.ndarray) -> None:
    """Write ids: int64, or objects that are strings."""
    if ids.dtype == object:
        writer.write_file(name, json.dumps(ids.tolist(), ensure_ascii=False, separators=(",", ":")).encode())
    else:
        writer.write(name, ids, IDS)


def check_ids(ids, n: int | None, kind: str | None = None) -> np.ndarray | None:
    """Ids as int64, or as objects if they are strings; None stays. Raises `InputError`, also for one that occurs twice."""
    if ids is None:
        return None
    a = np.asarray(ids if hasattr(ids, "dtype") else list(ids))
    if a.ndim != 1 or (n is not None and len(a) != n):
        raise InputError(f"{list(a.shape)} ids for {n} rows; give one for each" if n is not None else "ids must be a list")
    if not a.size:
        return np.zeros(0, object if kind == "str" else np.int64)
    if a.dtype.kind in "OUT":
        if any(type(i) is not str for i in a.tolist()):
            raise InputError("ids must be all integers or all strings")
        try:
            "".join(a.tolist()).encode()
        except UnicodeEncodeError:
            raise InputError("an id is not valid Unicode text") from None
        a = a.astype(object)
    elif a.dtype.kind in "iu" and (a.dtype != np.uint64 or int(a.max()) < 1 << 63):
        a = a.astype(np.int64)
    else:
        raise InputError(f"ids must be integers of 64 bits or strings, not {a.dtype}")
    if kind is not None and kind != ("str" if a.dtype == object else "int"):
        raise InputError(f"the ids of this index are {'strings' if kind == 'str' else 'integers'}, not {type(a.tolist()[0]).__name__}")
    if n is not None and len(set(a.tolist()) if a.dtype == object else np.unique(a)) != n:
        seen, first = set(), None
        for i in a.tolist():
            if i in seen:
                first = i
                break
            seen.add(i)
        raise InputError(f"the id {first!r} occurs twice")
    return a
