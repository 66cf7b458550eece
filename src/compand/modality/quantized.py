"""Model folders quantized by others (GPTQ, AWQ, compressed-tensors, block fp8), read as the weights they stand for.

``config.json`` says which; every quantized layer's tensors become one ``weight``, computed when it is loaded, in the dtype of its scales.
Lossless packing does not come here: it keeps the folder's own tensors.

Sources: the checkpoint layouts of AutoGPTQ and GPTQModel, AutoAWQ (gemm), and compressed-tensors (pack-, int-, float-, naive-quantized,
nvfp4- and mxfp4-pack-quantized).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..dtypes import dtype as dtype_of
from ..errors import FormatError, InputError, UnsupportedError
from ..limits import DEFAULT, Limits
from .gguf_types import FP4
from .hf import Folder
from .safetensors import new_header
from .source import Item, check_array

F32 = np.float32
METHODS = ("gptq", "awq", "compressed-tensors", "fp8")
_CONFIG = 1 << 24
_AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # where column i of eight lies in its word
_PARTS = ("qweight", "weight_packed", "weight")
_SIDE = ("qzeros", "scales", "g_idx", "weight_scale", "weight_scale_inv", "weight_zero_point", "weight_g_idx", "weight_shape",
         "weight_global_scale", "input_scale", "input_zero_point", "input_global_scale", "output_scale")


def settings(root) -> dict[str, Any] | None:
    """What a folder's config.json (or quantize_config.json) says of its quantization; None if it is not quantized so."""
    for name in ("config.json", "quantize_config.json"):
        found = _read(Path(root, name))
        if name == "config.json" and found is not None:
            text = found.get("text_config")
            found = found.get("quantization_config", text.get("quantization_config") if isinstance(text, dict) else None)
        elif found is not None and "bits" in found:
            found = {"quant_method": "gptq", **found}
        if isinstance(found, dict) and found.get("quant_method") in METHODS:
            return found
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is none that can be read."""
    if not path.is_file() or path.stat().st_size > _CONFIG:
        return None
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class Quantized(Folder):
    """An opened quantized folder: its items are the dequantized weights, and what it writes back is a plain folder."""

    def __init__(self, path, limits: Limits = DEFAULT):
        found = settings(path)
        if found is None:
            raise FormatError(f"{path}: config.json has no quantization_config of {', '.join(METHODS)}")
        super().__init__(path, limits)
        root = Path(path)
        self.settings, self.limits = found, limits
        raw = {item.name: item for item in super().items()}
        self._items = list(self._joined(raw))
        self.notes.append(f"weights of {found['quant_method']} are read as the numbers they stand for")
        for shard in self.shards:
            del self.files[f"{shard}:header"]
        self.files["model.safetensors:header"] = new_header([(i.name, i.shape, i.dtype) for i in self._items])
        self.meta["shards"] = ["model.safetensors"]
        drop = ("model.safetensors.index.json", "quantize_config.json", "quant_config.json")
        self.files = {n: f for n, f in self.files.items() if n not in drop}
        self.meta["files"] = [n for n in self.meta["files"] if n not in drop]
        config = _read(Path(root, "config.json")) or {}
        for part in (config, config.get("text_config")):
            if isinstance(part, dict):
                part.pop("quantization_config", None)
        if config and "config.json" in self.files:
            self.files["config.json"] = json.dumps(config, indent=2).encode()

    def items(self):
        yield from self._items

    def _joined(self, raw: dict[str, Item]):
        """Items with those of each quantized layer made one."""
        of = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed, "fp8": _compressed}[self.settings["quant_method"]]
        used: set[str] = set()
        for name in raw:
            prefix, _, last = name.rpartition(".")
            parts = {p: raw[f"{prefix}.{p}"] for p in (*_PARTS, *_SIDE) if f"{prefix}.{p}" in raw}
            if last in _PARTS and len(parts) > 1 and (last != "weight" or {"weight_scale", "weight_scale_inv"} & set(parts)):
                where = f"{self.path}: {prefix[:80]}"
                try:
                    shape, dtype, load = of(parts, self.settings, where)
                except KeyError as e:
                    raise FormatError(f"{where}: no tensor {e.args[0]}") from None
                if not all(shape):
                    raise FormatError(f"{where}: a weight {list(shape)} holds no values")
                check_array(shape, dtype, where, self.limits)
                used |= {f"{prefix}.{p}" for p in parts if p != "weight" or last == "weight"}
                yield Item(f"{prefix}.weight", shape, dtype, _cut(load, dtype, where))
        rest = [item for name, item in raw.items() if name not in used]
        yield from (i for i in rest if i.name.rpartition(".")[2] not in ("k_scale", "v_scale", "q_scale"))  # of the cache


def _cut(load: Callable[[], np.ndarray], dtype: str, where: str):
    def rows(cut: slice | None = None) -> np.ndarray:
        with np.errstate(all="ignore"):  # hostile scales may be infinite
            x = load().astype(dtype_of(dtype))
        return x if cut is None else x[cut]
    return rows


def _bits(value, known: tuple[int, ...], where: str) -> int:
    if type(value) is not int or value not in known:
        raise UnsupportedError(f"{where}: {str(value)[:20]} bits; {', '.join(map(str, known))} are read")
    return value


def _shaped(item: Item, shape: tuple[int, ...], where: str, *dtypes: str) -> Item:
    if tuple(item.shape) != shape or (dtypes and item.dtype not in dtypes):
        raise FormatError(f"{where}: {item.name.rpartition('.')[2]} is {item.dtype}{list(item.shape)}, "
                          f"{' or '.join(dtypes) or 'an array'}{list(shape)} is needed")
    return item


def _float(item: Item, where: str) -> str:
    """The dtype of what is dequantized: that of the scales, if weights can have it."""
    if item.dtype not in ("float16", "bfloat16", "float32"):
        raise FormatError(f"{where}: scales are {item.dtype}")
    return item.dtype


def unpack_words(words: np.ndarray, bits: int) -> np.ndarray:
    """int32 (n, m) → the values of so many bits in each row's stream, lowest bits first: uint8 (n, 32 m // bits).

    >>> unpack_words(np.array([[0x76543210]], np.int32), 4)
    array([[0, 1, 2, 3, 4, 5, 6, 7]], dtype=uint8)
    """
    if 32 % bits == 0:
        q = np.ascontiguousarray(words).view("<u4")[..., None] >> np.arange(0, 32, bits, dtype=np.uint32) & ((1 << bits) - 1)
        return q.reshape(len(words), -1).astype(np.uint8)
    count = words.shape[1] * 32 // bits
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1), axis=1, bitorder="little")
    return np.packbits(stream[:, :count * bits].reshape(len(words), count, bits), axis=2, bitorder="little")[..., 0]


def _groups(item: Item | None, d: int, size, groups: int, where: str) -> np.ndarray:
    """Which group each input belongs to: int64 (d,)."""
    if item is not None:
        g = np.asarray(_shaped(item, (d,), where, "int32", "int64").load()).astype(np.int64)
        if g.size and not (-1 <= g.min() and g.max() < groups):
            raise FormatError(f"{where}: g_idx names a group that is not there ({groups} groups)")
        if not (g < 0).any():
            return g
    size = d if size == -1 else size
    if type(size) is not int or size < 1 or -(-d // size) != groups:
        raise FormatError(f"{where}: {groups} groups of {str(size)[:20]} do not make {d:,} inputs")
    return np.arange(d) // size


def _gptq(parts: dict[str, Item], config: dict, where: str):
    """W[out, in] = scale[g, out] · (q - zero - 1); the 1 is not there in the second form of the format."""
    bits = _bits(config.get("bits"), (2, 3, 4, 8), where)
    packed, scales = parts["qweight"], parts["scales"]
    if len(packed.shape) != 2 or packed.shape[0] * 32 % bits or len(scales.shape) != 2:
        raise FormatError(f"{where}: qweight is {list(packed.shape)}, scales are {list(scales.shape)}")
    d, n, groups = packed.shape[0] * 32 // bits, packed.shape[1], scales.shape[0]
    if n * bits % 32:
        raise FormatError(f"{where}: zeros of {bits} bits for {n:,} outputs do not fill whole words")
    _shaped(packed, packed.shape, where, "int32")
    _shaped(scales, (groups, n), where)
    zeros = _shaped(parts["qzeros"], (groups, n * bits // 32), where, "int32")
    one = config.get("checkpoint_format", "gptq") != "gptq_v2"

    def load() -> np.ndarray:
        g = _groups(parts.get("g_idx"), d, config.get("group_size", -1), groups, where)
        q = unpack_words(np.ascontiguousarray(np.asarray(packed.load()).T), bits)
        z = unpack_words(np.asarray(zeros.load()), bits).astype(F32) + F32(one)
        s = np.asarray(scales.load()).astype(F32)
        return (q.astype(F32) - z[g].T) * s[g].T

    return (n, d), _float(scales, where), load


def _awq(parts: dict[str, Item], config: dict, where: str):
    """W[out, in] = scale[g, out] · (q - zero); eight outputs to a word, the even ones first."""
    bits = _bits(config.get("bits", config.get("w_bit")), (4,), where)
    if (version := str(config.get("version", "gemm")).lower()) != "gemm":
        raise UnsupportedError(f"{where}: AWQ of version {version[:20]!r}; gemm is read")
    packed, scales = parts["qweight"], parts["scales"]
    if len(packed.shape) != 2 or len(scales.shape) != 2:
        raise FormatError(f"{where}: qweight is {list(packed.shape)}, scales are {list(scales.shape)}")
    d, n, groups = packed.shape[0], packed.shape[1] * 8, scales.shape[0]
    _shaped(packed, packed.shape, where, "int32")
    _shaped(scales, (groups, n), where)
    zeros = parts.get("qzeros")
    if zeros is not None:
        _shaped(zeros, (groups, n // 8), where, "int32")

    def columns(item: Item) -> np.ndarray:
        q = unpack_words(np.asarray(item.load()), bits)
        return q.reshape(len(q), -1, 8)[:, :, _AWQ_ORDER].reshape(len(q), -1).astype(F32)

    def load() -> np.ndarray:
        g = _groups(None, d, config.get("group_size", config.get("q_group_size", -1)), groups, where)
        z = columns(zeros) if zeros is not None else np.full((groups, n), 8, F32)
        s = np.asarray(scales.load()).astype(F32)
        return ((columns(packed) - z[g]) * s[g]).T

    return (n, d), _float(scales, where), load


def _scheme(config: dict) -> dict[str, Any]:
    """The description of weights: of one group of layers, which all share."""
    groups = config.get("config_groups")
    found = [g["weights"] for g in groups.values() if isinstance(g, dict) and isinstance(g.get("weights"), dict)] \
        if isinstance(groups, dict) else []
    return found[0] if found else {}


def _compressed(parts: dict[str, Item], config: dict, where: str):
    """W = (q - zero) · scale, with scales of the tensor, rows, groups or blocks; what q is, its tensor tells."""
    scheme = _scheme(config)
    scales = parts.get("weight_scale", parts.get("weight_scale_inv"))
    if scales is None:
        raise KeyError("weight_scale")
    if "weight_packed" not in parts:
        weight = parts["weight"]
        if len(weight.shape) != 2 or weight.dtype not in ("int8", "float8_e4m3fn", "float8_e5m2"):
            raise UnsupportedError(f"{where}: weight is {weight.dtype}{list(weight.shape)}")
        return weight.shape, _out(config, scales), lambda: _scaled(np.asarray(weight.load()).astype(F32), parts, scales, scheme, where)
    packed = parts["weight_packed"]
    if packed.dtype == "uint8" and len(packed.shape) == 2:
        return (packed.shape[0], 2 * packed.shape[1]), _out(config, scales), lambda: _fp4(packed, parts, scales, where)
    bits = _bits(scheme.get("num_bits"), (2, 3, 4, 8), where)
    _shaped(packed, packed.shape, where, "int32")
    shape = tuple(int(v) for v in np.asarray(_shaped(parts["weight_shape"], (2,), where, "int32", "int64").load()))
    each = 32 // bits
    if len(packed.shape) != 2 or min(shape) < 0 or packed.shape != (shape[0], -(-shape[1] // each)):
        raise FormatError(f"{where}: weight_packed {list(packed.shape)} does not hold {list(shape)} values of {bits} bits")
    zero = parts.get("weight_zero_point")

    def load() -> np.ndarray:
        q = _words(np.asarray(packed.load()), bits)[:, :shape[1]]
        more = dict(parts)
        if zero is not None and zero.dtype == "int32":
            if len(zero.shape) != 2 or zero.shape[0] != -(-shape[0] // each):
                raise FormatError(f"{where}: weight_zero_point {list(zero.shape)} does not hold {shape[0]:,} rows of {bits} bits")
            cut = _words(np.ascontiguousarray(np.asarray(zero.load()).T), bits).T[:shape[0]] - F32(1 << bits - 1)
            more["weight_zero_point"] = Item("weight_zero_point", cut.shape, "float32", lambda: cut)
        return _scaled(q - F32(1 << bits - 1), more, scales, scheme, where)

    return shape, _out(config, scales), load


def _words(words: np.ndarray, bits: int) -> np.ndarray:
    """As many whole values to a word as fit: float32."""
    shifts = np.arange(32 // bits, dtype=np.uint32) * bits
    q = np.ascontiguousarray(words).view("<u4")[..., None] >> shifts & ((1 << bits) - 1)
    return q.reshape(len(words), words.shape[1] * (32 // bits)).astype(F32)


def _out(config: dict, scales: Item) -> str:
    return scales.dtype if scales.dtype in ("float16", "bfloat16") else "bfloat16" if config.get("quant_method") == "fp8" else "float32"


def _scaled(q: np.ndarray, parts: dict[str, Item], scales: Item, scheme: dict, where: str) -> np.ndarray:
    """(q - zero) · scale for scales of one value, of rows, of groups of inputs, or of blocks."""
    n, d = q.shape
    s = np.asarray(scales.load()).astype(F32)
    s = s.reshape(-1, 1) if s.ndim < 2 else s
    zero = parts.get("weight_zero_point")
    z = np.zeros((1, 1), F32) if zero is None else np.asarray(zero.load()).astype(F32)
    z = z.reshape(-1, 1) if z.ndim < 2 else z
    block = scheme.get("block_structure") or ([128, 128] if "weight_scale_inv" in parts else None)
    if isinstance(block, list) and len(block) == 2 and all(type(v) is int and v > 0 for v in block) \
            and s.shape == tuple(-(-a // b) for a, b in zip((n, d), block, strict=True)):
        return q * s[np.arange(n) // block[0]][:, np.arange(d) // block[1]]
    if s.ndim != 2 or not s.size or s.shape[0] not in (1, n) or z.shape not in ((1, 1), s.shape):
        raise FormatError(f"{where}: scales {list(s.shape)} and zeros {list(z.shape)} do not fit a weight {[n, d]}")
    g = _groups(parts.get("weight_g_idx"), d, scheme.get("group_size") or -(-d // s.shape[1]), s.shape[1], where) if s.shape[1] > 1 \
        else np.zeros(d, np.int64)
    return (q - (z[:, g] if z.shape == s.shape else z)) * s[:, g]


def _fp4(packed: Item, parts: dict[str, Item], scales: Item, where: str) -> np.ndarray:
    """Two e2m1 values a byte, low one first, with scales of 16 (fp8, and one of the tensor) or 32 values (a power of two)."""
    b = np.asarray(packed.load())
    q = np.stack([FP4[b & 15], FP4[b >> 4]], axis=2).reshape(len(b), 2 * b.shape[1]) / 2
    raw = np.asarray(scales.load())
    if raw.ndim != 2 or raw.shape[0] != len(b) or not raw.shape[1] or q.shape[1] % raw.shape[1]:
        raise FormatError(f"{where}: scales {list(raw.shape)} do not fit a weight {list(q.shape)}")
    s = np.ldexp(F32(1), raw.astype(np.int32) - 127) if raw.dtype == np.uint8 else raw.astype(F32)
    if (total := parts.get("weight_global_scale")) is not None:
        s = s / np.asarray(_shaped(total, total.shape[:1] and (1,), where, "float32").load()).reshape(1)
    return q * np.repeat(s, q.shape[1] // raw.shape[1], axis=1)


def open_folder(path, *, exact: bool = False) -> Folder:
    """A model folder; dequantized where its configuration says it is quantized, unless ``exact``."""
    if exact or settings(path) is None:
        own = None if exact else (_read(Path(path, "config.json")) or {}).get("quantization_config")
        if isinstance(own, dict) and own.get("quant_method") == "compand":
            raise InputError(f"{path}: its weights are codes of compand; make a file of them, which every verb takes: "
                             f"compand transcode {path} model.cpd")
        return Folder(path)
    try:
        return Quantized(path)
    except (AttributeError, TypeError) as e:  # config.json of other kinds of values
        raise InputError(f"{path}: config.json is damaged ({e})") from None
