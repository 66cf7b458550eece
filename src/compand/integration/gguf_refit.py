"""A quantized GGUF file with the same types and size and better codes, fitted to the model it was made from.

The tensors' places in the file do not move: header and everything that is not fitted is copied byte for byte.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, InputError
from ..fit.descend import descend
from ..fit.hessian import Hessian, loss
from ..modality import detect
from ..modality.gguf import Gguf, Tensor
from ..modality.gguf_grid import grid, writable
from ..modality.output import whole_file
from ..modality.source import Source
from .gguf_folder import GEMMA, LAYER, MODELS, NAMES, to_folder

PIECE = 1 << 22  # values fitted at once
KEPT = ("Q8_0", "Q8_K")  # what they lose is next to nothing


def refit(path, reference, out, *, calibration: str | None = None, imatrix=None, sequences: int = 48, length: int = 512, sweeps: int = 2,
          damping: float = 0.01, overwrite: bool = False, progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write the GGUF file ``path`` to ``out`` with codes fitted to ``reference``, the model it was quantized from.

    Parameters
    ----------
    reference : a Hugging Face folder, or a GGUF or safetensors file, of more bits
    calibration : text; each layer is fitted to the inputs that the refitted layers before it give for it (full second order; needs torch)
    imatrix : file of llama-imatrix (GGUF form), used where there is no text: the mean squares of inputs alone
    sweeps : rounds of descent on codes, scales and minima after feedback
    progress : called with (values done, values, name)

    Returns sizes, ``lost`` (relative squared error of outputs by tensor, before and after), ``kept`` (names of tensors copied) and seconds.
    Raises `InputError` if the two models do not fit together or both or none of calibration and imatrix can be used.
    """
    if calibration is not None and imatrix is not None:
        raise InputError("give calibration text or an imatrix, not both; text is better")
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(Gguf(path))
        names = _Names(source)
        kinds = [name for name in writable() if name not in KEPT]
        tensors = {t.name: t for t in source.tensors if t.type.name in kinds and len(t.shape) == 2}
        if not tensors:
            raise InputError(f"{path}: no tensor of a type that can be refitted ({', '.join(kinds)}); "
                             f"it holds {', '.join(source.meta['types'])}")
        if calibration is None:
            against = stack.enter_context(detect(reference))
            fitter = _Apart(source, names, against, imatrix)
        else:
            folder = stack.enter_context(_folder(reference))
            fitter = _Layers(source, names, folder, calibration, sequences, length)
            stack.callback(fitter.close)
        lost: dict[str, tuple[float, float]] = {}
        done, total = 0, sum(int(np.prod(t.shape)) for t in tensors.values())
        with whole_file(out, overwrite=overwrite) as f:
            f.write(source.file.bytes(0, source.file.size))
            for name, w, hessian, put in fitter.layers(tensors):
                t = tensors[name]
                if progress:
                    progress(done, total, name)
                blocks, better = _fit(t, w, hessian, sweeps, damping)
                before, after = (_relative(x, w, hessian) for x in (source._load(t, None), better))
                if before <= after:  # the file's own codes were as good: only a type too fine to matter comes here
                    blocks, better, after = source.file.bytes(source.data_start + t.start, t.nbytes), source._load(t, None), before
                f.seek(source.data_start + t.start)
                f.write(np.ascontiguousarray(blocks).data if isinstance(blocks, np.ndarray) else blocks)
                lost[name] = (before, after)
                put(better)
                done += w.size
        size = source.file.size
    return {"bytes": size, "bits": 8 * size / sum(int(np.prod(t.shape)) for t in source.tensors), "lost": lost,
            "kept": [t.name for t in source.tensors if t.name not in lost and len(t.shape) > 1], "seconds": time.perf_counter() - start}


def _fit(t: Tensor, w: np.ndarray, hessian: np.ndarray, sweeps: int, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """Bytes (rows, bytes of a row) of a tensor fitted to w (n, d), and what they decode to."""
    own = grid(t.type.name)
    n, d = w.shape
    blocks, values = np.empty((n, t.nbytes // n), np.uint8), np.empty((n, d), np.float32)
    step = max(1, PIECE // d)
    for at in range(0, n, step):
        f = descend(own, w[at:at + step], hessian, sweeps=sweeps, damping=damping)
        blocks[at:at + step] = own.pack(f).reshape(-1, blocks.shape[1])
        values[at:at + step] = own.decode(f).reshape(-1, d)
    return blocks, values


def _relative(x: np.ndarray, w: np.ndarray, h: np.ndarray) -> float:
    """Squared error of outputs, relative to them; of evenly spaced rows if there are many."""
    step = max(1, len(w) // 512)
    return loss(x[::step] - w[::step], h) / max(loss(w[::step], h), 1e-300)


class _Names:
    """Names of a GGUF's tensors as the model's folder has them, and the order of rows."""

    def __init__(self, source: Gguf):
        self.kind = str(source.metadata.get("general.architecture", ""))
        self.source = source

    def of(self, name: str) -> str | None:
        """blk.0.attn_q.weight → model.layers.0.self_attn.q_proj.weight; None if it is not known."""
        words = name.split(".")
        if words[0] == "blk" and len(words) == 4 and re.fullmatch(r"[0-9]{1,4}", words[1]):
            own = (LAYER | (GEMMA if self.kind == "gemma3" else {})).get(words[2])
            return own and f"model.layers.{int(words[1])}.{own}.{words[3]}"
        return NAMES[words[0]] + f".{words[1]}" if words[0] in NAMES and len(words) == 2 else None

    def heads(self, name: str) -> int | None:
        """How many heads' rows the file holds as pairs where the folder has halves (llama's rotary order)."""
        key = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(name.split(".")[-2])
        if self.kind != "llama" or key is None:
            return None
        count = self.source.metadata.get(f"llama.attention.{key}", self.source.metadata.get("llama.attention.head_count"))
        rows = next((t.shape[0] for t in self.source.tensors if t.name == name), 0)
        if type(count) is not int or count < 1 or rows % (2 * count):
            raise FormatError(f"{self.source.path}: metadata llama.attention.{key} is {str(count)[:40]}, {name[:80]} has {rows:,} rows")
        return count

    def to_file(self, name: str, x: np.ndarray) -> np.ndarray:
        """Rows in the folder's order → the file's."""
        return x if (n := self.heads(name)) is None else x.reshape(n, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)

    def to_folder(self, name: str, x: np.ndarray) -> np.ndarray:
        """Rows in the file's order → the folder's."""
        return x if (n := self.heads(name)) is None else x.reshape(n, -1, 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)


def _matched(t: Tensor, w: np.ndarray, where) -> np.ndarray:
    if tuple(w.shape) != t.shape:
        raise InputError(f"{where}: {t.name} is {list(w.shape)} there and {list(t.shape)} in the GGUF file; is it the same model?")
    if not np.isfinite(w).all():
        raise InputError(f"{where}: {t.name} has values that are not finite")
    return np.ascontiguousarray(w, np.float32)


class _Apart:
    """Tensors one by one, weighted by an imatrix or not at all."""

    def __init__(self, source: Gguf, names: _Names, against: Source, imatrix):
        self.names, self.where = names, against.path
        self.items = {item.name: item for item in against.items()}
        self.squares = read_imatrix(imatrix) if imatrix is not None else {}

    def layers(self, tensors: dict[str, Tensor]) -> Iterator[tuple[str, np.ndarray, np.ndarray, Callable]]:
        """Name, weights, Hessian, and what takes the result."""
        for name, t in tensors.items():
            other = self.names.of(name)
            if name in self.items:
                w = np.asarray(self.items[name].load())
            elif other in self.items:
                w = self.names.to_file(name, _matched(t, np.asarray(self.items[other].load()), self.where))
            else:
                raise InputError(f"{self.where}: neither {name} nor {other} is there; is it the same model?")
            squares = self.squares.get(name)
            if squares is not None and len(squares) != t.shape[1]:
                raise InputError(f"the imatrix has {len(squares)} inputs for {name}, the tensor {t.shape[1]}")
            h = np.eye(t.shape[1]) if squares is None else np.diag(squares)
            yield name, _matched(t, w, self.where), h, lambda _: None


def read_imatrix(path) -> dict[str, np.ndarray]:
    """Mean squared inputs of each tensor, from what llama-imatrix writes (GGUF form): name → float64 (d,)."""
    with detect(path) as source:
        items = {item.name: item for item in source.items()}
        found = {}
        for name, item in items.items():
            own, dot, kind = name.rpartition(".")
            counts = items.get(f"{own}.counts")
            if kind == "in_sum2" and dot and counts is not None and counts.size == 1 and item.size:
                count = float(np.asarray(counts.load()).reshape(()))
                squares = np.asarray(item.load(), np.float64).reshape(-1) / max(count, 1.0)
                if count > 0 and np.isfinite(squares).all() and (squares >= 0).all():
                    found[own] = squares
    if not found:
        raise InputError(f"{path}: no imatrix of llama-imatrix in GGUF form (tensors NAME.in_sum2 and NAME.counts)")
    return found


@contextlib.contextmanager
def _folder(reference) -> Iterator[Path]:
    """A model folder as it is, or a GGUF file turned into one for the time being."""
    if Path(reference).is_dir():
        yield Path(reference)
        return
    with tempfile.TemporaryDirectory(prefix="compand-") as folder:
        to_folder(reference, Path(folder, "model"), dtype="float32")
        yield Path(folder, "model")


class _Layers:
    """Layer by layer, with the inputs that the refitted layers before give for the text."""

    def __init__(self, source: Gguf, names: _Names, folder: Path, text: str, sequences: int, length: int):
        from .language import Language

        if names.kind not in MODELS:
            raise InputError(f"calibration text works for {', '.join(MODELS)}, this file is {names.kind!r}; give an imatrix instead")
        self.names, self.source, self.language = names, source, Language(folder)
        self.ids = self.language.tokens(text, length, sequences)

    def close(self) -> None:
        """Let the files go."""
        self.language.close()

    def layers(self, tensors: dict[str, Tensor]) -> Iterator[tuple[str, np.ndarray, np.ndarray, Callable]]:
        """Name, weights, Hessian, and what takes the result."""
        from .language import transformers

        torch, _ = transformers()
        with torch.no_grad():
            yield from self._layers({self.names.of(name): (name, t) for name, t in tensors.items()})

    def _layers(self, wanted: dict[str | None, tuple[str, Tensor]]):
        from .language_fit import gather

        model, put = self.language, {}
        by_folder = {self.names.of(t.name): t for t in self.source.tensors}
        model.load(model.embedding)
        hidden = [model.embedding(row[None]) for row in self.ids]
        arguments = model.arguments(self.ids[:1])
        model.drop(model.embedding)
        for layer, more in zip(model.layers, arguments, strict=True):
            prefix = model.names[id(layer)]
            model.load(layer)
            found = gather(layer, hidden, more, prefix)
            for module, h in found.items():
                if (full := f"{module}.weight") in wanted:
                    name, t = wanted[full]
                    w = _matched(t, self.names.to_file(name, model.weight(full)), model.folder)
                    yield name, w, h.matrix, lambda x, full=full, name=name: put.__setitem__(full, self.names.to_folder(name, x))
                elif (t := by_folder.get(full)) is not None:  # kept as it is in the file
                    put[full] = self.names.to_folder(t.name, np.asarray(self.source._load(t, None), np.float32))
            model.drop(layer)
            model.load(layer, put)
            for j, x in enumerate(hidden):
                y = layer(x, **more)
                hidden[j] = y[0] if isinstance(y, tuple) else y
            model.drop(layer)
            put.clear()
        yield from self._ends(wanted, hidden)

    def _ends(self, wanted, hidden):
        """The head, for the inputs it gets; an embedding that is not the head, with no weights."""
        model = self.language
        head = f"{model.names[id(model.embedding if model.tied else model.head)]}.weight"
        norm = getattr(model.body, "norm", None)
        for full in dict.fromkeys((head, f"{model.names[id(model.embedding)]}.weight")):
            if full not in wanted:
                continue
            name, t = wanted[full]
            h = Hessian(t.shape[1])
            if full == head:
                for x in hidden:
                    h.add(x if norm is None else model.load(norm)(x))
            else:
                h.add(np.eye(t.shape[1], dtype=np.float32))
            yield name, _matched(t, model.weight(full), model.folder), h.matrix, lambda _: None
