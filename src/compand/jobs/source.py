"""Whether a shard is still what it was: size and time of change first, its content where those differ."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from xxhash import xxh3_64

PIECE = 1 << 20


def stamp(path) -> dict[str, int]:
    """Size in bytes and time of the last change in ns."""
    s = os.stat(path)
    return {"bytes": s.st_size, "changed": s.st_mtime_ns}


def digest(path) -> str:
    """XXH3 of the whole file, in hexadecimal; a MiB of it is in memory."""
    found = xxh3_64()
    with open(path, "rb", buffering=0) as f:
        while piece := f.read(PIECE):
            found.update(piece)
    return found.hexdigest()


def changed(shard: dict[str, Any], part: Path) -> bool:
    """Whether a shard of a plan has another content than what its part was made of.

    A file of the size and time that the plan notes is taken to be the same; another is read and compared.
    """
    from ..file import open as open_file

    if stamp(shard["path"]) == {key: shard[key] for key in ("bytes", "changed")}:
        return False
    with open_file(part) as file:
        return file.meta.get("source") != digest(shard["path"])
