"""Encode many shards of vectors on any `concurrent.futures.Executor`; stop and start again at any moment, same bytes at the end.

A job is a folder: ``job.json`` says what is to be done, ``codec.cpd`` holds the fitted codec, ``part-00000.cpd`` the codes of the
first shard and so on. Each appears whole or not at all, and is not made again where it is there. `join` makes one index of them,
`search` searches them where they are. A worker holds one chunk of a shard in memory, never a shard.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ..codec import Codec
from ..codes import Block
from ..errors import CorruptError, InputError
from ..file import open as open_file
from ..modality.batches import Shard
from ..op.ids import check_ids, write_ids
from ..op.index import Index
from ..op.search import top
from ..replacing import Replacing
from ..writer import TRUSTED, Writer
from .distinct import check_distinct
from .source import changed, digest, stamp

CHUNK = 1 << 16       # rows a worker holds, unless told how much memory it may take
SAMPLE = 1 << 16      # rows the codec is fitted to, unless it has lists, which want 64 each
COPIES = 3            # of the rows a worker holds, as they are stored: a batch, what is left of the one before, both joined
_CODEC = "codec.cpd"


def encode(shards: Iterable, folder, codec: Codec | str, *, executor: Executor | None = None, column: str | None = None,
           ids: str | None = None, sample: int | None = None, memory: int | None = None) -> list[Path]:
    """Encode shards (.npy, Parquet, Arrow; all of one width) into a folder, as far as that is not done; the parts, in order.

    Parameters
    ----------
    shards : paths, in the order of rows
    codec : Codec or spec; one that is not fitted is fitted to ``sample`` rows, evenly from all shards
    executor : where shards are encoded; None: here, one after the other
    column, ids : names of the columns of vectors and of ids, in Parquet and Arrow files
    memory : bytes that rows may take in each worker (their codes, ids and the codec come on top); the bytes made do not depend on it

    Raises `InputError` if the folder holds another job, a shard has changed since its part was made (told by size and time, and
    where those differ by content), a row has NaN or infinite values (named with its shard), or ``memory`` is less than a block takes.

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
            encode_shard(folder, i, memory)
    else:
        for done in [executor.submit(encode_shard, os.fspath(folder), i, memory) for i in todo]:
            done.result()
    return [part(folder, i) for i in range(len(plan["shards"]))]


def part(folder, number: int) -> Path:
    """Where the codes of a shard are, or will be."""
    return Path(folder) / f"part-{number:05d}.cpd"


def encode_shard(folder, number: int, memory: int | None = None) -> str:
    """Encode one shard of a job, whatever machine this is; the path of its part. What `encode` gives to the executor."""
    plan = _read(Path(folder))
    with open_file(Path(folder) / _CODEC) as file:
        codec = file["codec"].codec
    shard = plan["shards"][number]
    before = stamp(shard["path"])
    source = Shard(shard["path"], plan["column"], plan["ids"])
    if source.shape.n != shard["rows"]:
        raise InputError(f"{shard['path']} has {source.shape.n:,} rows now, {shard['rows']:,} when the job began")
    shape = (source.shape.n, source.shape.d)
    rows = _chunk(codec, shape, source.shape.dtype, plan["dtype"], memory)
    own = check_ids(source.ids(), source.shape.n)
    meta = {"modality": "embeddings", "first": shard["first"], "source": digest(shard["path"])}
    with Writer(part(folder, number), overwrite=True, meta=meta) as writer:
        writer.write_blocks("vectors", codec, shape, plan["dtype"], _blocks(codec, source, rows, plan["dtype"]))
        if own is not None:
            write_ids(writer, "vectors/ids/0", own)
        if stamp(shard["path"]) != before:
            raise InputError(f"{shard['path']} was changed while it was read; run encode() again when it is whole")
    return os.fspath(part(folder, number))


def _chunk(codec: Codec, shape: tuple[int, int], stored: str, flows: str, memory: int | None) -> int:
    """Rows a worker holds: whole blocks."""
    step = codec.block_rows(codec.form(shape, flows))
    if memory is None:
        return max(CHUNK // step, 1) * step
    each = shape[1] * (COPIES * np.dtype(stored).itemsize + (np.dtype(flows).itemsize if stored != flows else 0))
    if memory < step * each:
        raise InputError(f"memory={memory:,}: a block of {step:,} rows of {shape[1]} takes {step * each:,} bytes")
    return min(memory // (step * each), -(-shape[0] // step) or 1) * step


def _blocks(codec: Codec, source: Shard, rows: int, dtype: str) -> Iterator[Block]:
    at = 0
    for x in source.batches(rows):
        _check_finite(x, source.path, at)
        yield from codec.encode_blocks(x.astype(dtype, copy=False))
        at += len(x)


def _check_finite(x: np.ndarray, path, rows: int | np.ndarray) -> None:
    """Raises `InputError` for NaN or infinite values; ``rows``: the number of the first row, or of each."""
    if x.dtype.kind == "f" and not (fine := np.isfinite(x).all(axis=1)).all():
        bad = int(np.flatnonzero(~fine)[0])
        row = rows + bad if isinstance(rows, int) else int(rows[bad])
        raise InputError(f"{path}: row {row} has NaN or infinite values; clean the shard")


def join(folder, path, *, overwrite: bool = False) -> Index:
    """All parts of a finished job as one index. Codes are copied as they are; in memory are 8 bytes an id and the ids of one part.

    Raises `InputError` if parts are missing, or an id occurs in two shards.
    """
    plan = _read(Path(folder))
    parts = [part(folder, i) for i in range(len(plan["shards"]))]
    if missing := [p.name for p in parts if not p.exists()]:
        raise InputError(f"the job is not finished: {len(missing)} parts are missing, the first is {missing[0]}; run encode() again")
    check_distinct(parts, plan["shards"])
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
        for i, shard in enumerate(plan["shards"]):
            if part(folder, i).exists() and changed(shard, part(folder, i)):
                raise InputError(f"{shard['path']} has changed since {part(folder, i).name} was made; remove {part(folder, i)} to encode "
                                 "it anew")
    else:
        plan = {"spec": codec.spec, "state": _digest(codec), "sample": sample, "column": column, "ids": ids, "dtype": "", "shards": []}
        first, widths = 0, set()
        for path in shards:
            shape = Shard(path, column, ids).shape
            plan["shards"].append({"path": path, "rows": shape.n, "first": first, **stamp(path)})
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
            _check_finite(pieces[-1], shard["path"], own)
    return np.concatenate(pieces)


def _digest(codec: Codec) -> str:
    digest = sha256()
    for path, a in sorted(codec.state().items()):
        digest.update(path.encode() + np.ascontiguousarray(a).reshape(-1).view(np.uint8).tobytes())
    return digest.hexdigest() if codec.state() else ""


def _read(folder: Path) -> dict[str, Any]:
    try:
        plan = json.loads((folder / "job.json").read_bytes())
        for key in ("dtype", "state", "sample", "column", "ids", "spec"):
            plan[key]
        for key in ("path", "rows", "first", "bytes", "changed"):
            plan["shards"][0][key]
    except FileNotFoundError:
        raise InputError(f"{folder} holds no job; encode() begins one") from None
    except (ValueError, LookupError, TypeError) as e:
        raise CorruptError(f"this is not the plan of a job: {e}", path=folder / "job.json") from None
    return plan


def _replace(path: Path, data: bytes) -> None:
    target = Replacing(path, overwrite=True)
    target.file.write(data)
    target.commit()
