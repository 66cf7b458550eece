"""Foreign object → .cpd and back: which codec each array gets, and which container comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import registry
from ..array import Rows
from ..codec import Codec
from ..codes import Codes
from ..errors import FitError, FormatError, InputError, SpecError
from . import _open, arrow, gguf, image, npy, npz, safetensors, splats
from .hf import safe_path
from .output import whole_file, whole_folder
from .source import Item, Mapped, Source
from .weights import Base, from_base, quantizable

PIECE = 4 << 20  # bytes of decoded values on their way to a file: they stay in the caches
LARGE = 4 << 20  # bytes; larger opaque files are coded fast rather than small
MOST_TEXT, TEXT = 256 << 20, {".json", ".jinja", ".md", ".txt"}  # tokenizers of 30 MB are common, and 8 times smaller when coded well
TINY = 2048  # bytes; below this the chunks and tables of coding cost more than it saves
SPLATS = ("ply", "spz", "sog", "splat")
WRITES = ("npy", "npz", "safetensors", "hf", "parquet", "arrow", "gguf", *SPLATS, *image.WRITES)
_SUFFIXES = {".npy": "npy", ".npz": "npz", ".safetensors": "safetensors", ".parquet": "parquet", ".arrow": "arrow",
             ".feather": "arrow", ".gguf": "gguf", **{f".{k}": k for k in SPLATS}, **image.SUFFIXES}


@dataclass
class PackReport:
    """What `pack` did: one line an array in ``entries`` (name, spec, shape, dtype, nbytes), sizes in bytes, remarks."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    source_bytes: int = 0
    file_bytes: int = 0
    notes: list[str] = field(default_factory=list)


def lossless_spec(nbytes: int = 1 << 20, modality: str = "weights", ndim: int = 2) -> str:
    """The spec that keeps every bit of an array of so many bytes; splats resemble those near them."""
    if modality == "splats" and nbytes > TINY:
        return "neighbours" if ndim == 2 else "planes,rans:1"
    if modality == "image":
        return "delta,planes,rans" if nbytes > TINY else "bytes,lzma"
    return "raw" if nbytes <= TINY or not {"planes", "rans"} <= set(registry.names()) else "planes,rans"


def pack(source, path, *, spec: str | Callable | None = None, lossless: bool = False, base=None, overwrite: bool = False,
         check: bool = True, progress: Callable[[int, int, str], None] | None = None) -> PackReport:
    """Compress a foreign object (a path, or an opened `Source`) into the .cpd file at ``path``.

    Parameters
    ----------
    spec : str, Codec or callable
        The codec of float matrices (of weights: with at least 1,024 values); what it does not apply to is kept without loss.
        A callable gets (name, shape, dtype) and gives a spec, a Codec, None for lossless, or the `Codes` to store.
    lossless : bool
        Keep every bit of everything; safetensors, model folders and GGUF are then restored bit by bit.
    base : path or Source
        A model this one was tuned from: tensors of the same name, shape and dtype are stored as differences, those that ``spec`` applies
        to as what it makes of them (``ternary:keep=0.1,rans``: ComPEFT, Yadav et al. 2023), all others without loss.
    progress : callable
        Called with (bytes done, bytes in all, name) after each array.

    Raises `InputError` if there is nothing to do or a matrix of embeddings has NaN, `OverwriteError` if ``path`` exists.
    """
    if (spec is None) == (not lossless):
        raise InputError("say either spec='...' (see compand.stage_names()) or lossless=True")
    from .. import Writer

    opened: list[Source] = []
    report = PackReport()
    try:
        src = _open(source, exact=lossless)
        if src is not source:
            opened.append(src)
        items = list(src.items())
        against = None
        if base is not None:
            from_path = _open(base, exact=lossless)
            if from_path is not base:
                opened.append(from_path)
            against = Base(from_path)
        meta: dict[str, Any] = {"modality": src.modality, "source": src.meta}
        if against is not None:
            meta["base"] = against.identity()
        report.notes += src.notes
        total, done, quantized = sum(i.nbytes for i in items), 0, 0
        choose, exactly = _chooser(spec, src.modality), cache(Codec)
        with Writer(path, overwrite=overwrite, meta=meta) as w:
            for item in items:
                codec = None if lossless else choose(item)
                if isinstance(codec, Codes):
                    if (codec.shape, codec.dtype) != (tuple(item.shape), item.dtype):
                        raise InputError(f"{item.name} is {item.dtype}{list(item.shape)}, its codes are of {codec!r}")
                    w.write_codes(item.name, codec)
                    quantized += 1
                    done += item.nbytes
                    report.entries.append({"name": item.name, "spec": codec.codec.spec, "shape": item.shape, "dtype": item.dtype,
                                           "nbytes": item.nbytes, "base": False})
                    continue
                x, attrs = item.load(), dict[str, Any]()
                whole, change = x, against.change(item, x) if against and codec is not None else None
                if change is not None:
                    x, attrs = change[0], {"base": change[1]}
                if codec is not None:
                    if progress and not codec.state() and codec.stage.state(codec.form(item.shape, item.dtype)):
                        progress(done, total, f"fitting {codec.spec} to {item.name}")
                    try:
                        codec = _ready(codec, item, x)
                        quantized += 1
                    except (SpecError, FitError, InputError) as e:
                        if src.modality != "weights":
                            hint = "; clean it, or keep every bit (--lossless), which cannot be searched" if "has NaN" in str(e) else ""
                            raise type(e)(f"{item.name}: {e}{hint}") from e
                        report.notes.append(f"{item.name} is kept without loss: {e}")
                        codec, x, attrs = None, whole, {}
                if codec is None:
                    delta = against.against(item, x) if against else None
                    if delta is not None:
                        x, attrs = delta[0], {"base": delta[1]}
                    codec = exactly(lossless_spec(item.nbytes, src.modality, len(item.shape)))
                attrs |= src.attrs(item, codec, x)
                w.write(item.name, x, codec, attrs=attrs or None, check=check, progress=_within(progress, done, total, item))
                report.entries.append({"name": item.name, "spec": codec.spec, "shape": item.shape, "dtype": item.dtype,
                                       "nbytes": item.nbytes, "base": "base" in attrs})
                done += item.nbytes
            for name, content in src.files.items():
                report.source_bytes += _write_file(w, name, content, check)
        report.source_bytes += total
        report.file_bytes = Path(path).stat().st_size
        if not lossless and not quantized:
            report.notes.append("no array was quantized: none is a float matrix that the spec fits")
        return report
    finally:
        for s in opened:
            s.close()


def _within(progress, done: int, total: int, item: Item):
    """Progress in rows of one array as progress in bytes of all."""
    return progress and (lambda rows, n: progress(done + item.nbytes * rows // n, total, item.name))


def _write_file(w, name: str, content: Path | bytes, check: bool) -> int:
    """Keep a file as it is; large ones are streamed from the disk. Returns its bytes."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size < LARGE or (size < MOST_TEXT and Path(name).suffix.lower() in TEXT):
        w.write_file(name, content)
    else:
        data = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else Mapped(content).array(0, "uint8", (size,))
        w.write(name, data, lossless_spec(size), kind="file", sha256=True, check=check)
    return size


def _chooser(spec, modality: str) -> Callable[[Item], Codec | Codes | None]:
    """item → the (unfitted or fitted) codec, None for lossless."""
    known: dict[str, Codec] = {}

    def codec_of(given) -> Codec | Codes | None:
        if given is None or isinstance(given, (Codec, Codes)):
            return given
        if str(given) not in known:
            known[str(given)] = Codec(given)
        return known[str(given)]

    if callable(spec) and not isinstance(spec, Codec):
        return lambda item: codec_of(spec(item.name, item.shape, item.dtype))
    fixed = codec_of(spec)
    if modality == "image" and fixed is not None:
        stage = fixed.stage  # type: ignore[union-attr]
        return lambda item: Codec(image.adapted(stage, item)) if quantizable(item, modality) else None
    return lambda item: fixed if quantizable(item, modality) or (modality == "embeddings" and item.name == "array"
                                                                 and "float" in item.dtype and item.size) else None


def _ready(codec: Codec, item: Item, x) -> Codec:
    """The codec fitted to x, once it is sure that it can code x."""
    form = codec.form(item.shape, item.dtype)
    needs = codec.stage.state(form)
    fits = bool(needs and not codec.state())
    if not fits:
        codec.stage.layout(form)
    if not codec.stage.raw:
        rows = max(1, (1 << 20) // max(form.d, 1))
        flat = x if isinstance(x, Rows) else x.reshape(form.n, form.d)
        for at in range(0, form.n, rows):
            if not (fine := np.isfinite(flat[at:at + rows].astype(np.float32, copy=False)).all(axis=1)).all():
                raise InputError(f"row {at + int(np.flatnonzero(~fine)[0])} has NaN or infinite values, which {codec.spec} cannot code")
    if fits:  # some stages know their layout only then
        codec = codec.fit(x)
        codec.stage.layout(form)
    return codec


# -- back --------------------------------------------------------------------------------------------------------------
def unpack(path, out, *, base=None, overwrite: bool = False, format: str | None = None,
           progress: Callable[[int, int, str], None] | None = None) -> Path:
    """Write what the .cpd file at ``path`` holds to ``out``, as the container it came from.

    ``format`` (or another known suffix of ``out``) asks for another container: npy, npz, safetensors, parquet, arrow; of splats ply,
    spz, sog, splat; of pictures png, tiff, webp, ppm, jpeg, bmp. GGUF that was quantized comes back as safetensors.
    ``base`` is the base model, if the file holds differences to one.
    Raises `InputError` if the base is missing or is another, `OverwriteError` if ``out`` exists.
    """
    from .. import open as open_file

    opened = None
    try:
        if base is not None:
            opened = _open(base)
        with open_file(path) as file:
            write(file, out, base=opened, overwrite=overwrite, format=format, progress=progress)
    finally:
        if opened is not None and opened is not base:
            opened.close()
    return Path(out)


def write(file, out, *, base: Source | None = None, overwrite: bool = False, format: str | None = None, progress=None) -> None:
    """As `unpack`, from an open `compand.File`."""
    meta = file.meta.get("source")
    meta = meta if isinstance(meta, dict) else {}
    arrays = [n for n in file.names if file[n].kind == "array"]
    kind = format or _kind(meta.get("format"), Path(out), arrays)
    if kind not in WRITES:
        raise InputError(f"format must be one of {', '.join(WRITES)}, not {kind!r}")
    if kind == "gguf" and meta.get("format") == "hf":
        raise InputError("a model folder becomes GGUF by transcode, which knows how to name and code it: "
                         "compand transcode model.cpd model.gguf --type Q4_K_M")
    if kind == "gguf" and "gguf:container" not in file.names:
        raise InputError("this file keeps no GGUF container, which only --lossless (lossless=True) does; write safetensors")
    if kind in ("hf", "gguf") and meta.get("format") != kind:
        raise InputError(f"a {kind} container can only be restored where the file came from one; write npz or safetensors")
    base_of = Base(base) if base is not None else None
    done, total, room = 0, sum(_nbytes(file[n]) for n in arrays), np.empty(PIECE, np.uint8)

    def array(name: str) -> np.ndarray:
        nonlocal done
        if name not in file:
            raise FormatError(f"{name!r} is missing in this .cpd file")
        entry = file[name]
        x = entry.array()
        attr = entry.attrs.get("base")
        if isinstance(attr, dict):
            x = from_base(x, attr, base_of, file.meta.get("base") if isinstance(file.meta.get("base"), dict) else {})
        done += _nbytes(entry)
        if progress:
            progress(done, total, name)
        return x

    def pieces(name: str) -> np.ndarray | Iterator[np.ndarray]:
        if name not in file or "base" in file[name].attrs:
            return array(name)
        return _counted(file[name])

    def _counted(entry) -> Iterator[np.ndarray]:
        nonlocal done
        for x in entry.pieces(room):
            yield x
            done += x.nbytes
            if progress:
                progress(done, total, entry.name)

    def content(name: str) -> bytes:
        if name not in file:
            raise FormatError(f"{name!r} is missing in this .cpd file")
        return file[name].array().tobytes()

    if kind == "hf":
        with whole_folder(out, overwrite=overwrite) as folder:
            _write_folder(folder, meta, file, pieces, content)
        return
    with whole_file(out, overwrite=overwrite, size=total if kind in ("npy", "safetensors", "gguf") else 0) as f:
        if kind in SPLATS:
            splats.write_from(f, file, kind, progress and (lambda share: progress(int(share * total), total, splats.scene.ENTRY)))
        elif kind in image.WRITES:
            image.write_to(f, image.from_file(file), kind)
        elif kind == "npy":
            if len(arrays) != 1:
                raise InputError(f".npy holds one array, this file has {len(arrays)}; write .npz")
            own = meta.get("format") == "npy"
            head = content("array:header") if own and "array:header" in file else None
            entry, own_meta = file[arrays[0]], meta if own else {}
            if "base" in entry.attrs or own_meta.get("fortran") or entry.dtype.startswith(("bfloat", "float8")):
                npy.write_array(f, array(arrays[0]), own_meta, head)
            else:
                npy.write_pieces(f, entry.shape, entry.dtype, pieces(arrays[0]), own_meta, head)
        elif kind == "npz":
            npz.write(f, ((n, array(n)) for n in arrays), meta if meta.get("format") == "npz" else {})
        elif kind in ("parquet", "arrow"):
            arrow.write(f, ((n, array(n)) for n in arrays), kind)
        elif kind == "gguf":
            gguf.write_exact(f, content("gguf:container"), meta, array)
        elif meta.get("format") == "safetensors" and len(shards := _shards(meta, content)) == 1:
            ((header, tensors),) = shards.values()
            safetensors.write_shard(f, header, [t.name for t in tensors], tensors, pieces)
        else:
            safetensors.write_new(f, [(n, *_form(file[n]), lambda n=n: pieces(n)) for n in arrays])


def _kind(own, out: Path, arrays: list[str]) -> str:
    suffix = _SUFFIXES.get(out.suffix.lower())
    if own == "hf":
        return suffix if suffix in ("npz", "safetensors") else "hf"
    if suffix:
        return suffix
    if own == "gguf":
        return "safetensors"
    if own in ("ksplat", "gif", "jpeg", "bmp"):
        return "ply" if own == "ksplat" else "png"
    return own if own in WRITES else "npy" if len(arrays) == 1 else "npz"


def _form(entry) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of the array an entry stands for."""
    attr = entry.attrs.get("base")
    return entry.shape, attr["dtype"] if isinstance(attr, dict) and isinstance(attr.get("dtype"), str) else entry.dtype


def _nbytes(entry) -> int:
    return Item(entry.name, entry.shape, entry.dtype, lambda: None).nbytes


def _shards(meta: dict, content) -> dict[str, tuple[bytes, list]]:
    names = meta.get("shards")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise FormatError("this .cpd file does not say which shards it came from")
    headers = {n: content(f"{n}:header") for n in names}
    return {n: (h, safetensors.parse_header(h)) for n, h in headers.items()}


def _write_folder(folder: Path, meta: dict, file, array, content) -> None:
    shards = _shards(meta, content)
    stored = safetensors.entry_names([(n, tensors) for n, (_, tensors) in shards.items()])
    others = meta.get("files", [])
    if not isinstance(others, list) or not all(isinstance(n, str) for n in others):
        raise FormatError("this .cpd file does not say which files the folder had")
    for name, names in zip(shards, stored, strict=True):
        target = safe_path(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as f:
            safetensors.write_shard(f, shards[name][0], names, shards[name][1], array)
    for name in others:
        target = safe_path(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content(name))
