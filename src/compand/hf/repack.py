"""Folders whose weights are codes, as `CompandConfig` saves them, back into .cpd files: the codes as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from ..codec import Codec
from ..codes import Codes
from ..errors import CompandError, FormatError, InputError
from ..modality.hf import Folder
from ..modality.packing import pack
from ..modality.safetensors import new_header
from ..modality.source import Item
from ..op.buffers import codes_of, places_of
from ..stage import Form
from .quantizer import CompandConfig

_DTYPES = ("float32", "float16", "bfloat16")


def repack(folder, path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write a folder of codes (``save_pretrained``, `unpack`) as the .cpd file of the model: what `unpack` does, undone.

    Returns how many matrices are ``coded`` and the file's ``bytes``. Raises `InputError` where the folder's weights are no codes of
    compand, `FormatError` where they are damaged.
    """
    source = _Coded(folder)
    try:
        report = pack(source, path, spec=lambda name, shape, dtype: source.codes(name), overwrite=overwrite, check=False)
    finally:
        source.close()
    return {"coded": len(source.coded), "bytes": report.file_bytes}


class _Coded(Folder):
    """An opened folder of codes; its items are those of the plain folder."""

    def __init__(self, path):
        super().__init__(path)
        try:
            config = json.loads(Path(path, "config.json").read_bytes())
            found = config.pop("quantization_config")
            if found.pop("quant_method") != "compand":
                raise KeyError
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{path}: config.json has no quantization_config of compand; `compress` takes plain folders") from None
        raw = {item.name: item for item in super().items()}
        own = config.get("dtype") or config.get("torch_dtype")
        dtype = own if own in _DTYPES else "float32"
        self.coded: dict[str, tuple[Codec, Form, str, str]] = {}
        self._items: list[Item] = []
        try:
            settings, shapes, embedding = CompandConfig(**found), *_linear(path)
        except CompandError as e:
            raise FormatError(f"{path}: config.json: {e}") from None
        except Exception as e:  # of transformers, which takes any JSON
            raise FormatError(f"{path}: config.json is damaged ({type(e).__name__}: {str(e)[:120]})") from None
        self.raw = raw
        for name, item in raw.items():
            module, _, last = name.rpartition(".")
            if last == "weight" and item.dtype == "uint8" and module in shapes and (spec := settings.spec_of(module)) is not None:
                form, head = shapes[module]
                full = embedding if head and settings.head and embedding not in raw else name
                self.coded[full] = Codec(spec), form, module, dtype
                self._items.append(Item(full, tuple(form[:2]), dtype, lambda full=full: self._decoded(full)))
        if not self.coded:
            raise InputError(f"{path}: no weights are codes")
        modules = {module: codec for codec, _, module, _ in self.coded.values()}
        for name, item in raw.items():
            module, _, last = name.rpartition(".")
            if module not in modules or last not in places_of(modules[module], shapes[module][0]):
                self._items.append(item)
        if embedding in self.coded:
            config["tie_word_embeddings"] = True
        for shard in self.shards:
            del self.files[f"{shard}:header"]
        self.files["model.safetensors:header"] = new_header([(i.name, i.shape, i.dtype) for i in self._items])
        self.meta["shards"] = ["model.safetensors"]
        self.files.pop("model.safetensors.index.json", None)
        self.meta["files"] = [n for n in self.meta["files"] if n != "model.safetensors.index.json"]
        self.files["config.json"] = json.dumps(config, indent=2).encode()

    def items(self):
        yield from self._items

    def codes(self, name: str) -> Codes | None:
        """The codes of a matrix; None for what is not coded."""
        if name not in self.coded:
            return None
        codec, form, module, dtype = self.coded[name]
        try:
            buffers = {b: self.raw[f"{module}.{b}"].load() for b in places_of(codec, form) if f"{module}.{b}" in self.raw}
            return replace(codes_of(codec, form, buffers), dtype=dtype)
        except InputError as e:
            raise FormatError(f"{self.path}: {module}: {e}") from None

    def _decoded(self, name: str):
        codes = self.codes(name)
        return codes.codec.decode(codes)  # type: ignore[union-attr]


def _linear(path) -> tuple[dict[str, tuple[Form, bool]], str]:
    """The form of each linear layer of the model and whether it is the head, and the embedding's name."""
    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    shapes = {n: (Form(m.out_features, m.in_features), m is head) for n, m in model.named_modules() if type(m) is nn.Linear}
    return shapes, next(n for n, m in model.named_modules() if m is embedding) + ".weight"
