"""Vectors with what they stand for: a `compand.Index`, and a SQLite file of JSON beside it. What vector-store adapters need."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..codec import Codec
from ..errors import InputError
from ..op.index import Index


class Store:
    """Payloads (JSON) under string ids, found by their vectors.

    Parameters
    ----------
    path : path
        Of the index, NAME.cpd; payloads are in NAME.cpd.db. Made when the first vectors come, opened if there.
    codec : str or Codec
        A spec that needs a fit is fitted to the first vectors that are added, which should then be some thousands; "int:8" needs none.

    A payload is stored before its vector and deleted after it, so that a crash leaves no vector without its payload.
    """

    def __init__(self, path: str | os.PathLike, codec: str | Codec = "int:8"):
        self.path = Path(path)
        self._codec = codec
        self.index = Index(self.path) if self.path.exists() else None
        self._db = sqlite3.connect(f"{self.path}.db", check_same_thread=False)
        with self._db:
            self._db.execute("CREATE TABLE IF NOT EXISTS payloads (id TEXT PRIMARY KEY, json TEXT NOT NULL)")

    def __len__(self) -> int:
        return len(self.index) if self.index else 0

    def close(self) -> None:
        """Close the SQLite file."""
        self._db.close()

    def put(self, ids: Sequence[str], x, payloads: Sequence[Any]) -> None:
        """Add vectors x (n, d) and payloads under ids; those that are there are replaced."""
        if not len(ids) == len(x) == len(payloads):
            raise InputError(f"{len(ids)} ids, {len(x)} vectors and {len(payloads)} payloads do not go together")
        if not len(ids):
            return
        x = np.asarray(x, np.float32)
        if not np.isfinite(x).all():
            raise InputError("a vector has NaN or infinite values")
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO payloads VALUES (?, ?)",
                                 [(i, json.dumps(p, ensure_ascii=False)) for i, p in zip(ids, payloads, strict=True)])
        if self.index is None:
            self.index = Index.create(self.path, x, self._codec, ids=list(ids))
        else:
            self.index.update(x, list(ids))

    def delete(self, ids: Iterable[str]) -> int:
        """Delete vectors and payloads; how many. Ids that are not there are passed over."""
        ids = list(ids)
        count = self.index.delete(ids, missing=True) if self.index is not None and ids else 0
        with self._db:
            self._db.executemany("DELETE FROM payloads WHERE id = ?", [(i,) for i in ids])
        return count

    def get(self, ids: Iterable[str]) -> dict[str, Any]:
        """The payloads of the ids that are there."""
        rows = (self._db.execute("SELECT id, json FROM payloads WHERE id = ?", (i,)).fetchone() for i in ids)
        return {row[0]: json.loads(row[1]) for row in rows if row}

    def where(self, test: Callable[[Any], bool]) -> list[str]:
        """The ids whose payload passes a test: a pass over all payloads."""
        return [i for i, text in self._db.execute("SELECT id, json FROM payloads") if test(json.loads(text))]

    def search(self, query, k: int, ids: Iterable[str] | None = None) -> list[tuple[str, float, Any]]:
        """(id, cosine, payload) of the nearest, best first; only among ``ids`` if given."""
        allowed = None if ids is None else list(ids)
        if self.index is None or not len(self.index) or k < 1 or allowed == []:
            return []
        scores, found = self.index.search(np.asarray(query, np.float32)[None], min(k, len(self.index)), metric="cosine", ids=allowed)
        pairs = [(i, float(s)) for i, s in zip(found[0], scores[0], strict=True) if i is not None]
        payloads = self.get(i for i, _ in pairs)
        return [(i, s, payloads[i]) for i, s in pairs if i in payloads]
