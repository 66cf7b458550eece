"""Folders of models whose weights are a .cpd file: a plain ``from_pretrained`` of transformers loads them."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from .file import unpack

NAME = "model.cpd"
_OTHERS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def cpd_of(path) -> Path | None:
    """The model.cpd of a folder without other weights; None for any other path or name of a model."""
    try:
        folder = Path(path)
        found = (folder / NAME).is_file() and not any((folder / other).exists() for other in _OTHERS)
    except (TypeError, ValueError, OSError):
        return None
    return folder / NAME if found else None


def register() -> None:
    """Let models of transformers load from such folders: they are unpacked into a temporary one, as `unpack` does."""
    known = PreTrainedModel.from_pretrained.__func__
    if hasattr(known, "of_compand"):
        return

    @functools.wraps(known)
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args: Any, config=None, **kwargs: Any):
        file = None if pretrained_model_name_or_path is None or kwargs.get("gguf_file") else cpd_of(pretrained_model_name_or_path)
        if file is None:
            return known(cls, pretrained_model_name_or_path, *args, config=config, **kwargs)
        with tempfile.TemporaryDirectory(prefix="compand-") as folder:
            inner = unpack(file, Path(folder, "model"))
            if hasattr(config, "to_dict"):  # the caller's, as of ``AutoModelForCausalLM``, which has read the folder's own
                own = json.loads((inner / "config.json").read_text())
                config.quantization_config = own["quantization_config"]
                config.tie_word_embeddings = own.get("tie_word_embeddings", getattr(config, "tie_word_embeddings", True))
            model = known(cls, inner, *args, config=config, **kwargs)
        whole, out = (model, ()) if not isinstance(model, tuple) else (model[0], model[1:])
        whole.config._name_or_path = whole.name_or_path = str(pretrained_model_name_or_path)
        return (whole, *out) if out else whole

    from_pretrained.of_compand = True  # type: ignore[attr-defined]
    PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # type: ignore[assignment]
