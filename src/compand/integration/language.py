"""Decoder language models of Hugging Face transformers, opened a layer at a time. Needs ``pip install compand[hf]``."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..array import to_numpy
from ..errors import FormatError, InputError
from ..modality import detect, unpack
from ..modality.source import Item

LIKELY = 128  # tokens of a position whose probabilities are compared where all would cost too much


def transformers() -> tuple[Any, Any]:
    """The modules torch and transformers, whose remarks and bars are off; `InputError` if they are not installed."""
    try:
        import torch
        import transformers as found
    except ImportError as e:
        raise InputError(f"language models need {e.name}: pip install 'compand[hf]'") from None
    found.logging.set_verbosity_error()
    found.logging.disable_progress_bar()
    return torch, found


@contextlib.contextmanager
def as_folder(path) -> Iterator[Path]:
    """A model folder as it is, or a .cpd of one restored in a temporary folder."""
    path = Path(path)
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="compand-") as folder:
        out = Path(folder, "model")
        unpack(path, out)
        if not out.is_dir():
            raise FormatError(f"{path} does not hold a model folder")
        yield out


def rate(model, reference) -> dict[str, Any]:
    """``bits`` (for each value of the folder ``reference``) and ``bytes`` of a model, a folder or a file, with everything in it."""
    model = Path(model)
    with detect(reference) as source:
        values = sum(item.size for item in source.items())
    size = model.stat().st_size if model.is_file() else sum(p.stat().st_size for p in model.rglob("*") if p.is_file())
    return {"bits": 8 * size / max(values, 1), "bytes": size}


def is_decoder(folder) -> bool:
    """Whether a model folder says that its model is a decoder that writes text."""
    try:
        config = json.loads(Path(folder, "config.json").read_bytes())
        return any(str(k).endswith(("ForCausalLM", "LMHeadModel")) for k in config.get("architectures") or [])
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


def device_of(name: str = "auto"):
    """The torch device of a name: auto is a GPU if there is one, else the CPU. Raises `InputError` for one that is not here."""
    torch, _ = transformers()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"the device is auto, cpu or cuda, not {name!r}")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"torch finds no GPU for the device {name}; leave it out, or say cpu")
    return torch.device(name)


class Language:
    """A decoder model whose layers are on the disk until asked for.

    ``body`` is the transformers model without head, ``layers`` its blocks; parameters are empty (device meta) until `load`. Tokens and
    what is loaded are on ``device``.
    """

    def __init__(self, folder, device: str = "cpu"):
        torch, library = transformers()
        self.folder = Path(folder)
        if not (self.folder / "config.json").is_file():
            raise FormatError(f"{folder}: no config.json; this takes a Hugging Face model folder")
        self.source = detect(self.folder)
        self.items: dict[str, Item] = {item.name: item for item in self.source.items()}
        self.config = library.AutoConfig.from_pretrained(self.folder)
        self.tokenizer = library.AutoTokenizer.from_pretrained(self.folder)
        with _empty(torch):
            self.model = library.AutoModelForCausalLM.from_config(self.config, dtype=torch.float32)
        self.model.train(False)
        self.device = device_of(device)
        for module in self.model.modules() if self.device.type != "cpu" else ():
            for name, b in list(module.named_buffers(recurse=False)):
                setattr(module, name, b.to(self.device))
        self.body = self.model.model if hasattr(self.model, "model") else self.model.base_model
        layers = getattr(self.body, "layers", None)
        if layers is None or not len(layers):
            raise InputError(f"{type(self.model).__name__}: no list of decoder layers was found in it")
        self.layers = layers
        self.names = {id(module): name for name, module in self.model.named_modules()}
        self.head = self.model.get_output_embeddings()
        self.embedding = self.model.get_input_embeddings()
        self.tied = f"{self.names[id(self.head)]}.weight" not in self.items

    def close(self) -> None:
        """Let the files go."""
        self.source.close()

    def weight(self, name: str) -> np.ndarray:
        """A tensor of the folder: float32."""
        if name not in self.items:
            raise FormatError(f"{self.folder}: no tensor {name!r}")
        return np.asarray(self.items[name].load()).astype(np.float32)

    def load(self, module, replaced: dict[str, np.ndarray] | None = None):
        """The module with its tensors in memory; ``replaced`` are tensors to use instead, by name."""
        torch, _ = transformers()
        prefix = self.names[id(module)]
        for name, p in list(module.named_parameters()):
            if p.device.type != "meta":
                continue
            full = f"{prefix}.{name}" if prefix else name
            value = (replaced or {}).get(full)
            value = self.weight(full) if value is None else value
            if tuple(value.shape) != tuple(p.shape):
                raise FormatError(f"{full} has shape {list(value.shape)}, the model wants {list(p.shape)}")
            owner, _, own = name.rpartition(".")
            aligned = torch.from_numpy(np.ascontiguousarray(value)).clone()  # the last bits of products depend on alignment
            parameter = torch.nn.Parameter(aligned.to(self.device), requires_grad=False)
            setattr(module.get_submodule(owner), own, parameter)
        return module

    def drop(self, module) -> None:
        """Empty the module's parameters again; what else it keeps, as the scale of Gemma's embedding, stays."""
        torch, _ = transformers()
        for one in module.modules():
            for name, p in list(one.named_parameters(recurse=False)):
                setattr(one, name, torch.nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False))

    def arguments(self, ids) -> list[dict[str, Any]]:
        """What the body passes to each layer besides the hidden states, for sequences of this length."""
        seen: list[dict[str, Any]] = []

        class Stop(Exception):
            pass

        def spy(index):
            def forward(hidden, *args, **kwargs):
                seen.append({k: v for k, v in kwargs.items() if k not in ("past_key_values", "past_key_value", "use_cache")})
                if index == len(self.layers) - 1:
                    raise Stop
                return hidden
            return forward

        kept = [layer.forward for layer in self.layers]
        try:
            for i, layer in enumerate(self.layers):
                layer.forward = spy(i)
            with contextlib.suppress(Stop):
                self.body(input_ids=ids, use_cache=False)
        finally:
            for layer, forward in zip(self.layers, kept, strict=True):
                layer.forward = forward
        return seen

    def tokens(self, text, length: int, sequences: int | None = None):
        """The first tokens of the text as sequences: int64 (at most sequences, length), each with the model's own start.

        Words that look like special tokens (``<unk>``) are text. Tokens (n, length or more) in place of text are cut.
        """
        torch, _ = transformers()
        if not isinstance(text, str):
            ids = torch.as_tensor(text, dtype=torch.int64)
            if ids.ndim != 2 or ids.shape[1] < length or not len(ids) or not 0 <= int(ids.min()) <= int(ids.max()) < self.config.vocab_size:
                raise InputError(f"tokens of shape {list(ids.shape)} where (n, {length}) below {self.config.vocab_size} belong")
            return ids[:sequences, :length].to(self.device)
        start = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
        step = length - len(start)
        most = None if sequences is None else sequences * step * 12  # characters: enough for any language
        ids = self.tokenizer(text[:most], add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        count = min(len(ids) // step, sequences or len(ids))
        if not count:
            raise InputError(f"the text has {len(ids)} tokens, {step} are needed; give more text")
        return torch.tensor([start + ids[i * step:(i + 1) * step] for i in range(count)], device=self.device)

    def there(self, x: np.ndarray):
        """An array as a tensor where the model is."""
        return transformers()[0].from_numpy(x).to(self.device)

    def counts(self, text) -> np.ndarray:
        """How often each token occurs in all of a text, or in tokens, and a hundredth more: float64 (vocabulary,)."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"] \
            if isinstance(text, str) else to_numpy(text).reshape(-1)
        size = self.head.weight.shape[0]
        return np.bincount(np.asarray(ids, np.int64), minlength=size)[:size] + 0.01

    def whole(self) -> None:
        """All of the model in memory."""
        for module in (self.embedding, *self.body.children()):
            for one in module if module is self.layers else (module,):
                self.load(one)
        if self.tied:
            self.head.weight = self.embedding.weight
        else:
            self.load(self.head)

    def states(self, row):
        """What the head reads for one sequence of a `whole` model: (length, d)."""
        return self.body(input_ids=row[None], use_cache=False).last_hidden_state[0]

    def likely(self, hidden) -> tuple[Any, Any]:
        """The likeliest `LIKELY` tokens of each position (length, k), and their log probabilities among each other."""
        pieces = [self.logits(hidden[at:at + 64]).topk(min(LIKELY, self.config.vocab_size), dim=-1) for at in range(0, len(hidden), 64)]
        torch, _ = transformers()
        return torch.cat([p.indices for p in pieces]), torch.cat([p.values for p in pieces]).log_softmax(-1)

    def divergence(self, hidden, tokens, wanted):
        """Mean KL(wanted || model) in nats over what `likely` gave; tokens outside of it are not looked at."""
        torch, _ = transformers()
        total = 0.0
        for at in range(0, len(hidden), 64):
            z = self._capped(torch.einsum("td,tkd->tk", hidden[at:at + 64], self.head.weight[tokens[at:at + 64]]))
            p = wanted[at:at + 64]
            total = total + (p.exp() * (p - z.log_softmax(-1))).sum()
        return total / len(hidden)

    def logits(self, hidden):
        """The head's output for hidden states of the body."""
        return self._capped(self.head(hidden))

    def _capped(self, y):
        cap = getattr(self.config, "final_logit_softcapping", None)
        return y if not cap else (y / cap).tanh() * cap


@contextlib.contextmanager
def _empty(torch) -> Iterator[None]:
    """Modules made inside have empty parameters and real buffers."""
    original = torch.nn.Module.register_parameter

    def register(self, name, parameter):
        if parameter is not None:
            parameter = torch.nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        original(self, name, parameter)

    torch.nn.Module.register_parameter = register
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = original
