"""The codes of one matrix as named uint8 buffers, as a layer of a model keeps them and its safetensors hold them."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from ..codec import Codec
from ..codes import Block, Codes, stored_form
from ..dtypes import dtype as dtype_of
from ..errors import InputError
from ..stage import Form

Places = dict[str, tuple[str, str, tuple[int, ...]]]  # buffer → "part:PATH" or "state:PATH", dtype, shape


def places_of(codec: Codec, form: Form) -> Places:
    """The buffers of weights of this form: ``weight`` is the largest part, ``weight_PATH`` and ``state_PATH`` the others.

    Raises `InputError` for codes whose size is not known before, and for those that keep every bit.

    >>> places_of(Codec("int:4"), Form(2, 8))
    {'weight': ('part:ids', 'uint8', (2, 4)), 'weight_scale': ('part:scale', 'bfloat16', (2, 1))}
    """
    parts = {("part", path): stored_form(part) for path, part in codec.layout(form).items()}
    parts |= {("state", path): (part.dtype or "uint8", part.shape) for path, part in codec.stage.state(form).items()}
    if codec.stage.raw:
        raise InputError(f"{codec.spec} keeps every bit, and a layer holds lossy codes: leave the layer as it is, or compress the model "
                         f"as {codec.spec} into a .cpd file, which compand run reads")
    if any(size < 0 for _, shape in parts.values() for size in shape):
        raise InputError(f"{codec.spec}: a layer needs codes whose size is known before; leave out sparse and entropy coders")
    sizes = {key: prod(shape) * dtype_of(name).itemsize for key, (name, shape) in parts.items() if key[0] == "part"}
    largest, found = max(sizes, key=sizes.__getitem__), {}
    for (kind, path), (name, shape) in parts.items():
        buffer = "weight" if (kind, path) == largest else f"{'weight' if kind == 'part' else 'state'}_{path.replace('.', '_')}"
        found[buffer] = (f"{kind}:{path}", name, shape)
    return found


def bytes_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a buffer: its last axis in bytes."""
    return (*shape[:-1], shape[-1] * dtype_of(name).itemsize)


def codes_of(codec: Codec, form: Form, buffers: Mapping[str, np.ndarray], places: Places | None = None) -> Codes:
    """Codes as views of their uint8 buffers. Raises `InputError` for buffers that are missing or of another shape."""
    arrays = {}
    for buffer, (key, name, shape) in (places or places_of(codec, form)).items():
        a = buffers.get(buffer)
        if a is None or a.dtype != np.uint8 or a.shape != bytes_shape(name, shape):
            have = "missing" if a is None else f"{a.dtype}{list(a.shape)}"
            raise InputError(f"a buffer of codes, {buffer}, is {have}, this layer has uint8{list(bytes_shape(name, shape))}")
        arrays[key] = np.ascontiguousarray(a).view(dtype_of(name)).reshape(shape)
    state = {key[6:]: a for key, a in arrays.items() if key.startswith("state:")}
    codec = Codec(codec.stage.with_arrays(state)) if state else codec
    codec.stage.require(form)
    block = Block(form.n, {key[5:]: a for key, a in arrays.items() if key.startswith("part:")})
    return Codes(codec, tuple(form[:2]), "float32", (block,))
