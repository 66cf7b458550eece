"""Encode many shards of vectors on any `concurrent.futures.Executor`; stop and start again at any moment, same bytes at the end.

A job is a folder: ``job.json`` says what is to be done, ``codec.cpd`` holds the fitted codec, ``part-00000.cpd`` the codes of the
first shard and so on. Each appears whole or not at all, and is not made again where it is there. `join` makes one index of them,
`search` searches them where they are. A worker holds one chunk of a shard in memory, never a shard.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ..codec import Codec
from ..errors import CorruptError, InputError
from ..file import open as open_file
from ..modality.batches import Shard
from ..op.ids import check_ids, write_ids
from ..op.index import Index
from ..op.search import top
from ..replacing import Replacing
from ..writer import TRUSTED, Writer

CHUNK = 1 << 16       # rows a worker holds
SAMPLE = 1 << 16      # rows the codec is fitted to, unless it has lists, which want 64 each
_CODEC = "codec.cpd"


def encode(shards: Iterable, folder, codec: Codec | str, *, executor: Executor | None = None, column: str | None = None,
           ids: str | None = None, sample: int | None = None) -> list[Path]:
    """Encode shards (.npy, Parquet, Arrow; all of one width) into a folder, as far as that is not done; the parts, in order.

    Parameters
    ----------
    shards : paths, in the order of rows
    codec : Codec or spec; one that is not fitted is fitted to ``sample`` rows, evenly from all shards
    executor : where shards are encoded; None: here, one after the other
    column, ids : names of the columns of vectors and of ids, in Parquet and Arrow files

    Raises `InputError` if the folder holds another job, or a shard has changed since its part was made.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> x = np.random.default_rng(0).standard_normal((300, 16), dtype=np.float32)
    >>> np.save(folder / "a.npy", x[:200]); np.save(folder / "b.npy", x[200:])
    >>> parts = encode([folder / "a.npy", folder / "b.npy"], folder / "job", "klt,grouped:16")
    >>> search(parts, x[250:251], k=1, metric="cosine")[1].tolist()
    [[250]]
    >>> len(join(folder / "job", folder / "all.cpd"))
    300
    """
    plan = _planned(Path(folder), [os.path.abspath(s) for s in shards], codec, column, ids, sample)
    todo = [i for i in range(len(plan["shards"])) if not part(folder, i).exists()]
    if executor is None:
        for i in todo:
            encode_shard(folder, i)
    else:
        for done in [executor.submit(encode_shard, os.fspath(folder), i) for i in todo]:
            done.result()
    return [part(folder, i) for i in range(len(plan["shards"]))]


def part(folder, number: int) -> Path:
    """Where the codes of a shard are, or will be."""
    return Path(folder) / f"part-{number:05d}.cpd"


def encode_shard(folder, number: int) -> str:
    """Encode one shard of a job, whatever machine this is; the path of its part. What `encode` gives to the executor."""
    plan = _read(Path(folder))
    with open_file(Path(folder) / _CODEC) as file:
        codec = file["codec"].codec
    shard = plan["shards"][number]
    source = Shard(shard["path"], plan["column"], plan["ids"])
    if source.shape.n != shard["rows"]:
        raise InputError(f"{shard['path']} has {source.shape.n:,} rows now, {shard['rows']:,} when the job began")
    shape = (source.shape.n, source.shape.d)
    step = codec.block_rows(codec.form(shape, plan["dtype"]))
    rows = max(CHUNK // step, 1) * step
    own = check_ids(source.ids(), source.shape.n)
    with Writer(part(folder, number), overwrite=True, meta={"modality": "embeddings", "first": shard["first"]}) as writer:
        blocks = (b for x in source.batches(rows) for b in codec.encode_blocks(x.astype(plan["dtype"], copy=False)))
        writer.write_blocks("vectors", codec, shape, plan["dtype"], blocks)
        if own is not None:
            write_ids(writer, "vectors/ids/0", own)
    return os.fspath(part(folder, number))


def join(folder, path, *, overwrite: bool = False) -> Index:
    """All parts of a finished job as one index. Codes are copied as they are; memory stays small."""
    plan = _read(Path(folder))
    parts = [part(folder, i) for i in range(len(plan["shards"]))]
    if missing := [p.name for p in parts if not p.exists()]:
        raise InputError(f"the job is not finished: {len(missing)} parts are missing, the first is {missing[0]}; run encode() again")
    with Writer(path, overwrite=overwrite, meta={"modality": "embeddings"}) as writer:
        for i, one in enumerate(parts):
            with open_file(one, limits=TRUSTED) as file:
                writer.write_codes("vectors" if i == 0 else f"vectors/rows/{i}", file["vectors"].codes())
                if "vectors/ids/0" in file:
                    entry = file["vectors/ids/0"]
                    if entry.kind == "file":
                        writer.write_file(f"vectors/ids/{i}", entry.array().tobytes())
                    else:
                        writer.write_codes(f"vectors/ids/{i}", entry.codes())
    return Index(path, entry="vectors")


def search(parts: Sequence, queries, k: int = 10, *, executor: Executor | None = None, **how) -> tuple[np.ndarray, np.ndarray]:
    """The best of all parts: scores (q, k) and ids (q, k), as `Index.search`; each part is searched by the executor.

    Rows without ids have numbers that run on from part to part.
    """
    jobs = [(os.fspath(p), np.asarray(queries, np.float32), k, how) for p in parts]
    found = list(map(_search_part, jobs) if executor is None else executor.map(_search_part, jobs))
    scores, ids = np.concatenate([s for s, _ in found], axis=1), np.concatenate([i for _, i in found], axis=1)
    best, place = top(scores, np.broadcast_to(np.arange(scores.shape[1]), scores.shape), k)
    return best, np.take_along_axis(ids, place, 1)


_opened: dict[str, tuple[Any, Index]] = {}  # indexes of this process, so that they are laid out once


def _search_part(job) -> tuple[np.ndarray, np.ndarray]:
    path, queries, k, how = job
    stamp = os.stat(path).st_mtime_ns
    if path not in _opened or _opened[path][0] != stamp:
        _opened[path] = stamp, Index(path)
    index = _opened[path][1]
    scores, ids = index.search(queries, k, **how)
    first = index.meta.get("first", 0)
    return scores, np.where(ids < 0, -1, ids + first) if ids.dtype == np.int64 and "vectors/ids/0" not in index.names else ids


# -- the plan ------------------------------------------------------------------------------------------------------------------
def _planned(folder: Path, shards: list[str], codec: Codec | str, column, ids, sample) -> dict[str, Any]:
    """The job of the folder, made if there is none; and its codec."""
    if not shards:
        raise InputError("there are no shards")
    codec = Codec(codec) if isinstance(codec, str) else codec
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "job.json").exists():
        plan = _read(folder)
        for key, value in (("spec", codec.spec), ("column", column), ("ids", ids), ("state", _digest(codec)), ("sample", sample)):
            if plan[key] != value:
                raise InputError(f"{folder} holds another job: its {key} is {plan[key]!r}, not {value!r}; use another folder")
        if [s["path"] for s in plan["shards"]] != shards:
            raise InputError(f"{folder} holds a job of other shards; use another folder")
    else:
        plan = {"spec": codec.spec, "state": _digest(codec), "sample": sample, "column": column, "ids": ids, "dtype": "", "shards": []}
        first, widths = 0, set()
        for path in shards:
            shape = Shard(path, column, ids).shape
            plan["shards"].append({"path": path, "rows": shape.n, "first": first})
            plan["dtype"] = plan["dtype"] or shape.dtype
            widths.add(shape.d)
            first += shape.n
        if len(widths) != 1:
            raise InputError(f"the shards hold vectors of {sorted(widths)} values; they must be alike")
        _replace(folder / "job.json", json.dumps(plan, indent=1).encode())
    if not (folder / _CODEC).exists():
        if not codec.state():
            codec = codec.fit(_sample(plan, sample), sample=None)
        with Writer(folder / _CODEC, overwrite=True) as writer:
            writer.write_codes("codec", codec.encode(_sample(plan, 1)))
    return plan


def _sample(plan: dict[str, Any], count: int | None) -> np.ndarray:
    """Rows evenly from all shards."""
    n = sum(s["rows"] for s in plan["shards"])
    if count is None:
        lists = [int(word.partition(":")[0]) for word in plan["spec"].split("vq:")[1:2] if word.partition(":")[0].isdecimal()]
        count = max([SAMPLE, *(64 * k for k in lists)])
    rows = np.unique(np.linspace(0, n - 1, min(count, n)).astype(np.int64))
    pieces = []
    for shard in plan["shards"]:
        own = rows[(rows >= shard["first"]) & (rows < shard["first"] + shard["rows"])] - shard["first"]
        if len(own):
            pieces.append(Shard(shard["path"], plan["column"]).sample(own).astype(plan["dtype"], copy=False))
    return np.concatenate(pieces)


def _digest(codec: Codec) -> str:
    digest = sha256()
    for path, a in sorted(codec.state().items()):
        digest.update(path.encode() + np.ascontiguousarray(a).reshape(-1).view(np.uint8).tobytes())
    return digest.hexdigest() if codec.state() else ""


def _read(folder: Path) -> dict[str, Any]:
    try:
        plan = json.loads((folder / "job.json").read_bytes())
        plan["shards"][0]["path"], plan["dtype"], plan["state"], plan["sample"], plan["column"], plan["ids"], plan["spec"]
    except FileNotFoundError:
        raise InputError(f"{folder} holds no job; encode() begins one") from None
    except (ValueError, LookupError, TypeError) as e:
        raise CorruptError(f"this is not the plan of a job: {e}", path=folder / "job.json") from None
    return plan


def _replace(path: Path, data: bytes) -> None:
    target = Replacing(path, overwrite=True)
    target.file.write(data)
    target.commit()
