"""Classifiers of pictures (ResNet, EfficientNet, MobileNet, ViT and their kind) compressed, and measured by the classes they give.

Needs ``pip install compand[hf,image]``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CompandError, FormatError, InputError, OverwriteError
from ..modality import detect
from ..modality.image import SUFFIXES, read
from . import module_file, module_fit
from .batch_norm import fold, norms_after
from .language import as_folder, rate, transformers

BATCH = 8
SMALL = 64    # weights of an output below which a layer keeps 8 bits
SURE = 0.5    # probability of the likeliest class above which the original is sure


def is_vision(folder) -> bool:
    """Whether a model folder says that its model tells what is in a picture."""
    try:
        config = json.loads(Path(folder, "config.json").read_bytes())
        return any(str(k).endswith("ForImageClassification") for k in config.get("architectures") or [])
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


def open_classifier(folder):
    """The torch model (float32, eval) and the processor of a folder. `FormatError` if transformers cannot open it."""
    torch, library = transformers()
    try:
        net = library.AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
        return net, library.AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as e:
        raise FormatError(f"{folder}: transformers cannot open it: {str(e)[:200]}") from None


def pictures(path) -> list[Path]:
    """The picture, or all pictures below a folder in order of their names. Raises `InputError` if there are none."""
    path = Path(path)
    kinds = (*SUFFIXES, ".cpd")
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in kinds) if path.is_dir() else [path]
    if not found:
        raise InputError(f"{path}: no pictures ({', '.join(SUFFIXES)}) in this folder")
    return found


def contents(paths: Sequence[Path]) -> bytes:
    """The SHA-256 of each picture's file, for a card."""
    return b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)


def pixels(processor, paths: Sequence[Path | np.ndarray]):
    """Pictures (files, or arrays of them) as the model takes them: float32 (n, channels, h, w)."""
    found = []
    for path in paths:
        x = path if isinstance(path, np.ndarray) else read(path)
        x = np.stack([x] * 3, axis=-1) if x.ndim == 2 else x[..., :3]
        x = (x >> 8).astype(np.uint8) if x.dtype == np.uint16 else x
        try:
            found.append(np.asarray(processor(x, return_tensors="np", input_data_format="channels_last")["pixel_values"], np.float32))
        except CompandError:
            raise
        except Exception as e:  # whatever a processor of another library says of a picture
            raise InputError(f"{path if isinstance(path, Path) else 'picture'}: the processor refuses it ({str(e)[:100]})") from None
    if len({x.shape for x in found}) > 1:
        raise InputError("the model's processor gives pictures of different sizes; set crop_size or height and width in its "
                         "preprocessor_config.json")
    return transformers()[0].from_numpy(np.concatenate(found))


def choose(spec: str) -> Callable[[str, Any], str | None]:
    """What `module_fit.fit` asks about a net of convolutions: ``spec``, and 8 bits for depthwise convolutions and what meets the pixels.

    These are a hundredth of most nets, and lose more at few bits than all the rest.
    """
    def of(name: str, module) -> str | None:
        seen = getattr(module, "in_channels", SMALL)
        return "int:8" if seen <= 4 or module.weight[0].numel() < SMALL else spec
    return of


def fit(net, batches: Sequence[Any], spec: str | Callable[[str, Any], str | None], *, run: Callable[[Any], Any] | None = None,
        damping: float = 0.02, progress: Callable[[int, int, str], None] | None = None) -> tuple[module_fit.Fitted, dict[str, np.ndarray]]:
    """Fold a net's batch norms, code its layers, and give the codes and what other tensors become.

    A folded norm is left as the shift that its layer's bias is: mean -bias, variance 1 - ε, weight 1, bias 0; so the net's own class
    loads the result. See `module_fit.fit` for ``run`` and the rest; ``spec`` may be a function as that takes.
    """
    run = run or net
    modules = dict(net.named_modules())
    pairs = norms_after(net, run, batches[0])
    own = {layer: modules[layer].bias is not None for layer in pairs}
    fold(net, run, batches[0])
    found = module_fit.fit(net, run, batches, spec if callable(spec) else choose(spec), damping=damping, progress=progress)
    moved: dict[str, np.ndarray] = {}
    for layer, norm in pairs.items():
        bias, n = modules[layer].bias.detach().float().numpy(), modules[norm]
        if f"{layer}.weight" not in found.codes:
            moved[f"{layer}.weight"] = modules[layer].weight.detach().float().numpy()
        if own[layer]:
            moved[f"{layer}.bias"] = bias
        moved[f"{norm}.running_mean"] = np.zeros_like(bias) if own[layer] else -bias
        moved[f"{norm}.running_var"] = np.full_like(bias, 1 - n.eps)
        moved[f"{norm}.weight"], moved[f"{norm}.bias"] = np.ones_like(bias), np.zeros_like(bias)
    return found, moved


def compress(model, out, spec: str, paths: Sequence[Path] | None, *, count: int = 64, seed: int = 0, damping: float = 0.02,
             overwrite: bool = False, progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write the classifier in the folder ``model`` to the .cpd file ``out``, every layer fitted to pictures.

    At most ``count`` evenly spaced ones of ``paths`` are used. Without paths they are made from what the model's batch norms remember
    (`compand.integration.synthesis`). Returns sizes, ``lost`` by tensor, seconds and remarks. Raises `InputError` for a model without
    batch norms and no pictures, `OverwriteError` if ``out`` exists.
    """
    if Path(out).exists() and not overwrite:
        raise OverwriteError(f"{out} exists; say overwrite=True to replace it")
    start = time.perf_counter()
    net, processor = open_classifier(model)
    if paths is None:
        from .synthesis import synthesise

        blank = pixels(processor, [np.full((512, 512, 3), v, np.uint8) for v in (0, 255)])
        bounds = float(blank.min()), float(blank.max())
        batches = synthesise(net, blank.shape[1:], count, bounds=bounds, seed=seed, progress=progress)
    else:
        step = max(1, len(paths) // count)
        batches = list(pixels(processor, list(paths)[::step][:count]).split(BATCH))
    found, moved = fit(net, batches, spec, damping=damping, progress=progress)
    names = saved_names(net, [*found.codes, *found.biases, *moved])
    found.codes, found.biases, moved = ({names[k]: v for k, v in part.items()} for part in (found.codes, found.biases, moved))
    with detect(model) as source:
        held = {item.name for item in source.items()}
    if lost := [name for name in found.codes if module_file.stored(held, name) is None]:
        raise InputError(f"{model}: its files have no {', '.join(lost[:3])}, as its class calls them; load the model with transformers "
                         "and save it again")
    return {**module_file.write(model, out, found, moved=moved, overwrite=overwrite), "seconds": time.perf_counter() - start,
            "pictures": sum(map(len, batches))}


def saved_names(net, names: Sequence[str]) -> dict[str, str]:
    """What tensors of a transformers model are called in its files, by what its class calls them now (release 5 renamed some)."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return {name: name for name in names}
    torch, found = transformers()[0], {}
    for name in names:
        try:
            said = list(revert_weight_conversion(net, {name: torch.empty(0)}))
        except (RuntimeError, ValueError, KeyError, IndexError):  # what is no renaming needs the tensor
            said = []
        found[name] = said[0] if len(said) == 1 else name
    return found


def evaluate(model, reference, paths: Sequence[Path], *, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """A classifier (folder or .cpd) against the one it came from, on pictures.

    Returns ``bits`` (file bits a parameter) and what `agreement` says; where the pictures lie in folders that are named as the model's
    classes are, also how often each is right: ``accuracy``, ``accuracy_reference``.
    """
    torch, _ = transformers()
    with as_folder(model) as own, as_folder(reference) as other, torch.no_grad():
        for folder, path in ((own, model), (other, reference)):
            if not is_vision(folder):
                raise InputError(f"{path} does not hold a classifier of pictures")
        (base, processor), (net, _) = (open_classifier(f) for f in (other, own))
        logits: tuple[list, list] = ([], [])
        for at in range(0, len(paths), BATCH):
            if progress:
                progress(at, len(paths))
            x = pixels(processor, paths[at:at + BATCH])
            for each, m in zip(logits, (base, net), strict=True):
                each.append(m(x).logits.numpy())
        size = rate(model, other)
    a, b = (np.concatenate(each) for each in logits)
    found = {**size, **agreement(a, b)}
    names = {str(v).lower(): int(k) for k, v in (base.config.id2label or {}).items()}
    labels = [names.get(p.parent.name.lower(), -1) for p in paths]
    if min(labels) >= 0:
        found |= {name: float((x.argmax(1) == labels).mean()) for name, x in (("accuracy", b), ("accuracy_reference", a))}
    return found


def agreement(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """How far the classes of pictures stay, from logits (n, classes) of the original and of what became of it.

    ``top1``: the share of pictures whose likeliest class is the same; ``top1_sure``: of those where the original gives it more than one
    half (None without such), ``sure``: how many these are; ``kld``: mean of KL(original || compressed) in nats, ``kld_99``: its 99th
    percentile; ``pictures``.

    >>> found = agreement(np.float32([[9, 0, 0], [1, 0.9, 0]]), np.float32([[8, 0, 0], [0.9, 1, 0]]))
    >>> found["top1"], found["top1_sure"], found["sure"]
    (0.5, 1.0, 1)
    """
    p, q = (x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64), axis=1, keepdims=True) for x in (before, after))
    same, sure = before.argmax(1) == after.argmax(1), np.exp(p).max(1) > SURE
    kld = (np.exp(p) * (p - q)).sum(1)
    return {"top1": float(same.mean()), "top1_sure": float(same[sure].mean()) if sure.any() else None, "sure": int(sure.sum()),
            "kld": float(kld.mean()), "kld_99": float(np.quantile(kld, 0.99)), "pictures": len(same)}
