"""What every importer gives: named arrays of a foreign object, read lazily through a bounded map of the file."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..dtypes import dtype as dtype_of
from ..errors import FormatError, InputError
from ..limits import DEFAULT, Limits


class Item(NamedTuple):
    """One named array of a foreign object, not read yet.

    ``load()`` gives the whole array, ``load(rows)`` a slice of its first axis: a view of the file where its layout allows.
    ``dtype`` is a name of `compand.dtypes`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[..., np.ndarray]

    @property
    def size(self) -> int:
        """Number of values."""
        n = 1
        for v in self.shape:
            n *= v
        return n

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.size * dtype_of(self.dtype).itemsize


class Source:
    """An opened foreign object. Iterate `items()`; `close()` it or use it in ``with``.

    ``format`` is 'npy', 'npz', 'parquet', 'arrow', 'safetensors', 'hf', 'gguf', 'ply', 'spz', 'sog', 'splat', 'ksplat' or a kind
    of picture; ``modality`` 'embeddings', 'weights', 'splats' or 'image'.
    ``files`` are the files to keep as they are: stored name → path or bytes. ``meta`` is what is needed to write the same
    container back, as JSON. ``notes`` are remarks for people.
    """

    format: ClassVar[str] = ""
    modality: ClassVar[str] = "weights"

    def __init__(self, path):
        self.path = Path(path)
        self.files: dict[str, Path | bytes] = {}
        self.meta: dict[str, Any] = {"format": self.format, "name": self.path.name}
        self.notes: list[str] = []

    def items(self) -> Iterator[Item]:
        """The arrays, in the order of the file."""
        raise NotImplementedError

    def attrs(self, item: Item, codec, x: np.ndarray) -> dict[str, Any]:
        """What is noted beside the codes of an array, as JSON; ``codec`` is fitted."""
        return {}

    def __iter__(self) -> Iterator[Item]:
        return self.items()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Let the file go. Arrays already loaded stay valid."""

    def __repr__(self) -> str:
        return f"<{self.format} {str(self.path)!r}: {sum(1 for _ in self.items())} arrays>"


class Mapped:
    """A regular file, mapped read-only; every access is checked against its size."""

    def __init__(self, path):
        self.path = Path(path)
        try:
            with open(self.path, "rb", opener=lambda p, flags: os.open(p, flags | getattr(os, "O_NONBLOCK", 0))) as f:
                info = os.fstat(f.fileno())
                if not stat.S_ISREG(info.st_mode):
                    raise FormatError(f"{self.path}: not a regular file")
                self.size = info.st_size
                self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except FileNotFoundError:
            raise InputError(f"{self.path}: no such file") from None
        except OSError as e:
            raise InputError(f"{self.path}: cannot read ({e.strerror or e})") from e

    def bytes(self, at: int, n: int) -> bytes:
        """A copy of n bytes from `at`; `FormatError` if the file ends before."""
        self._check(at, n)
        return self._map[at:at + n]

    def array(self, at: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array of this dtype and shape that starts at byte `at`, as a view of the file."""
        dtype = dtype_of(name)
        n = product(shape)
        self._check(at, n * dtype.itemsize)
        if not n:
            return np.zeros(shape, dtype)
        flat = np.frombuffer(self._map, np.uint8, n * dtype.itemsize, at)
        return flat.view(dtype).reshape(shape) if at % dtype.itemsize == 0 else flat.copy().view(dtype).reshape(shape)

    def _check(self, at: int, n: int) -> None:
        if at < 0 or n < 0 or at + n > self.size:
            raise FormatError(f"{self.path}: cut short: bytes {at:,} to {at + n:,} are needed, the file has {self.size:,}")


def product(shape: tuple[int, ...]) -> int:
    """The number of values of a shape, without overflow."""
    n = 1
    for v in shape:
        n *= v
    return n


def check_array(shape: tuple[int, ...], name: str, what: str, limits: Limits = DEFAULT) -> int:
    """Bytes of an array someone else declared; `LimitError` before anything of that size is made."""
    if len(shape) > 32:
        raise FormatError(f"{what}: {len(shape)} axes")
    itemsize = dtype_of(name).itemsize
    limits.check("decoded_bytes", product(tuple(max(v, 1) for v in shape)) * itemsize, what)  # empty arrays have bounds too
    return product(shape) * itemsize
