"""Products with codes where torch's tensors are: the classes of `compand._native`'s weights for CUDA, their kernels in Triton.

The algebra is that of `compand.op.matmul`: leaves are ``int``, ``table``, ``float``, ``sign``, ``ternary`` and ``trellis`` codes, sums add,
and a Hadamard transform moves to the activations, which are not rounded here. What else an expression asks for is decoded by torch.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from ..codes import Codes
from ..errors import UnsupportedError
from ..op.matmul import product_on

_FEW = 16  # lines from which on tensor cores are worth their tiles


def product(codes: Codes, device: torch.device) -> Matrix | None:
    """The product of codes with tensors on a device: x (m, d) → (m, n) float32. None where Triton or a kernel is missing."""
    return product_on(Kinds(device), codes) if find_spec("triton") else None


class Matrix:
    """Weights (n, d) that stay codes on a device."""

    n: int
    d: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Ids(Matrix):
    """Packed ids: see `Rows` in matmul.hpp."""

    def __init__(self, device, d, ids, bits, offset, unit, group, brain, wide, low, high, free):
        self.n, self.d, self.bits, self.offset, self.unit, self.group = len(ids), d, bits, offset, unit, group
        self.ids = _sent(ids, device)
        self.scale = _sent(wide if brain is None else (brain.astype(np.uint32) << 16).view(np.float32), device)
        self.zero = None if free is None else _sent(free, device)
        levels = None if low is None else low.astype(np.int32) + (0 if high is None else 128 * high.astype(np.int32))
        self.levels = None if levels is None else _sent(levels, device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        from .triton_kernels import ids_kernel

        y = torch.empty(len(x), self.n, dtype=torch.float32, device=x.device)
        sizes = _tiles(len(x))
        ids_kernel[_grid(self.n, len(x), sizes)](
            x, y, self.ids, self.scale, self.scale if self.zero is None else self.zero, self.ids if self.levels is None else self.levels,
            len(x), self.n, self.d, self.ids.shape[1], self.scale.shape[1], self.group, self.offset, self.unit, BITS=self.bits,
            ZERO=self.zero is not None, LEVELS=self.levels is not None, **sizes)
        return y


class Trellis(Matrix):
    """Strips of 16 rows of a trellis, and levels of the rows that are left: see `Strips` in matmul.hpp."""

    def __init__(self, device, d, bits, k, factors, block, group, scale, rest, rest_scale):
        self.whole, self.d, self.k, self.group = 16 * len(scale), d, k, group
        self.n = self.whole + len(rest)
        self.factors = [int(f) for f in factors]
        self.bits, self.scale = _sent(bits, device), _sent(scale, device)
        wide = np.repeat(rest_scale, group, axis=1)[:, :d] if len(rest) else np.zeros((0, d), np.float32)
        self.rest = _sent(rest * wide, device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        from .triton_kernels import trellis_kernel

        y = torch.empty(len(x), self.n, dtype=torch.float32, device=x.device)
        sizes = _tiles(len(x))
        if self.whole:
            trellis_kernel[_grid(self.whole, len(x), sizes)](
                x, y, self.bits, self.scale, len(x), self.whole, self.d, self.n, 2 * self.d * self.k, self.scale.shape[1], self.group,
                self.factors[0], self.factors[-1], K=self.k, MANY=len(self.factors), **sizes)
        if self.n > self.whole:
            y[:, self.whole:] = x.float() @ self.rest.T
        return y


class Rotated(Matrix):
    """Weights behind rounds of signs and Hadamard transforms: the activations are transformed instead."""

    def __init__(self, device, inner: Matrix, d: int, rounds):
        self.n, self.d, self.inner = inner.n, d, inner
        self.rounds = [(at, _sent(signs, device), [int(s) for s in sizes]) for at, signs, sizes in rounds]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.nn.functional.pad(x.float(), (0, self.inner.d - self.d))
        for at, signs, sizes in self.rounds:
            end, pieces = at + len(signs), (a[:, at:at + len(signs)] * signs).split(sizes, dim=1)
            a = torch.cat([a[:, :at], *(_hadamard(p) for p in pieces), a[:, end:]], dim=1)
        return self.inner(a.to(x.dtype))


class Added(Matrix):
    """A sum of weights of one shape."""

    def __init__(self, device, terms: list[Matrix]):
        self.n, self.d, self.terms = terms[0].n, terms[0].d, terms

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        total = self.terms[0](x)
        for term in self.terms[1:]:
            total += term(x)
        return total


class Kinds:
    """The classes above for one device, as `product_on` wants them. Raises `UnsupportedError` for those that are not here."""

    Matrix = Matrix

    def __init__(self, device: torch.device):
        self.device = device

    def __getattr__(self, name: str) -> Any:
        kind = {"Ids": Ids, "Trellis": Trellis, "Rotated": Rotated, "Added": Added}.get(name)
        if kind is None:
            raise UnsupportedError(f"{name} has no kernel on {self.device}")
        return lambda *args: kind(self.device, *args)


def _hadamard(x: torch.Tensor) -> torch.Tensor:
    """The orthonormal transform of lines (m, a power of two)."""
    m, size = x.shape
    half = 1
    while half < size:
        pair = x.reshape(m, -1, 2, half)
        x = torch.stack([pair[:, :, 0] + pair[:, :, 1], pair[:, :, 0] - pair[:, :, 1]], dim=2).reshape(m, size)
        half *= 2
    return x * size ** -0.5


def _sent(a: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.array(a, order="C")).to(device)


def _tiles(m: int) -> dict[str, Any]:
    """Sizes of a tile. Tensor cores need 16 lines; a few lines are summed without them."""
    if m >= _FEW:
        return {"LINES": 32, "ROWS": 64, "COLUMNS": 64, "DOT": True}
    return {"LINES": 1, "ROWS": 32, "COLUMNS": 128, "DOT": False}


def _grid(n: int, m: int, sizes: dict[str, Any]) -> tuple[int, int]:
    return -(-n // sizes["ROWS"]), -(-m // sizes["LINES"])
