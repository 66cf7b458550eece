"""No id in two parts of a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from ..errors import CorruptError, InputError
from ..file import open as open_file
from ..writer import TRUSTED

_IDS = "vectors/ids/0"


def check_distinct(parts: list[Path], shards: list[dict[str, Any]]) -> None:
    """Raises `InputError` for an id that occurs in two shards, or twice in one, or if some ids are integers and some strings.

    In memory are 8 bytes an id (of strings a hash, told apart where two hash alike) and the ids of one part.
    """
    keys, kinds = np.empty(sum(s["rows"] for s in shards), np.int64), {}
    for part, shard in zip(parts, shards, strict=True):
        own = _ids(part)
        if own is None:
            continue
        kinds.setdefault(own.dtype == object, shard["path"])
        if len(own) != shard["rows"]:
            raise CorruptError(f"{len(own):,} ids for {shard['rows']:,} rows", path=part)
        keys[shard["first"]:shard["first"] + len(own)] = _keys(own)
    if not kinds:
        return
    if len(kinds) > 1:
        raise InputError(f"the ids of {kinds[False]} are integers, those of {kinds[True]} strings; they must be of one kind")
    keys.sort()
    twice = np.unique(keys[1:][keys[1:] == keys[:-1]])
    if not len(twice):
        return
    seen: dict[Any, str] = {}
    for part, shard in zip(parts, shards, strict=True):
        own = _ids(part)
        assert own is not None
        for one in own[np.isin(_keys(own), twice)].tolist():
            if one in seen:
                where = f"in {seen[one]} and in {shard['path']}" if seen[one] != shard["path"] else f"twice in {shard['path']}"
                raise InputError(f"the id {one!r} occurs {where}; every row needs an id of its own")
            seen[one] = shard["path"]


def _ids(part: Path) -> np.ndarray | None:
    with open_file(part, limits=TRUSTED) as file:
        if _IDS not in file:
            return None
        ids = file[_IDS].array()
        return np.array(json.loads(ids.tobytes()), object) if file[_IDS].kind == "file" else ids


def _keys(ids: np.ndarray) -> np.ndarray:
    if ids.dtype != object:
        return ids
    return np.fromiter((xxh3_64_intdigest(i.encode()) for i in ids.tolist()), np.uint64, len(ids)).view(np.int64)
