"""The border between NumPy and the other array libraries: stages are written once against the array API."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np
from array_api_compat import device, is_numpy_namespace, is_torch_array

from . import numpy_api

__all__ = ["Rows", "array_namespace", "cast", "device", "dtype_name", "exponent", "host", "is_numpy", "like", "power", "rounded",
           "to_numpy", "total"]


class Rows:
    """Rows that are not in memory: ``load`` makes some of them, a slice or indices, when asked for; `Codec` takes them block by block.

    >>> x = Rows((4, 2), np.float32, lambda which: np.arange(8, dtype=np.float32).reshape(4, 2)[which])
    >>> x[1:3].tolist(), np.asarray(x).shape
    ([[2.0, 3.0], [4.0, 5.0]], (4, 2))
    """

    ndim = 2

    def __init__(self, shape: tuple[int, int], dtype, load: Callable[..., np.ndarray]):
        self.shape, self.dtype, self._load = shape, np.dtype(dtype), load

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which) -> np.ndarray:
        return self._load(which)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self._load(slice(None)), dtype)


def is_numpy(x) -> bool:
    """Whether x is a plain numpy array, so that native kernels can take it."""
    return isinstance(x, np.ndarray)


_NUMPY = numpy_api if hasattr(np, "cumulative_sum") else array_api_compat.array_namespace(np.zeros(0))  # from NumPy 2.1 on, or before
_NAMES: dict[Any, str] = {}  # of NumPy's dtypes, which take microseconds to say their names


def array_namespace(*arrays):
    """The array-API functions of the library that these arrays are of."""
    if all([isinstance(a, (np.ndarray, np.generic)) for a in arrays]):
        return _NUMPY
    return array_api_compat.array_namespace(*arrays)


def dtype_name(x) -> str:
    """The dtype's name without its library: 'float32', 'bfloat16', 'uint8'."""
    if type(x) is not np.ndarray:
        return str(x.dtype).rpartition(".")[2]
    name = _NAMES.get(x.dtype)
    if name is None:
        name = _NAMES[x.dtype] = str(x.dtype).rpartition(".")[2]
    return name


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


def host(x) -> np.ndarray | None:
    """x as a NumPy view if its values lie in this machine's memory, so that a native kernel can read them; else None."""
    if isinstance(x, np.ndarray):
        return x
    on_cpu = "torch" in sys.modules and is_torch_array(x) and x.device.type == "cpu"
    return to_numpy(x) if on_cpu else None


def like(a, x):
    """The numpy array ``a`` in x's library, on x's device."""
    xp = array_namespace(x)
    if xp is _NUMPY or is_numpy_namespace(xp) or not isinstance(a, np.ndarray):
        return a
    if a.dtype in (np.uint16, np.uint32):  # torch has few operations on these
        a = a.astype(np.int32 if a.dtype == np.uint16 else np.int64)
    if a.dtype.itemsize < 4 and a.dtype.kind in "fV" and not (a.dtype.kind == "f" and hasattr(xp, a.dtype.name)):
        a = a.astype(np.float32)  # half and smaller floats, where the library cannot take them from NumPy
    return xp.asarray(a.copy() if not a.flags.writeable else a, device=device(x))


def cast(x, name: str):
    """x with the dtype of this name, in its own library."""
    if dtype_name(x) == name:
        return x
    if is_numpy(x):
        from .dtypes import dtype

        return x.astype(dtype(name))
    return array_namespace(x).astype(x, getattr(array_namespace(x), name))


def rounded(x, name: str):
    """x rounded to the values that dtype ``name`` can hold (clipped to its range), still in x's own dtype and library."""
    from .dtypes import dtype

    target, xp = dtype(name), array_namespace(x)
    if target.itemsize >= dtype(dtype_name(x)).itemsize:
        return x
    if target.kind == "f":
        most = float(np.finfo(target).max)
    else:
        import ml_dtypes

        most = float(ml_dtypes.finfo(target).max)
    x = xp.clip(x, -most, most)
    if is_numpy(x) or not hasattr(xp, name):
        return like(to_numpy(x).astype(target).astype(dtype_name(x)), x)
    return xp.astype(xp.astype(x, getattr(xp, name)), x.dtype)


def total(x):
    """The sum of the last axis, which is kept with length 1, in an order that its length alone decides.

    Halves are added to each other, so there are only additions of elements: the same bits from every library and processor.

    >>> total(np.float32([[1, 2, 3, 4, 5]]))
    array([[15.]], dtype=float32)
    """
    xp, n = array_namespace(x), x.shape[-1]
    if n == 0:
        return xp.sum(x, axis=-1, keepdims=True)
    while n > 1:
        half = n // 2
        y = x[..., :half] + x[..., half:2 * half]
        if n % 2:
            y[..., :1] += x[..., 2 * half:]
        x, n = y, half
    return x


def exponent(a):
    """floor(log2 a) of positive normal floats, exactly, as floats of the same dtype."""
    xp = array_namespace(a)
    if is_numpy(a):
        return (np.frexp(a)[1] - 1).astype(a.dtype)
    if hasattr(xp, "frexp"):
        return xp.astype(xp.frexp(a)[1] - 1, a.dtype)
    return like((np.frexp(to_numpy(a))[1] - 1).astype(dtype_name(a)), a)


def power(e):
    """2^e for whole numbers e from -149 to 127 given as floats, exactly, as float32."""
    xp = array_namespace(e)
    at = xp.astype(e, xp.int64) + 149
    if is_numpy(e):
        return _POWERS[at]
    return xp.reshape(xp.take(like(_POWERS, e), xp.reshape(at, (-1,))), e.shape)


_POWERS = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
