"""What `compand.integration.module_fit` found, put into the .cpd file of the model's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..codec import Codec
from ..codes import Codes
from ..dtypes import dtype as dtype_of
from ..modality import detect, pack
from .module_fit import Fitted


def write(folder, out, found: Fitted, *, overwrite: bool = False) -> dict[str, Any]:
    """Write a model folder to the file ``out``: fitted weights as their codes, moved biases, and all else without loss.

    Names of the torch model are found in the folder with or without a prefix. Returns ``bits`` (of the file, a value), ``bytes``,
    ``values``, ``lost`` by tensor, ``notes``.
    """
    with detect(folder) as source:
        items = {item.name: item for item in source.items()}
        done: dict[str, Codes] = {}
        for name, codes in found.codes.items():
            if (full := stored(items, name)) is not None:
                done[full] = replace(codes, dtype=items[full].dtype)
        for name, bias in found.biases.items():
            if (full := stored(items, name)) is not None:
                done[full] = Codec("raw").encode(bias.astype(dtype_of(items[full].dtype)))
        report = pack(source, out, spec=lambda name, shape, dtype: done.get(name), overwrite=overwrite, check=False)
        values = sum(item.size for item in items.values())
    nbytes = Path(out).stat().st_size
    return {"bits": 8 * nbytes / values, "bytes": nbytes, "values": values, "lost": found.lost, "notes": report.notes}


def stored(names, name: str) -> str | None:
    """The folder's name of a tensor: the same, or one that ends with it after a dot.

    >>> stored(["bert.pooler.weight"], "pooler.weight")
    'bert.pooler.weight'
    """
    return name if name in names else next((f for f in names if f.endswith(f".{name}")), None)
