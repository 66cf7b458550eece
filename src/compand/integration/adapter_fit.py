"""LoRA adapters of PEFT compressed so that the change they make, s · B A, stays what it was.

A is coded as it is; B, seen by its columns, is then refitted to what A decodes to: B' = B A Âᵀ (Â Âᵀ)⁻¹ gives the least error of B A.
Sparse ternary codes (``ternary:keep=0.2,rans``) are ComPEFT (Yadav et al. 2023), with the scale of least error instead of a tuned one;
``sign`` is a 1-bit adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..codec import Codec
from ..codes import Codes
from ..errors import InputError
from ..modality import detect, pack
from .merge_lora import CONFIG, TENSORS, Adapter

SPECS = {1: "sign", 2: "int:2", 3: "int:3", 4: "int:4", 5: "int:5", 6: "int:6", 7: "int:7", 8: "int:8"}
LEAST = 256  # values; smaller factors are kept without loss


def is_adapter(folder) -> bool:
    """Whether a folder is one that PEFT saved an adapter in."""
    return (Path(folder) / CONFIG).is_file() and (Path(folder) / TENSORS).is_file()


def compress(adapter, out, spec: str, *, overwrite: bool = False,
             progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Write an adapter folder to the .cpd file ``out``; ``compand.modality.unpack`` makes a folder that PEFT loads of it.

    Tensors that are no factors (``modules_to_save``, biases) are kept without loss. Returns ``bits`` (of the file, a value), ``bytes``,
    ``values``, ``lost``: squared error of each module's change, relative to it, ``error``: the root of that of all changes together.
    Raises as `compand.integration.merge_lora.Adapter` does, `InputError` for a spec that loses nothing.
    """
    own = Adapter(adapter)
    if Codec(spec).stage.raw:
        raise InputError(f"{spec} keeps every bit; compress the adapter with --lossless")
    done: dict[str, Codes] = {}
    lost: dict[str, float] = {}
    whole = [0.0, 0.0]
    for i, (module, factors) in enumerate(own.factors.items()):
        if progress:
            progress(i, len(own.factors), module)
        a, b = (own.shard.load(factors[k]).astype(np.float32) for k in "AB")
        flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        first = _coded(spec, a, factors["A"].dtype)
        a_hat = flat_a if first is None else np.asarray(first.codec.decode(first), np.float32).reshape(flat_a.shape)
        second = _coded(f"transpose,{spec}", refitted(flat_b, flat_a, a_hat).reshape(b.shape), factors["B"].dtype)
        b_hat = flat_b if second is None else np.asarray(second.codec.decode(second), np.float32).reshape(flat_b.shape)
        done |= {factors[k].name: codes for k, codes in (("A", first), ("B", second)) if codes is not None}
        e, all_ = error(flat_a, flat_b, a_hat, b_hat)
        lost[module] = e / max(all_, 1e-300)
        whole = [whole[0] + e * own.scale(module) ** 2, whole[1] + all_ * own.scale(module) ** 2]
    with detect(adapter) as source:
        report = pack(source, out, spec=lambda name, shape, dtype: done.get(name), overwrite=overwrite, check=False)
        values = sum(item.size for item in source.items())
    if progress:
        progress(len(own.factors), len(own.factors), "")
    nbytes = Path(out).stat().st_size
    return {"bits": 8 * nbytes / values, "bytes": nbytes, "values": values, "lost": lost, "notes": report.notes,
            "error": (whole[0] / max(whole[1], 1e-300)) ** 0.5}


def _coded(spec: str, x: np.ndarray, dtype: str) -> Codes | None:
    if x.size < LEAST or not np.any(x):
        return None
    codec = Codec(spec)
    if codec.stage.state(codec.form(x.shape, "float32")):
        codec = codec.fit(x)
    return replace(codec.encode(x), dtype=dtype)


def refitted(b: np.ndarray, a: np.ndarray, a_hat: np.ndarray) -> np.ndarray:
    """B' (outputs, rank) that makes B' Â nearest to B A.

    >>> a, b = np.float32([[1, 2, 2]]), np.float32([[3], [1]])
    >>> refitted(b, a, 2 * a).tolist()
    [[1.5], [0.5]]
    """
    right = a_hat.T.astype(np.float64)
    inverse = np.linalg.pinv(a_hat @ right, rcond=1e-9, hermitian=True)  # rows of A may decode to nothing
    return (b.astype(np.float64) @ (a @ right) @ inverse).astype(np.float32)


def error(a: np.ndarray, b: np.ndarray, a_hat: np.ndarray, b_hat: np.ndarray) -> tuple[float, float]:
    """|B̂ Â - B A|² and |B A|² by the factors' Gram matrices: the products may be large."""
    left, right = np.concatenate([b_hat, -b], axis=1).astype(np.float64), np.concatenate([a_hat, a]).astype(np.float64)
    return max(float(np.sum((left.T @ left) * (right @ right.T))), 0.0), \
        float(np.sum((b.T.astype(np.float64) @ b) * (a.astype(np.float64) @ a.T.astype(np.float64))))
