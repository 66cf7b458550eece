"""Models in .cpd files for transformers: the codes as they are, in the form that `CompandConfig` saves."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import open as open_file
from ..codec import Codec
from ..codes import Codes, unpack_part
from ..entry import Entry
from ..errors import CompandError, FormatError, InputError
from ..expression import Chain
from ..modality.hf import safe_path
from ..modality.output import whole_folder
from ..modality.stack import within
from ..op.buffers import places_of
from ..symbols import pack


def from_pretrained(path, cls=None, *, memory: int | None = None, **kwargs: Any):
    """The model of a .cpd file, its linear layers on their codes.

    ``cls`` is the class of transformers (default ``AutoModelForCausalLM``), ``memory`` as of `unpack`; other arguments are those of its
    ``from_pretrained``.
    Raises `FormatError` where the file holds no model folder. See `unpack` for what stays coded.
    """
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory(prefix="compand-") as folder:
        unpack(path, Path(folder, "model"), memory=memory)
        return (cls or AutoModelForCausalLM).from_pretrained(Path(folder, "model"), **kwargs)


def unpack(path, folder, *, memory: int | None = None, overwrite: bool = False) -> Path:
    """Write the model of a .cpd file as a folder that a plain ``from_pretrained`` loads once `compand.hf` is imported.

    Matrices of linear layers, and a head that is tied to the embedding, keep their codes, without entropy coding; embeddings that are not
    tied, codes whose size is not known before (``sparse``), and what was stored without loss are decoded. ``memory`` bounds the bytes of
    all weights: of matrices coded as sums of terms only the first ones that fit are kept (`compand.modality.stack`). Returns the folder.
    Raises `FormatError` where the file holds no model folder, `InputError` for a memory that the first terms alone exceed.
    """
    from safetensors.numpy import save_file

    with open_file(path) as file, whole_folder(folder, overwrite=overwrite) as out:
        names = [n for n in file if file[n].kind == "array"]
        others = {n: file[n].array().tobytes() for n in file if file[n].kind == "file"}
        try:
            config = json.loads(others["config.json"])
            tied = bool(config.get("tie_word_embeddings", str(config.get("model_type")).startswith("gemma")))
        except (KeyError, ValueError, AttributeError, RecursionError):
            raise FormatError(f"{path} holds no model folder of Hugging Face") from None
        head = "lm_head.weight" in names
        overrides: dict[str, str | None] = {}
        tensors: dict[str, np.ndarray] = {}
        coded_head = False

        def decoded(entry: Entry) -> bool:
            return entry.name.endswith("embed_tokens.weight") and (head or not tied)

        kept = {} if memory is None else within(file, memory, lambda entry: not decoded(entry) and _sized(entry))
        for name in names:
            entry = file[name]
            is_embedding = name.endswith("embed_tokens.weight")
            buffers = None if decoded(entry) else _buffers(entry, kept.get(name))
            if buffers is None:
                tensors[name] = np.ascontiguousarray(entry.array())
                continue
            module = "lm_head" if is_embedding else name.removesuffix(".weight")
            coded_head |= module == "lm_head"
            spec, own = buffers
            overrides[f"^{re.escape(module)}$"] = spec
            tensors |= {f"{module}.{buffer}": a for buffer, a in own.items()}
        specs = list(overrides.values())
        most = max(set(specs), key=specs.count) if specs else "int:8"
        config["quantization_config"] = {"quant_method": "compand", "spec": most, "overrides": {**overrides, ".*": None},
                                         "modules_to_not_convert": [], "activations": "int8", "head": coded_head}
        if coded_head:
            config["tie_word_embeddings"] = False
        for name, data in others.items():
            if name.endswith((":header", ".safetensors.index.json")):  # of the containers that the tensors came from
                continue
            target = safe_path(out, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(json.dumps(config).encode() if name == "config.json" else data)
        save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return Path(folder)


def _sized(entry: Entry) -> bool:
    """Whether `_buffers` keeps the codes, told without reading more than their first term."""
    sized = all(-1 not in part.shape for part in entry.codec.layout(entry.codec.form(entry.shape, entry.dtype)).values())
    return sized and _buffers(entry, 1) is not None


def _buffers(entry: Entry, terms: int | None = None) -> tuple[str, dict[str, np.ndarray]] | None:
    """Spec and buffers of a coded matrix; None where it has to be decoded."""
    if len(entry.shape) != 2 or not entry.name.endswith(".weight") or "base" in entry.attrs:
        return None
    if entry.codec.stage.raw or not entry.codec.stage.kind == "quantizer":
        return None
    codes = entry.codes(terms=terms)
    codec = codes.codec
    stage, coder = codec.stage, ""
    if isinstance(stage, Chain) and stage.coder:
        coder = str(stage.coder)
        stage = Chain((*stage.transforms, stage.quantizer)) if stage.transforms else stage.quantizer
    plain = Codec(stage)
    try:
        places = places_of(plain, codes.form)
        state = codec.state()
        arrays = {key: _part(codes, plain, key[5:], bool(coder)) if key.startswith("part:") else state[_old(key[6:], state)]
                  for key, _, _ in places.values()}
    except (InputError, KeyError):
        return None
    except CompandError as e:
        raise type(e)(f"{entry.name}: {e}") from e
    if any(arrays[key].shape != shape or arrays[key].dtype.name != dtype for key, dtype, shape in places.values()):
        return None
    return str(plain.stage), {buffer: _bytes(arrays[key]) for buffer, (key, _, _) in places.items()}


def _part(codes: Codes, plain: Codec, path: str, coded: bool) -> np.ndarray:
    """One part over all rows, as one block stores it."""
    old = _old(path, codes.blocks[0].parts)
    if not coded:
        return codes.part(old)
    layout = plain.layout(codes.form)[path]
    if layout.k is None:
        return codes.part(old)
    full = codes.codec.layout(codes.form)[old]
    found = [unpack_part(b.parts[old], replace(full, shape=(b.rows, *full.shape[1:]))) for b in codes.blocks]
    return pack(np.concatenate(found).reshape(full.shape[0], -1), layout.k)


def _old(path: str, known) -> str:
    return path if path in known else f"0.{path}"  # a coder makes a chain of one stage


def _bytes(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a).view(np.uint8)
