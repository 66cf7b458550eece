"""The border between NumPy and the other array libraries: stages are written once against the array API."""

from __future__ import annotations

import sys

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_namespace, is_torch_array

__all__ = ["array_namespace", "cast", "device", "dtype_name", "is_numpy", "like", "to_numpy"]


def is_numpy(x) -> bool:
    """Whether x is a plain numpy array, so that native kernels can take it."""
    return isinstance(x, np.ndarray)


def dtype_name(x) -> str:
    """The dtype's name without its library: 'float32', 'bfloat16', 'uint8'."""
    return str(x.dtype).removeprefix("torch.")


def to_numpy(x) -> np.ndarray:
    """x as a C-contiguous numpy array (a copy only if x is elsewhere or strided)."""
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(x) if x.ndim else x
    if "torch" in sys.modules and is_torch_array(x):
        x = x.detach().cpu().contiguous()
        if dtype_name(x) == "bfloat16" or dtype_name(x).startswith("float8"):
            import torch

            from .dtypes import dtype

            bits = torch.uint8 if x.element_size() == 1 else torch.int16
            return x.view(bits).numpy().view(dtype(dtype_name(x)))
        return x.numpy()
    return np.ascontiguousarray(np.from_dlpack(x)) if hasattr(x, "__dlpack__") else np.ascontiguousarray(x)


def like(a, x):
    """The numpy array ``a`` in x's library, on x's device."""
    xp = array_namespace(x)
    if is_numpy_namespace(xp) or not isinstance(a, np.ndarray):
        return a
    if a.dtype in (np.uint16, np.uint32):  # torch has few operations on these
        a = a.astype(np.int32 if a.dtype == np.uint16 else np.int64)
    return xp.asarray(a.copy() if not a.flags.writeable else a, device=device(x))


def cast(x, name: str):
    """x with the dtype of this name, in its own library."""
    if dtype_name(x) == name:
        return x
    if is_numpy(x):
        from .dtypes import dtype

        return x.astype(dtype(name))
    return array_namespace(x).astype(x, getattr(array_namespace(x), name))
