"""Named arrays of anything the command line takes: an original in any container, or a .cpd file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..file import File
from ..file import open as open_file
from ..metric import Errors, Tally, errors
from ..modality import detect

MAGIC = b"\x89CPD"


class Named(NamedTuple):
    """One array: ``nbytes`` as stored (of a .cpd, of its codes), ``spec`` of its codec ('' in an original)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    spec: str
    load: Callable[..., np.ndarray]
    block: int = 1  # rows that are coded together

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))


def is_cpd(path: Path) -> bool:
    """Whether a file begins as a .cpd does. Raises `FileNotFoundError`."""
    if path.is_dir():
        return False
    with open(path, "rb") as f:
        return f.read(4) == MAGIC


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


class Arrays(ExitStack):
    """The arrays of a path, in ``named``; use it in ``with``.

    ``modality`` is 'embeddings', 'weights', 'splats' or 'image', ``kind`` the container ('npy', ..., 'cpd'), ``notes`` remarks for people.

    ``blocks``: GGUF blocks as they are (of an original: asked for; of a .cpd: it holds such), instead of dequantized values.
    """

    def __init__(self, path: Path, base: Path | None = None, *, blocks: bool = False):
        super().__init__()
        self.path, self.nbytes, self.blocks = path, size_on_disk(path), blocks
        self.named: dict[str, Named] = {}
        self.notes: list[str] = []
        if is_cpd(path):
            self._cpd(self.enter_context(open_file(path)), base)
        else:
            source = self.enter_context(detect(path, exact=blocks))
            self.kind, self.modality, self.notes = source.format, source.modality, source.notes
            for i in source.items():
                self.named[i.name] = Named(i.name, i.shape, i.dtype, i.nbytes, "", i.load)
        if not self.named:
            raise InputError(f"{path} holds no arrays")

    def _cpd(self, file: File, base: Path | None) -> None:
        self.kind, self.modality, self.blocks = "cpd", modality_of(file), "gguf:container" in file
        against = None
        if base is not None:
            from ..modality.weights import Base

            against = Base(self.enter_context(detect(base)))
        for name, entry in file.items():
            if entry.kind == "array":
                attr = entry.attrs.get("base")
                dtype = attr["dtype"] if isinstance(attr, dict) and isinstance(attr.get("dtype"), str) else entry.dtype
                self.named[name] = Named(name, entry.shape, dtype, entry.nbytes, entry.spec, loader(file, entry, against), entry.block_rows)

    def one(self) -> Named:
        """The only array, or the largest of several."""
        return max(self.named.values(), key=lambda a: a.size)


def modality_of(file: File) -> str:
    """What a .cpd says it holds: 'weights' unless it is 'embeddings', 'splats' or 'image'."""
    own = file.meta.get("modality")
    return own if own in ("embeddings", "splats", "image") else "weights"


def compared(original, packed: Named, most: int = 32 << 20) -> Errors:
    """The errors of a packed array; some rows at a time, of about so many bytes, where it decodes by rows."""
    if len(packed.shape) < 2 or packed.block >= packed.shape[0]:
        return errors(original.load(), packed.load())
    tally, width = Tally(), max(1, 8 * packed.size // packed.shape[0])
    step = packed.block * max(1, most // (width * packed.block))
    for at in range(0, packed.shape[0], step):
        rows = slice(at, min(at + step, packed.shape[0]))
        tally.add(original.load(rows), packed.load(rows))
    return tally.errors()


def loader(file: File, entry, against=None) -> Callable[..., np.ndarray]:
    """A function that decodes an entry (some rows of it), also where it is stored against a base model."""
    attr = entry.attrs.get("base")
    if not isinstance(attr, dict):
        return lambda rows=None: entry.array(rows)
    needed = file.meta.get("base")

    def load(rows: slice | None = None) -> np.ndarray:
        from ..modality.weights import from_base

        x = from_base(entry.array(), attr, against, needed if isinstance(needed, dict) else {})
        return x if rows is None else x[rows]

    return load
