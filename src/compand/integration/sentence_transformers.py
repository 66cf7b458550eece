"""`quantize_embeddings` as sentence-transformers has it, with every compand spec as a further precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..array import to_numpy
from ..codec import Codec
from ..codes import Codes
from ..errors import InputError, UnsupportedError
from .language import transformers

WORDS = ("float32", "int8", "uint8", "binary", "ubinary")


def quantize_embeddings(embeddings, precision: str | Codec, ranges=None, calibration_embeddings=None) -> np.ndarray | Codes | list:
    """Embeddings (n, d) at a lower precision.

    Parameters
    ----------
    embeddings : (n, d) array, tensor, or a list of rows
        A list of matrices (multi-vector documents, which may be empty) gives a list, all with the same ranges or codec.
    precision : "float32", "int8", "uint8", "binary" or "ubinary" for the arrays sentence-transformers makes; or a spec
        ("klt,grouped:48") or `Codec`, for `Codes` that `compand.search` takes.
    ranges : (2, d) array
        Least and largest value of each column, for int8 and uint8. A fitted `Codec` keeps its own.
    calibration_embeddings : (m, d) array
        What ranges, or the codec, are learnt from; default: the embeddings themselves, which should then be many.

    Raises `InputError` for NaN, for integers (quantized already), and for ranges taken from a single row, which would lose everything.
    The arrays are those of sentence-transformers 6.2, equal in every value.

    >>> x = np.random.default_rng(0).standard_normal((1000, 16), dtype=np.float32)
    >>> quantize_embeddings(x, "ubinary").shape, quantize_embeddings(x, "int8").dtype, quantize_embeddings(x, "klt,grouped:8").nbytes
    ((1000, 2), dtype('int8'), 8000)
    """
    many = isinstance(embeddings, (list, tuple)) and (len(embeddings) == 0 or np.ndim(embeddings[0]) == 2)
    matrices = [_rows(m) for m in embeddings] if many else [_rows(embeddings)]
    if not matrices:
        return []
    learn = matrices if calibration_embeddings is None else [_rows(calibration_embeddings)]
    learn = learn[0] if len(learn) == 1 else np.concatenate(learn)
    if isinstance(precision, Codec) or precision not in WORDS:
        try:
            codec = precision if isinstance(precision, Codec) else Codec(precision)
        except UnsupportedError as e:
            raise UnsupportedError(f"precision is {', '.join(WORDS)}, or a spec: {e}") from e
        if not codec.state():
            codec = codec.fit(learn)
        out: list = [codec.encode(x) for x in matrices]
    else:
        if precision in ("int8", "uint8"):
            ranges = _ranges(precision, ranges, learn)
        out = [_quantized(x, precision, ranges) for x in matrices]
    return out if many else out[0]


def embed(texts: list[str], model) -> np.ndarray:
    """The vectors of texts by a sentence-transformers model in a folder of this machine: (n, d) float32. Nothing is downloaded.

    Raises `InputError` if sentence-transformers is not installed, or the folder holds no such model.
    """
    if not (Path(model) / "modules.json").is_file():
        raise InputError(f"{model} is not the folder of a sentence-transformers model (it has no modules.json)")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError("text needs sentence-transformers: pip install 'compand[hf]'") from None
    transformers()  # its loading bars are off
    try:
        loaded = SentenceTransformer(str(model), local_files_only=True)
    except (OSError, ValueError, KeyError) as e:
        raise InputError(f"{model}: the model cannot be loaded: {str(e)[:200]}") from e
    return np.asarray(loaded.encode(texts, show_progress_bar=False, convert_to_numpy=True), np.float32).reshape(len(texts), -1)


def _ranges(precision: str, ranges, learn: np.ndarray) -> np.ndarray:
    if ranges is None and learn.shape[0] == 1:
        raise InputError(f"{precision} needs the ranges of columns: give ranges, or calibration_embeddings of more than one row")
    if ranges is None:
        ends = [learn.min(axis=0), learn.max(axis=0)] if len(learn) else np.zeros((2, learn.shape[1]))
        return np.asarray(ends, np.float32)
    ranges = np.asarray(ranges, np.float32)
    if ranges.shape != (2, learn.shape[1]):
        raise InputError(f"ranges must be (2, {learn.shape[1]}): least and largest value of each column, not {list(ranges.shape)}")
    return ranges


def _quantized(x: np.ndarray, precision: str, ranges) -> np.ndarray:
    if precision == "float32":
        return x.astype(np.float32, copy=False)
    if not np.isfinite(x).all():
        raise InputError("embeddings have NaN or infinite values")
    if precision in ("binary", "ubinary"):
        bits = np.packbits(x > 0, axis=1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    steps = (ranges[1] - ranges[0]) / 255
    ids = np.clip(np.floor((x - ranges[0]) / np.where(steps == 0, 1, steps)), 0, 255)
    return ids.astype(np.uint8) if precision == "uint8" else (ids - 128).astype(np.int8)


def _rows(x) -> np.ndarray:
    if isinstance(x, (list, tuple)):
        x = np.stack([to_numpy(row) if hasattr(row, "shape") else np.asarray(row) for row in x]) if len(x) else np.zeros((0, 0))
    a = to_numpy(x) if hasattr(x, "shape") else np.asarray(x)
    if a.ndim != 2:
        raise InputError(f"embeddings must be (n, d), not {list(a.shape)}")
    if a.dtype.kind in "iub":
        raise InputError(f"embeddings are {a.dtype}, quantized already; give floating-point values")
    return a if a.dtype == np.float64 else a.astype(np.float32, copy=False)
