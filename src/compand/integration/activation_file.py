"""How the inputs of layers are coded, kept beside a model's weights: W8A8, W4A8 and W4A4 in a .cpd file.

The file ACTIVATIONS of the model's folder has an entry for each layer, named as the layer: no rows, under the codec of its inputs, with the
scales that were fitted; and NAME.bias where the layer has none of its own. The weights' codes begin with the transforms that fit them to
what inputs are turned to, so that they decode to the weights as they are, for any program that does not code inputs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..codec import Codec
from ..codes import Codes
from ..errors import FormatError, InputError, OverwriteError
from ..expression import Chain
from ..file import File
from ..file import open as open_file
from ..stage import Stage
from ..stage import replace as changed
from ..transform.scale import Scale
from ..writer import Writer
from . import module_file, module_fit
from .activation_fit import in_domain, quantize
from .encoder import BATCH, is_encoder, open_encoder, sentences
from .language import Language, transformers

ACTIVATIONS = "activations.cpd"
SAME = ("hadamard", "rotate", "permute")  # orthonormal: weights are turned as inputs are


class Coding(NamedTuple):
    """The codec of a layer's inputs, how many they are, and the bias of a layer that has none in the model: float32 (n,)."""

    inputs: Codec
    width: int
    bias: np.ndarray | None


def specs_of(inputs: str, bits: int) -> tuple[str, str]:
    """The specs of inputs and of weights for ``--activations`` and ``--bits``: whole bits, or a spec of inputs.

    >>> specs_of("8", 4)
    ('int:8:search=absmax', 'int:4')
    """
    if inputs.isdecimal():
        inputs = f"int:{inputs}:search=absmax" if int(inputs) > 6 else f"hadamard,int:{inputs}"
    return str(Codec(inputs).stage), f"int:{bits}"


def turned_back(inputs: Codec) -> tuple[Stage, ...]:
    """The transforms that weights go through where inputs go through those of a codec, so that products stay: x wᵀ = T(x) T'(w)ᵀ.

    Raises `InputError` for transforms that no file can hold.
    """
    stage: Any = inputs.stage
    found: list[Stage] = []
    for t in stage.transforms if isinstance(stage, Chain) else ():
        if t.name in SAME and getattr(t, "odd", "split") != "pad":
            found.append(t)
        elif t.name == "smooth" or (t.name == "scale" and t.per == "column"):
            if not hasattr(t, "scale_"):
                continue  # not fitted yet
            scale = np.where(t.scale_ == 0, 1, t.scale_).astype(np.float64)
            found.append(changed(Scale("absmax", "column"), scale_=(1 / scale).astype(np.float32)))
        else:
            raise InputError(f"{t}: inputs of layers that are kept in a file go through {', '.join(SAME)}, smooth or scale:absmax:column")
    return tuple(found)


def plain(codes: Codes, inputs: Codec) -> Codes:
    """Codes of weights that were coded for what transforms make of inputs, as codes of the weights themselves."""
    before, stage = turned_back(inputs), codes.codec.stage
    if not before:
        return codes
    items = stage.items if isinstance(stage, Chain) else (stage,)
    return _renamed(codes, Codec(Chain((*before, *items))), lambda path: _moved(path, len(before), isinstance(stage, Chain)))


def inner(codes: Codes, inputs: Codec) -> Codes:
    """What `plain` was given. Raises `FormatError` if the codes do not begin with the transforms of the inputs' codec."""
    before, stage = turned_back(inputs), codes.codec.stage
    if not before:
        return codes
    n = len(before)
    if not isinstance(stage, Chain) or stage.items[:n] != before or len(stage.items) == n:
        raise FormatError(f"weights coded by {stage} do not go with inputs coded by {inputs.stage}")
    rest = stage.items[n:]
    return _renamed(codes, Codec(rest[0] if len(rest) == 1 else Chain(rest)), lambda path: _moved(path, -n, True, len(rest) == 1))


def _moved(path: str, by: int, chain: bool, alone: bool = False) -> str:
    """The path of a part whose stage stands further on, or further ahead, in the chain."""
    if not chain:
        return f"{by}.{path}"
    at, _, name = path.partition(".")
    return name if alone else f"{int(at) + by}.{name}"


def _renamed(codes: Codes, codec: Codec, name: Callable[[str], str]) -> Codes:
    return replace(codes, codec=codec, blocks=tuple(replace(b, parts={name(k): v for k, v in b.parts.items()}) for b in codes.blocks))


def compress(model, out, weights: str, text, *, inputs: str, sequences: int = 128, length: int = 256, damping: float = 0.02,
             overwrite: bool = False, progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write the encoder or decoder in the folder ``model`` to the .cpd file ``out``, linear layers and their inputs coded, fitted to text.

    weights, inputs : specs, as ``int:4`` and ``int:8:search=absmax``
    text : for decoders also tokens (n, length)

    The whole model is in memory. See `write`; also returned are ``seconds`` and ``inputs``. Raises `OverwriteError` if ``out`` exists.
    """
    torch, library = transformers()
    if Path(out).exists() and not overwrite:
        raise OverwriteError(f"{out} exists; say overwrite=True to replace it")
    start, inputs = time.perf_counter(), str(Codec(inputs).stage)
    turned_back(Codec(inputs))
    if is_encoder(model):
        net, tokenizer = open_encoder(model)
        rows = sorted((tokenizer(s, truncation=True, max_length=length)["input_ids"] for s in sentences(text, sequences)), key=len)
        batches = [torch.tensor([r[:len(rows[at]) - 1] + r[-1:] for r in rows[at:at + BATCH]]) for at in range(0, len(rows), BATCH)]
        found = write(model, out, net, lambda x: net(input_ids=x), batches, inputs, weights, damping=damping, overwrite=overwrite,
                      progress=progress)
    else:
        language = Language(model)
        try:
            batches = list(language.tokens(text, min(length, language.config.max_position_embeddings), sequences).split(4))
        finally:
            language.close()
        net = library.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        found = write(model, out, net, lambda x: net(input_ids=x, use_cache=False), batches, inputs, weights, damping=damping,
                      overwrite=overwrite, progress=progress)
    return {**found, "inputs": inputs, "seconds": time.perf_counter() - start}


def write(folder, out, net, run: Callable[[Any], Any], batches: Sequence[Any], inputs: str, weights: str, *, damping: float = 0.02,
             overwrite: bool = False, progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Code a torch model's linear layers and their inputs, fitted to batches, and write it with its folder to the file ``out``.

    Embeddings and the head are coded as weights alone: ``hadamard`` and ``weights``. Returns what `module_file.write` does.
    """
    import torch

    head = net.get_output_embeddings() if hasattr(net, "get_output_embeddings") else None
    rest = module_fit.chooser(net, f"hadamard,{weights}")
    found = module_fit.fit(net, run, batches, lambda n, m: rest(n, m) if m is head or isinstance(m, torch.nn.Embedding) else None,
                           damping=damping)

    def choose(_, module):
        return None if module is head else (inputs, weights)

    before = {n: m.weight.detach().float().numpy() for n, m in net.named_modules() if isinstance(m, torch.nn.Linear)}
    biased = {n for n, m in net.named_modules() if isinstance(m, torch.nn.Linear) and m.bias is not None}
    codings: dict[str, Coding] = {}
    for name in quantize(net, run, batches, choose, damping=damping, progress=progress):
        layer = net.get_submodule(name)
        bias = None if layer.bias is None else layer.bias.detach().float().numpy()
        codings[name] = Coding(layer.inputs, before[name].shape[1], None if name in biased else bias)
        if name in biased:
            found.biases[f"{name}.bias"] = bias
        codes = found.codes[f"{name}.weight"] = plain(layer.codes, layer.inputs)
        w, w_hat = before[name].astype(np.float64), np.asarray(codes.codec.decode(codes), np.float64)
        found.lost[f"{name}.weight"] = float(np.square(w_hat - w).sum() / max(np.square(w).sum(), 1e-300))
    return module_file.write(folder, out, found, files={ACTIVATIONS: packed(codings)}, overwrite=overwrite)


def packed(codings: Mapping[str, Coding]) -> bytes:
    """The file ACTIVATIONS."""
    with tempfile.TemporaryDirectory(prefix="compand-") as work:
        path = Path(work, ACTIVATIONS)
        with Writer(path) as file:
            for name, (inputs, width, bias) in codings.items():
                file.write_codes(name, inputs.encode(np.zeros((0, width), np.float32)))
                if bias is not None:
                    file.write(f"{name}.bias", bias, "raw")
        return path.read_bytes()


class Codings:
    """What the file ACTIVATIONS of a folder says, and where the weights' codes are: in the .cpd file the folder came from, if it is known.

    Without codes weights are taken as they are in the folder, and products are of floats: the same but for their last bits. Raises
    `FormatError` for a file that says something else than how inputs are coded.
    """

    def __init__(self, folder, coded=None):
        self.layers: dict[str, Coding] = {}
        path = Path(folder, ACTIVATIONS)
        self.coded = Path(coded) if coded is not None and Path(coded).is_file() else None
        if not path.is_file():
            return
        with open_file(path) as file:
            biases = {n for n in file.names if n.endswith(".bias") and n.removesuffix(".bias") in file}
            for name in (n for n in file.names if n not in biases):
                bias = file[f"{name}.bias"].array() if f"{name}.bias" in biases else None
                if bias is not None and (bias.ndim != 1 or bias.dtype != np.float32 or not np.isfinite(bias).all()):
                    raise FormatError(f"{path}: the bias of {name} is not one row of finite float32")
                codec, shape = file[name].codec, file[name].shape
                stage: Any = codec.stage
                if stage.kind != "quantizer" or stage.raw or len(shape) != 2:
                    raise FormatError(f"{path}: {name} is no row of inputs that {stage} codes")
                turned_back(codec)
                stage.require(codec.form((1, shape[1]), "float32"))
                self.layers[name] = Coding(codec, shape[1], bias)

    def __bool__(self) -> bool:
        return bool(self.layers)

    def put(self, module, prefix: str = "") -> list[tuple[Any, str, Any]]:
        """Replace the linear layers of a module (at ``prefix`` of the model) by layers on codes; (owner, name, layer before) of each.

        Raises `FormatError` if a layer is missing or has another width.
        """
        import torch

        from ..torch.activation import CodedInputs

        with ExitStack() as stack:
            file = stack.enter_context(open_file(self.coded)) if self.coded and self.layers else None
            done, known = [], dict(module.named_modules())
            for name, (inputs, width, bias) in self.layers.items():
                if prefix and not name.startswith(f"{prefix}."):
                    continue
                own = name.removeprefix(f"{prefix}.") if prefix else name
                linear = known.get(own)
                if not isinstance(linear, torch.nn.Linear) or linear.in_features != width:
                    raise FormatError(f"the file says how {width} inputs of {name} are coded; the model has no such linear layer")
                if bias is not None and len(bias) != linear.out_features:
                    raise FormatError(f"{name}: a bias of {len(bias)} values for {linear.out_features} outputs")
                given = linear.bias if bias is None else torch.from_numpy(bias.copy())
                layer = CodedInputs(inputs, self._codes(file, name, linear, inputs), given)
                owner, _, last = own.rpartition(".")
                done.append((module.get_submodule(owner), last, linear))
                setattr(done[-1][0], last, layer)
        return done

    def _codes(self, file: File | None, name: str, linear, inputs: Codec) -> Codes:
        full = module_file.stored(file.names, f"{name}.weight") if file is not None else None
        if file is None or full is None:
            return Codec("raw").encode(in_domain(inputs, linear.weight.detach().float().numpy())[0])
        codes = inner(file[full].codes(), inputs)
        if codes.shape != (linear.out_features, linear.in_features):
            raise FormatError(f"{full} has shape {list(codes.shape)}, the model wants {[linear.out_features, linear.in_features]}")
        return codes

    @contextmanager
    def within(self, module, prefix: str) -> Iterator[None]:
        """Layers of a module on codes, inside the block."""
        done = self.put(module, prefix) if self.layers else []
        try:
            yield
        finally:
            for owner, name, layer in done:
                setattr(owner, name, layer)
