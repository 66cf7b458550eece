"""Vectors under the user's ids in a `.cpd` file: search, add, update, delete, compact.

Each change adds entries to the file and puts the new file in place of the old one in one step: NAME/rows/1 are rows added after
NAME, NAME/ids/1 their ids, NAME/deleted/2 the numbers of rows that are no longer there. So a crash at any moment leaves the file
as it was before the change or as it is after, and readers that have the old one open keep it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..array import to_numpy
from ..codec import Codec
from ..codes import Codes
from ..errors import CorruptError, InputError
from ..file import File
from ..file import open as open_file
from ..limits import Limits
from ..writer import TRUSTED, Writer
from .ids import IDS, check_ids, write_ids
from .lists import cells
from .rows import joined, select
from .search import Metric, decode_rows, search


class Index:
    """An index in a file. ``Index(path)`` opens any .cpd with one array of vectors; `Index.create` makes one.

    Parameters
    ----------
    path : path of a .cpd file
    entry : which array, if the file has several

    ``ids`` are the user's int64 or strings; rows written without ids have their row numbers. All changes are on disk when the
    method returns. Changes of several processes come one after the other; each costs a copy of the file (shared blocks where
    the file system can), so add many rows at a time.

    >>> import numpy as np, tempfile, os
    >>> x = np.random.default_rng(0).standard_normal((100, 16), dtype=np.float32)
    >>> index = Index.create(os.path.join(tempfile.mkdtemp(), "a.cpd"), x, "klt,grouped:16", ids=[f"doc{i}" for i in range(100)])
    >>> index.add(x[:1] + 0.01, ids=["new"])
    >>> index.delete(["doc0", "doc7"])
    2
    >>> index.search(x[:1], k=1, metric="cosine")[1].tolist(), len(index)
    ([['new']], 99)
    """

    def __init__(self, path, *, entry: str | None = None, limits: Limits = TRUSTED):
        self.path = Path(os.path.realpath(path))
        self._asked, self._limits = entry, limits
        self._load()

    @classmethod
    def create(cls, path, x, codec: Codec | str, *, ids=None, overwrite: bool = False, name: str = "vectors",
               meta: dict[str, Any] | None = None) -> Index:
        """An index of x (n, d) in a new file; rows in the order of their lists if the codec says ``(vq:K,runs)``.

        A codec that is not fitted is fitted to x. Raises `InputError` for NaN or infinite values, ids that are not int64 or
        strings, or an id that occurs twice; `OverwriteError` if the file exists. For more than memory holds see `compand.jobs`.
        """
        x = _vectors(x)
        codec = Codec(codec) if isinstance(codec, str) else codec
        if codec.stage.state(codec.form(x.shape, x.dtype.name)) and not codec.state():
            codec = codec.fit(x)
        own = check_ids(ids, len(x))
        with Writer(path, overwrite=overwrite, meta={"modality": "embeddings", **(meta or {})}) as writer:
            write_rows(writer, name, codec.encode(x), own, f"{name}/ids/0")
        return cls(path, entry=name)

    # -- what is there -----------------------------------------------------------------------------------------------------
    def _load(self) -> None:
        self._stamp = _stamp(self.path)
        self._file: File = open_file(self.path, limits=self._limits)
        names = [n for n in self._file if "/" not in n and self._file[n].kind == "array" and len(self._file[n].shape) == 2]
        if self._asked is not None and self._asked not in names:
            raise InputError(f"{self.path} has no array of vectors {self._asked!r}; it has {', '.join(names[:8]) or 'none'}")
        if self._asked is None and len(names) != 1:
            raise InputError(f"{self.path} has {len(names)} arrays of vectors; name one of {', '.join(names[:8])}" if names
                             else f"{self.path} has no array of vectors")
        self.name = self._asked or names[0]
        changes = self._changes()
        self._next = max(changes, default=0) + 1
        pieces, ids, gone = [], [], []
        for number in sorted({0, *changes}):
            kinds = changes.get(number, set())
            if number == 0 or "rows" in kinds:
                codes = self._file[self.name if number == 0 else f"{self.name}/rows/{number}"].codes()
                own = self._read_ids(number, codes.shape[0]) if "ids" in kinds else None
                first = sum(len(i) for i in ids)
                pieces.append(codes)
                ids.append(np.arange(first, first + codes.shape[0], dtype=np.int64) if own is None else own)
            if "deleted" in kinds:
                gone.append(self._file[f"{self.name}/deleted/{number}"].array())
        if any(p.codec is not pieces[0].codec or p.shape[1:] != pieces[0].shape[1:] for p in pieces):
            raise CorruptError("the rows of the index are not all of one codec and width", path=self.path)
        if any(i.dtype != ids[0].dtype for i in ids):
            raise CorruptError("some ids of the index are integers, some strings", path=self.path)
        full = [p for p in pieces if p.shape[0]] or pieces[:1]
        self.codes: Codes = full[0] if len(full) == 1 else joined(full)
        self._all = np.concatenate(ids)
        self._live = np.ones(len(self._all), bool)
        for rows in gone:
            if rows.dtype.kind not in "iu" or rows.ndim != 1 or (rows.size and (int(rows.min()) < 0 or int(rows.max()) >= len(self._all))):
                raise CorruptError("the numbers of deleted rows are not those of rows", path=self.path)
            self._live[rows] = False
        self._known: Any = None

    def _changes(self) -> dict[int, set[str]]:
        """What each change of the file holds: rows, ids, deleted."""
        found: dict[int, set[str]] = {}
        for name in self._file:
            head, _, number = name.rpartition("/")
            own, _, kind = head.rpartition("/")
            if own == self.name and kind in ("rows", "ids", "deleted") and number.isdecimal() and len(number) < 10 \
                    and number == str(int(number)):
                found.setdefault(int(number), set()).add(kind)
        return found

    def _read_ids(self, number: int, n: int) -> np.ndarray:
        entry = self._file[f"{self.name}/ids/{number}"]
        ids = entry.array()
        if entry.kind == "file":
            try:
                ids = json.loads(ids.tobytes())
            except (ValueError, RecursionError) as e:
                raise CorruptError(f"the ids cannot be read: {str(e)[:100]}", path=self.path, entry=entry.name) from None
            if type(ids) is not list or any(type(i) is not str for i in ids):
                raise CorruptError("the ids are not strings", path=self.path, entry=entry.name)
            ids = np.array(ids, object)
        if ids.shape != (n,) or (ids.dtype != object and ids.dtype != np.int64):
            raise CorruptError(f"{ids.dtype}{list(ids.shape)} are not the ids of {n} rows", path=self.path, entry=entry.name)
        return ids

    def __len__(self) -> int:
        return int(np.count_nonzero(self._live))

    def __contains__(self, id_) -> bool:
        try:
            return bool(self._find(check_ids([id_], 1), missing=True)[0] >= 0)
        except InputError:
            return False

    def __repr__(self) -> str:
        return f"<compand.Index {self.path.name}: {len(self):,} vectors of {self.d}, {self.codec.spec}, {self.nbytes:,} bytes>"

    @property
    def d(self) -> int:
        """Width of the vectors."""
        return self.codes.form.d

    @property
    def codec(self) -> Codec:
        """The codec of all rows."""
        return self.codes.codec

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self._file.nbytes

    @property
    def meta(self) -> dict[str, Any]:
        """What the file says about itself."""
        return self._file.meta

    @property
    def names(self) -> tuple[str, ...]:
        """The entries of the file."""
        return self._file.names

    @property
    def ids(self) -> np.ndarray:
        """The ids of all rows that are there: int64, or objects if strings."""
        return self._all[self._live]

    @property
    def all_ids(self) -> np.ndarray:
        """The ids of all rows in the order they were added, also of those that are deleted."""
        return self._all

    @property
    def deleted(self) -> int:
        """Rows that are deleted and still take room; `compact` takes them out."""
        return len(self._all) - len(self)

    def get(self, ids) -> np.ndarray:
        """The vectors of these ids, decoded: (len(ids), d) float32. Raises `InputError` for an id that is not there."""
        return decode_rows(self.codes, self._find(check_ids(ids, None, self._kind)))

    # -- search ------------------------------------------------------------------------------------------------------------
    def search(self, queries, k: int = 10, *, metric: Metric = "ip", ids=None, exclude=None, rerank: int | None = None,
               probes: int | None = None, recall: float | None = None, symmetric: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Scores (q, k) float32 and ids (q, k) of the best rows, as `compand.search`; -inf and -1 (None) where there are fewer.

        ``ids`` may be found, ``exclude`` may not: lists of ids; those that are not there are passed over.
        """
        allowed = self._live
        if ids is not None or exclude is not None:
            allowed = self._live.copy() if ids is None else np.zeros(len(self._live), bool)
            for some, value in ((ids, True), (exclude, False)):
                if some is not None:
                    rows = self._find(check_ids(some, None, self._kind), missing=True)
                    allowed[rows[rows >= 0]] = value
        if not self.codes.blocks:
            shape = (len(np.atleast_2d(np.asarray(queries))), k)
            none = np.full(shape, -1, np.int64) if self._kind == "int" else np.full(shape, None, object)
            return np.full(shape, -np.inf, np.float32), none
        scores, rows = search(queries, self.codes, k, metric=metric, ids=None if allowed.all() else allowed, rerank=rerank, probes=probes,
                              recall=recall, symmetric=symmetric)
        found = self._all[np.maximum(rows, 0)]
        found[rows < 0] = -1 if self._kind == "int" else None
        return scores, found

    @property
    def _kind(self) -> str:
        return "str" if self._all.dtype == object else "int"

    def _find(self, ids: np.ndarray, missing: bool = False) -> np.ndarray:
        """Row numbers of ids; -1 for those that are not there if ``missing``, else `InputError`."""
        if self._known is None:
            live = np.flatnonzero(self._live)
            if self._kind == "str":
                known: Any = dict(zip(self._all[live].tolist(), live.tolist(), strict=True))
                twice = len(known) != len(live)
            else:
                order = np.argsort(self._all[live], kind="stable")
                known = self._all[live][order], live[order]
                twice = bool((known[0][1:] == known[0][:-1]).any())
            if twice:
                raise CorruptError("an id of the index stands for several rows, so rows cannot be told by ids", path=self.path)
            self._known = known
        if self._kind == "str":
            rows = np.array([self._known.get(i, -1) for i in ids.tolist()], np.int64)
        else:
            keys, live = self._known
            at = np.minimum(np.searchsorted(keys, ids), max(len(keys) - 1, 0))
            rows = np.where(keys[at] == ids, live[at], -1) if len(keys) else np.full(len(ids), -1)
        if not missing and (rows < 0).any():
            bad = ids[rows < 0]
            raise InputError(f"{len(bad)} of the ids are not in the index, the first is {bad.tolist()[0]!r}")
        return rows

    # -- changes -----------------------------------------------------------------------------------------------------------
    def add(self, x, ids=None) -> None:
        """Add rows x (m, d), under ``ids`` or, without, the integers after the largest id.

        Raises `InputError`, with nothing stored, for another width, NaN or infinite values, and ids that occur twice or are there
        already (see `update`). Vectors of zeros are kept as they are: their inner products are 0.
        """
        self._write(x, ids, replace=False)

    def update(self, x, ids) -> None:
        """As `add`, but rows that are there under one of the ids are replaced."""
        self._write(x, ids, replace=True)

    def delete(self, ids, *, missing: bool = False) -> int:
        """Delete the rows of these ids; how many. An id that is absent raises `InputError`, with nothing deleted, unless ``missing``."""
        with self._changing():
            rows = self._find(check_ids(ids, None, self._kind), missing=missing)
            rows = np.unique(rows[rows >= 0])
            if len(rows):
                with Writer(self.path, append=True) as writer:
                    writer.write(f"{self.name}/deleted/{self._next}", rows.astype(np.int64), IDS)
        return len(rows)

    def compact(self) -> None:
        """Write the file anew without what was deleted, rows in the order of their lists; vectors keep their codes bit by bit."""
        with self._changing():
            keep = np.flatnonzero(self._live)
            plain = np.array_equal(self._all[keep], np.arange(len(keep))) if self._kind == "int" else False
            codes = select(self.codes, keep)
            with Writer(self.path, overwrite=True, meta=dict(self._file.meta)) as writer:
                write_rows(writer, self.name, codes, None if plain else self._all[keep], f"{self.name}/ids/0")
                for name, entry in self._file.items():
                    if name != self.name and not any(name.startswith(f"{self.name}/{kind}/") for kind in ("rows", "ids", "deleted")):
                        if entry.kind == "file":
                            writer.write_file(name, entry.array().tobytes())
                        else:
                            writer.write_codes(name, entry.codes(), attrs=entry.attrs)

    def _write(self, x, ids, replace: bool) -> None:
        x = _vectors(x)
        if x.shape[1] != self.d:
            raise InputError(f"the index holds vectors of {self.d} values, these have {x.shape[1]}")
        x = x.astype(self.codes.dtype, copy=False)
        with self._changing():
            if ids is None and self._kind == "str":
                raise InputError("the ids of this index are strings; give one for each row")
            if ids is None:
                first = max(int(self._all.max(initial=-1)) + 1, 0)
                own = np.arange(first, first + len(x), dtype=np.int64)
            else:
                own = check_ids(ids, len(x), self._kind)
            there = self._find(own, missing=True)
            if not replace and (there >= 0).any():
                raise InputError(f"the id {own[there >= 0].tolist()[0]!r} is in the index already; update (add --update) replaces rows")
            if not len(x):
                return
            codes = self.codec.encode(x)
            with Writer(self.path, append=True) as writer:
                write_rows(writer, f"{self.name}/rows/{self._next}", codes, own, f"{self.name}/ids/{self._next}")
                if (there >= 0).any():
                    writer.write(f"{self.name}/deleted/{self._next}", np.sort(there[there >= 0]).astype(np.int64), IDS)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone among the processes that change this file, and on its latest state."""
        with locked(self.path):
            if _stamp(self.path) != self._stamp:
                self._load()
            yield
            self._load()


def write_rows(writer: Writer, name: str, codes: Codes, ids: np.ndarray | None, ids_name: str) -> None:
    """Write codes, in the order of their lists if those are stored as runs, and their ids (None: row numbers)."""
    runs = codes.blocks and any(part.coder == "runs" for part in codes.codec.layout(codes.form._replace(n=1)).values())
    own = cells(codes) if runs else None
    if own is not None and (np.diff(own.ids.astype(np.int64)) < 0).any():
        order = np.argsort(own.ids, kind="stable")
        codes, ids = select(codes, order), order.astype(np.int64) if ids is None else ids[order]
    writer.write_codes(name, codes)
    if ids is not None:
        write_ids(writer, ids_name, ids)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that others replace: the lock is on whatever file has the name (POSIX; elsewhere no lock)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    while True:
        with open(path, "rb") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            if os.fstat(f.fileno()).st_ino == os.stat(path).st_ino:
                yield
                return


def _stamp(path: Path) -> tuple[int, int, int]:
    s = os.stat(path)
    return s.st_ino, s.st_size, s.st_mtime_ns


def _vectors(x) -> np.ndarray:
    x = to_numpy(x) if hasattr(x, "shape") else np.asarray(x, np.float32)
    x = x[None] if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[1] == 0:
        raise InputError(f"vectors must be (n, d), not {list(x.shape)}")
    return x
