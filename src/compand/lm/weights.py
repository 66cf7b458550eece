"""The weights of a decoder as native matrices, from a .cpd file or a Hugging Face folder, coded or not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import _native
from .. import open as open_file
from ..codec import Codec
from ..codes import Codes
from ..dtypes import is_float
from ..errors import FormatError, InputError
from ..modality import detect
from ..modality.stack import within
from ..modality.weights import LEAST_QUANTIZED
from ..op.buffers import codes_of
from ..op.matmul import matrix
from ..op.memory import copied
from ..stage import Form

MOST_FILE = 256 << 20  # bytes; tokenizers of 30 MB are common


class Weights:
    """Named tensors and files of a model. ``spec`` codes matrices that are not coded yet (embedding and head too).

    ``memory``: bytes of all weights; of sums of terms as many are read as fit (`compand.modality.stack`).
    """

    def __init__(self, path, spec: str | None = None, memory: int | None = None):
        self.path, self.spec = Path(path), spec
        self.spec_used = False  # something was left to code
        self.bytes = 0  # of all weights taken, as they are in memory
        self.values = 0
        self._close: Callable[[], None]
        if self.path.is_dir():
            source = detect(self.path, exact=True)  # codes as they are
            self._items = {item.name: item for item in source.items()}
            self._close = source.close
            self._entries: Any = {}
        else:
            if self.path.is_file():
                _refuse(self.path)
            file = open_file(self.path)
            self._entries, self._items, self._close = file, {}, lambda: None  # matrices are views of its map
        self.config = self.json("config.json")
        if self.config is None:
            raise FormatError(f"{self.path} holds no config.json: not a model")
        self._coded = self.config.get("quantization_config") if isinstance(self.config, dict) else None
        if self._coded and (not isinstance(self._coded, dict) or self._coded.get("quant_method") != "compand"):
            raise FormatError(f"{self.path}: the quantization_config {str(self._coded)[:60]} cannot be read here")
        self._matrices: dict[str, Any] = {}
        self._terms: dict[str, int] = {}
        if memory is not None:
            if not self._entries:
                raise InputError(f"{self.path}: a memory is for a .cpd file whose weights are sums of terms")
            self._terms = within(self._entries, memory, lambda entry: _runs(entry.codec, entry.dtype))
        files = self.path.iterdir() if self.path.is_dir() else [self.path]
        self._copy = copied(sum(f.stat().st_size for f in files if f.is_file()) if memory is None else memory)

    def close(self) -> None:
        """Let the folder go; matrices stay."""
        self._close()

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return [n for n in self._entries if self._entries[n].kind == "array"] if self._entries else list(self._items)

    def file(self, name: str) -> bytes | None:
        """A file of the model's folder, None if there is none. Raises `FormatError` if it is too large."""
        if self._entries:
            if name not in self._entries or self._entries[name].kind != "file":
                return None
            return self._entries[name].array().tobytes()
        path = self.path / name
        if not path.is_file():
            return None
        with open(path, "rb") as f:
            data = f.read(MOST_FILE + 1)
        if len(data) > MOST_FILE:
            raise FormatError(f"{path} has more than {MOST_FILE >> 20} MiB, too much for a file of settings or words")
        return data

    def json(self, name: str) -> Any:
        """A JSON file of the folder, None if there is none."""
        data = self.file(name)
        if data is None:
            return None
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as e:
            raise FormatError(f"{self.path}: {name} is not JSON: {e}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._entries if self._entries else name in self._items

    def array(self, name: str) -> np.ndarray:
        """A tensor decoded, in its own dtype."""
        if name not in self:
            raise FormatError(f"{self.path}: no tensor {name!r}")
        return np.asarray(self._entries[name].array() if self._entries else self._items[name].load())

    def vector(self, name: str, size: int) -> np.ndarray:
        """A tensor of one axis: float32."""
        a = self.array(name)
        if a.shape != (size,) or not is_float(a.dtype.name):
            raise FormatError(f"{self.path}: {name} is {a.dtype}{list(a.shape)}, the model needs {size} floats")
        self.bytes += a.size * 4
        return np.ascontiguousarray(a, np.float32)

    def matrix(self, name: str, n: int, d: int) -> Any:
        """A tensor (n, d) as a native matrix; kept, so that what is tied is there once."""
        if name not in self._matrices:
            self._matrices[name] = self._matrix(name, Form(n, d))
        found = self._matrices[name]
        if found.shape != (n, d):
            raise FormatError(f"{self.path}: {name} is {list(found.shape)}, the model needs {[n, d]}")
        return found

    def _matrix(self, name: str, form: Form) -> Any:
        codes = self._codes(name, form)
        if codes is None:
            a = self.array(name)
            if a.ndim != 2 or not is_float(a.dtype.name):
                raise FormatError(f"{self.path}: {name} is {a.dtype}{list(a.shape)}, not a float matrix")
            if not self.spec or a.size < LEAST_QUANTIZED:
                return self._plain(a)
            codec, self.spec_used = Codec(self.spec), True
            codes = (codec.fit(a) if codec.stage.state(codec.form(a.shape, a.dtype.name)) else codec).encode(a)
        if len(codes.shape) != 2:
            raise FormatError(f"{self.path}: {name} has the shape {list(codes.shape)}, not two axes")
        if not _runs(codes.codec, codes.dtype):
            return self._plain(codes.codec.decode(codes))
        self.bytes += codes.nbytes
        self.values += codes.size
        return matrix(codes, copy=self._copy)

    def _plain(self, a: np.ndarray) -> Any:
        a = np.ascontiguousarray(a) if a.dtype.name == "bfloat16" else np.ascontiguousarray(a, np.float32)
        self.bytes += a.nbytes
        self.values += a.size
        return _native.Plain(a.view(np.uint16) if a.dtype.name == "bfloat16" else a)

    def _codes(self, name: str, form: Form) -> Codes | None:
        """The codes of a tensor, None where it is not coded."""
        if self._entries:
            if name not in self._entries:
                raise FormatError(f"{self.path}: no tensor {name!r}")
            entry = self._entries[name]
            if "base" in entry.attrs:
                raise FormatError(f"{self.path}: {name} is stored as a difference to a base model; decompress the model first")
            return entry.codes(terms=self._terms.get(name)) if _runs(entry.codec, entry.dtype) else None
        if self._coded is None or name not in self._items or self._items[name].dtype != "uint8":
            return None
        config, module = self._coded, name.removesuffix(".weight")
        own = [n for n, item in self._items.items() if n.startswith(module + ".") and item.dtype == "uint8"]
        buffers = {n[len(module) + 1:]: self.array(n) for n in own}
        try:
            spec = next((own for pattern, own in (config.get("overrides") or {}).items() if re.search(pattern, module)), config.get("spec"))
        except (re.error, AttributeError, RecursionError):
            raise FormatError(f"{self.path}: the overrides in config.json are damaged") from None
        if not isinstance(spec, str):
            raise FormatError(f"{self.path}: {name} is coded, and config.json has no spec for it")
        return codes_of(Codec(spec), form, buffers)


def _refuse(path: Path) -> None:
    """Say what to do with files of models that are not .cpd."""
    with open(path, "rb") as f:
        mark = f.read(4)
    if mark == b"GGUF":
        raise FormatError(f"{path} is GGUF; make a model folder of it first: compand transcode {path.name} {path.stem}/")
    if mark != b"\x89CPD":
        raise FormatError(f"{path} is no model; a .cpd file of one is read, or a Hugging Face folder")


def _runs(codec: Codec, dtype: str) -> bool:
    """Whether products read such codes as they are: all that are lossy, and of those that keep every bit bfloat16 in `ranks`."""
    return not codec.stage.raw or (codec.stage.name == "ranks" and dtype == "bfloat16")
