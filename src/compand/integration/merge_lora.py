"""LoRA adapters as PEFT saves them, merged into the safetensors of their base model without loading either."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, InputError, UnsupportedError
from ..modality.hf import Folder, safe_path
from ..modality.output import whole_folder
from ..modality.safetensors import Shard, entry_names, write_shard
from .language import as_folder

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
FLOATS = ("bfloat16", "float16", "float32", "float64")
STARTS = ("gaussian", "eva", "orthogonal")  # ways to begin that leave the base as it is; PiSSA, OLoRA, LoftQ, CorDA change it
REFUSED = {"use_dora": "DoRA scales whole columns by magnitudes", "use_qalora": "QA-LoRA pools the inputs",
           "layer_replication": "layers are replicated", "target_parameters": "it targets bare parameters",
           "trainable_token_indices": "it trains single tokens", "alora_invocation_tokens": "aLoRA acts on some tokens only",
           "megatron_config": "it is sharded by Megatron"}
_FACTOR = re.compile(r"(.+)\.lora_(?:(embedding_)(A|B)|(A|B)\.(weight|bias))")
_PLAIN = re.compile(r"\^?[\w.\-]+")


class Adapter:
    """An opened adapter folder. ``factors``: module → (A (r, in, ...), B (out, r, ...)) and the scale; ``whole``: tensors to put in place.

    Raises `FormatError` for what is not an adapter, `UnsupportedError` for one whose change is not s · B A.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.config = _config(self.path / CONFIG)
        if not (self.path / TENSORS).is_file():
            raise FormatError(f"{self.path}: no {TENSORS}; save the adapter as safetensors")
        self.shard = Shard(self.path / TENSORS)
        self.factors: dict[str, dict[str, Any]] = {}
        self.whole: dict[str, Any] = {}
        for t in self.shard.tensors:
            name = t.name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".modules_to_save.", ".")
            if t.dtype not in FLOATS:
                raise UnsupportedError(f"{self.path}: {t.name[:80]!r} is {t.dtype}; adapters are read as {', '.join(FLOATS)}")
            if found := _FACTOR.fullmatch(name):
                key = (found[3] or found[4]) + (".bias" if found[5] == "bias" else "")
                home = self.factors.setdefault(found[1], {"embedding": bool(found[2])})
            elif "lora_" in name:
                raise UnsupportedError(f"{self.path}: {t.name[:80]!r} is no factor of a plain LoRA")
            else:
                key, home = name, self.whole
            if key in home:
                raise FormatError(f"{self.path}: two tensors are {name[:80]!r}")
            home[key] = t
        for module, own in self.factors.items():
            if not {"A", "B"} <= own.keys() or "A.bias" in own:
                raise FormatError(f"{self.path}: {module[:80]!r} has {', '.join(sorted(own.keys() - {'embedding'}))}, not a pair A and B")
            a, b, rank = own["A"].shape, own["B"].shape, self._pattern("rank_pattern", module, "r")
            if len(a) < 2 or len(b) < 2 or not a[0] == b[1] == rank or math.prod(b[2:]) != 1:
                raise FormatError(f"{self.path}: {module[:80]!r} has A {list(a)} and B {list(b)}, the rank is said to be {rank}")
        if not self.factors and not self.whole:
            raise FormatError(f"{self.path}: the adapter holds no tensors")

    def _pattern(self, table: str, module: str, default: str) -> float:
        for pattern, value in self.config[table].items():
            own = pattern.removeprefix("^")
            if module == own or (not pattern.startswith("^") and module.endswith("." + own)):
                return value
        return self.config[default]

    def scale(self, module: str) -> float:
        """What B A is multiplied by: alpha / r, or alpha / √r (rsLoRA, Kalajdzievski 2023)."""
        rank = self.factors[module]["A"].shape[0]
        return float(self._pattern("alpha_pattern", module, "lora_alpha")) / (math.sqrt(rank) if self.config["use_rslora"] else rank)

    def change(self, module: str, shape: tuple[int, ...]) -> np.ndarray:
        """s · B A as it is added to a weight of this shape: float32. Raises `FormatError` if it does not fit there."""
        own = self.factors[module]
        a, b = own["A"].shape, own["B"].shape
        turned = own["embedding"] or self.config["fan_in_fan_out"]
        fits = (b[0], *a[1:])
        if (fits[::-1] if turned and len(fits) == 2 else fits) != shape:
            raise FormatError(f"{self.path}: the change of {module[:80]!r} is {list(fits)}{' turned' if turned else ''}, "
                              f"the base has {list(shape)} there")
        left, right = (self.shard.load(own[k]).astype(np.float32).reshape(s) for k, s in (("B", (b[0], -1)), ("A", (a[0], -1))))
        with np.errstate(all="ignore"):  # what is not finite is told by the caller
            delta = (left @ right) * np.float32(self.scale(module))
        return delta.T if turned and len(fits) == 2 else delta.reshape(fits)


def merge(base, adapter, out, *, overwrite: bool = False, progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write the model folder ``base`` (or the .cpd of one) with a PEFT LoRA adapter added to its weights to the folder ``out``.

    Weights keep their dtype (sums are float32, rounded once), shards and other files are as in the base. ``progress`` is called with
    (tensors done, tensors, name). Returns ``merged`` (tensors changed by factors), ``replaced`` (put in place whole), ``bytes``.
    Raises `FormatError` where the adapter does not fit, `UnsupportedError` for DoRA and other kinds than LoRA, `OverwriteError`.
    """
    own, out = Adapter(adapter), Path(out)
    with as_folder(base) as root, Folder(root) as source:
        if out.resolve() in (Path(adapter).resolve(), Path(root).resolve()):
            raise InputError(f"{out} is the base or the adapter, which are kept; name another folder")
        shards = {n: s for n, s in source.shards.items() if n != TENSORS}
        names = entry_names([(n, s.tensors) for n, s in shards.items()])
        shapes = {name: t for s, stored in zip(shards.values(), names, strict=True) for t, name in zip(s.tensors, stored, strict=True)}
        plan: dict[str, dict[str, str]] = {}
        changes = [("whole", n, n) for n in own.whole] + [("weight", m, f"{m}.weight") for m in own.factors]
        for kind, key, name in [*changes, *(("bias", m, f"{m}.bias") for m, parts in own.factors.items() if "B.bias" in parts)]:
            home = plan.setdefault(_home(name, shapes, own), {})
            if kind in home:
                raise FormatError(f"{own.path}: {name[:120]!r} is changed twice")
            home[kind] = key
        done = 0
        with whole_folder(out, overwrite=overwrite) as folder:
            for (name, shard), stored in zip(shards.items(), names, strict=True):
                own_names = dict(zip(stored, shard.tensors, strict=True))

                def array(tensor, shard=shard, own_names=own_names):
                    nonlocal done
                    done += 1
                    if progress:
                        progress(done, len(shapes), tensor)
                    x = shard.load(own_names[tensor])
                    return _merged(own, tensor, x, own_names[tensor].dtype, plan[tensor]) if tensor in plan else x

                path = safe_path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "xb") as f:
                    write_shard(f, shard.header, stored, shard.tensors, array)
            for name in source.meta["files"]:
                if name != CONFIG:  # else the result would be taken for an adapter
                    path = safe_path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source.files[name], path)
    replaced = sum(kinds.keys() == {"whole"} for kinds in plan.values())
    return {"merged": len(plan) - replaced, "replaced": replaced, "tensors": len(shapes),
            "bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file())}


def _merged(own: Adapter, name: str, x: np.ndarray, dtype: str, changes: dict[str, str]) -> np.ndarray:
    """A tensor of the base put in place (first, if it is) and changed, in the base's dtype."""
    if dtype not in FLOATS:
        raise UnsupportedError(f"{name} is {dtype} in the base; give a base of {', '.join(FLOATS)} (compand decompress, or the original)")
    y = x.astype(np.float64 if dtype == "float64" else np.float32)
    with np.errstate(all="ignore"):
        for kind, key in changes.items():
            if kind == "weight":
                y = y + own.change(key, x.shape)
                continue
            t = own.whole[key] if kind == "whole" else own.factors[key]["B.bias"]
            if t.shape != x.shape:
                raise FormatError(f"{own.path}: {t.name[:80]!r} is {list(t.shape)}, the base has {list(x.shape)} there")
            value = own.shard.load(t).astype(y.dtype)
            y = value if kind == "whole" else y + value * np.float32(own.scale(key))
        merged = y.astype(x.dtype)
    if not np.isfinite(merged.astype(y.dtype)).all():
        raise InputError(f"{name}: the merged weights have NaN or values beyond {dtype}")
    return merged


def _home(name: str, shapes: dict[str, Any], own: Adapter) -> str:
    """The base's name of a tensor: the same, or with the model's prefix (as ``transformer.``) more or less."""
    found = [n for n in (name, name.partition(".")[2]) if n in shapes][:1] or [n for n in shapes if n.partition(".")[2] == name]
    if len(found) != 1:
        many = "more than one" if found else "no"
        raise FormatError(f"{own.path}: the base has {many} tensor {name[:120]!r}, which the adapter changes")
    return found[0]


def _config(path: Path) -> dict[str, Any]:
    """The adapter's configuration, what matters of it checked."""
    try:
        with open(path, "rb") as f:
            config = json.loads(f.read(1 << 22))
    except FileNotFoundError:
        raise FormatError(f"{path.parent}: no {CONFIG}; this takes a folder that PEFT's save_pretrained wrote") from None
    except (OSError, ValueError, RecursionError) as e:
        raise FormatError(f"{path}: cannot be read as JSON ({e})") from None
    if not isinstance(config, dict):
        raise FormatError(f"{path} is not a JSON object")
    if config.get("peft_type") != "LORA":
        raise UnsupportedError(f"{path.parent}: an adapter of type {str(config.get('peft_type'))[:40]!r}; only LORA can be merged here")
    for key, why in REFUSED.items():
        if config.get(key):
            raise UnsupportedError(f"{path.parent}: {key} is set: {why}, which is not s · B A; merge it with PEFT (merge_and_unload)")
    if isinstance(start := config.get("init_lora_weights", True), str) and start not in STARTS:
        raise UnsupportedError(f"{path.parent}: begun as {start[:40]!r}, which changes the base too; convert it to a plain LoRA with PEFT")
    found: dict[str, Any] = {k: config.get(k) or False for k in ("use_rslora", "fan_in_fan_out")}
    found |= {k: config.get(k) for k in ("r", "lora_alpha")} | {k: config.get(k) or {} for k in ("rank_pattern", "alpha_pattern")}
    ok = all(type(found[k]) is bool for k in ("use_rslora", "fan_in_fan_out")) and _is_rank(found["r"]) and _is_number(found["lora_alpha"])
    for table, check in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        ok = ok and isinstance(found[table], dict) and all(map(check, found[table].values()))
        if ok and (odd := [k for k in found[table] if not _PLAIN.fullmatch(k)]):
            raise UnsupportedError(f"{path}: {table} has the regular expression {odd[0][:60]!r}; only names of modules are taken")
    if not ok:
        raise FormatError(f"{path}: r, lora_alpha, use_rslora, fan_in_fan_out or a pattern is not what PEFT writes")
    return found


def _is_rank(v: Any) -> bool:
    return type(v) is int and 0 < v < 1 << 31


def _is_number(v: Any) -> bool:
    return type(v) in (int, float) and abs(v) < 1e30
