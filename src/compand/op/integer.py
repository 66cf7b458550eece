"""Nets that run on integers from the first layer to the last: products of int8 weights, dyadic rescaling, clips. No float between layers.

A net is a list of nodes in a .cpd file, whose weights, biases, multipliers and shifts are entries without loss. Tensors are numbered: 0 is
the input, i what node i - 1 gives. The nodes:

- conv: acc = Σ w x + bias, then (acc · b + half) >> c for each output channel, clipped to low … high;
- add: (x · b₀ + y · b₁ + half) >> c, clipped;
- mean: over all pixels, (Σ x · b + half) >> c, clipped.

A linear layer is a convolution of one pixel. Activations (clips) are part of the nodes. HAWQ-V3 (Yao et al. 2021). `IntegerNet.run` is
native; `IntegerNet.reference` gives the same by NumPy, and is slow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from .. import _native
from ..errors import CompandError, CorruptError, FormatError, InputError
from ..file import open as open_file
from ..limits import DEFAULT, Limits
from ..writer import Writer
from .dyadic import MOST, rescaled

KEY = "integer_net"
OPS = {"conv": 1, "add": 2, "mean": 1}  # and their inputs
NODES, SIDE = 4096, 1 << 14
_EXACT = {np.float32: 1 << 24, np.float64: 1 << 53}  # below this every sum of integers is exact
_STORED = {"weight": "int8", "bias": "int32", "multiplier": "int32", "shift": "uint8"}


@dataclass(frozen=True)
class Node:
    """One step: ``arrays`` are weight (o, c / groups, h, w), bias (o,), multiplier, shift; see the module's text."""

    op: str
    inputs: tuple[int, ...]
    low: int
    high: int
    arrays: dict[str, np.ndarray] = field(repr=False)
    stride: int = 1
    groups: int = 1
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, bottom, left, right

    def __post_init__(self):
        if self.op not in OPS or len(self.inputs) != OPS[self.op]:
            raise FormatError(f"a node {self.op!r} with {len(self.inputs)} inputs; there are {', '.join(OPS)}")
        if not -(1 << 15) <= self.low <= self.high < 1 << 16:
            raise FormatError(f"{self.op}: values from {self.low} to {self.high}; they must be within 16 bits")
        if not (1 <= self.stride <= 64 and self.groups >= 1 and len(self.pad) == 4 and all(0 <= p <= 64 for p in self.pad)):
            raise FormatError(f"{self.op}: stride {self.stride}, groups {self.groups}, pad {self.pad} cannot be")
        if set(self.arrays) != set(_STORED if self.op == "conv" else ("multiplier", "shift")):
            raise FormatError(f"{self.op}: arrays {', '.join(sorted(self.arrays))}")
        for name, a in self.arrays.items():
            if a.dtype != _STORED[name]:
                raise FormatError(f"{self.op}: {name} is {a.dtype}, {_STORED[name]} belongs there")
        outputs = len(self.arrays["weight"]) if self.op == "conv" else 1
        want = {"bias": (outputs,), "multiplier": (2 if self.op == "add" else outputs,), "shift": (outputs,)}
        for name, a in self.arrays.items():
            if a.shape != want.get(name, a.shape) or (name == "weight" and (a.ndim != 4 or not a.size)):
                raise FormatError(f"{self.op}: {name} has shape {list(a.shape)}")
        if int(self.arrays["shift"].max(initial=0)) > MOST:
            raise FormatError(f"{self.op}: a shift of more than {MOST} bits")

    def out(self, shapes: list[tuple[int, int, int]], reach: list[int]) -> tuple[int, int, int]:
        """The shape (channels, height, width) of what comes out, for shapes and largest magnitudes of all tensors before.

        Raises `FormatError` where inputs do not fit, or a sum could pass 31 bits.
        """
        (c, h, w), most = shapes[self.inputs[0]], reach[self.inputs[0]]
        if self.op == "add":
            if shapes[self.inputs[1]] != (c, h, w):
                raise FormatError(f"add: {shapes[self.inputs[1]]} and {(c, h, w)}")
            return c, h, w
        if self.op == "mean":
            if most * h * w >= 1 << 31:
                raise FormatError("mean: the sum may pass 31 bits")
            return c, 1, 1
        weight = self.arrays["weight"]
        o, own, kh, kw = weight.shape
        top, bottom, left, right = self.pad
        tall, wide = (h + top + bottom - kh) // self.stride + 1, (w + left + right - kw) // self.stride + 1
        if own * self.groups != c or o % self.groups or h + top + bottom < kh or w + left + right < kw:
            raise FormatError(f"conv: weights {list(weight.shape)} in {self.groups} groups for {c} channels of {h} x {w}")
        if self.largest(most) >= 1 << 31:
            raise FormatError("conv: the sum may pass 31 bits")
        return o, tall, wide

    def largest(self, most: int) -> int:
        """What no sum of a convolution passes, for inputs within ± most."""
        weight, bias = self.arrays["weight"], self.arrays["bias"]
        return int((np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1) * most + np.abs(bias.astype(np.int64))).max())


@dataclass(frozen=True)
class IntegerNet:
    """Nodes for inputs of ``shape`` (channels, height, width) with values within low … high.

    >>> one = {"multiplier": np.int32([1 << 30]), "shift": np.uint8([32])}
    >>> net = IntegerNet((Node("mean", (0,), -128, 127, one),), (1, 2, 2), 0, 255)
    >>> net.run(np.array([[[[1, 3], [5, 7]]]])).tolist()
    [[4]]
    """

    nodes: tuple[Node, ...]
    shape: tuple[int, int, int]
    low: int = -128
    high: int = 127
    _reach: list[int] = field(default_factory=list, repr=False, compare=False)
    _made: list[Any] = field(default_factory=list, repr=False, compare=False)  # the native net, once it has run

    def __post_init__(self):
        if not 0 < len(self.nodes) <= NODES or len(self.shape) != 3 or not all(1 <= s <= SIDE for s in self.shape):
            raise FormatError(f"a net of {len(self.nodes)} nodes for inputs of {list(self.shape)}")
        if not -(1 << 15) <= self.low <= self.high < 1 << 16:
            raise FormatError(f"inputs from {self.low} to {self.high}; they must be within 16 bits")
        shapes = [self.shape]
        self._reach.append(max(abs(self.low), abs(self.high)))
        for i, node in enumerate(self.nodes):
            if not all(0 <= j <= i for j in node.inputs):
                raise FormatError(f"node {i} takes tensors {list(node.inputs)}, which are not there yet")
            shapes.append(node.out(shapes, self._reach))
            self._reach.append(max(abs(node.low), abs(node.high)))

    def __reduce__(self):  # copies and other processes make a native net of their own
        return IntegerNet, (self.nodes, self.shape, self.low, self.high)

    def run(self, x, *, limits: Limits = DEFAULT) -> np.ndarray:
        """Integers x (n, channels, height, width) → what the last node gives: int32 (n, channels), or with its pixels if it has more.

        The same integers on every machine. Pictures are shared by threads; one alone is worked on by all of them.

        Raises `InputError` for another shape or values that are no integers of the range, `LimitError` for too large tensors.
        """
        x = self._checked(x)
        native = self._native()
        size = max(1, min(len(x), _native.threads())) * native.bytes + 4 * len(x) * prod(native.output)
        limits.check("allocation", size, "the tensors of an integer net")
        if x.dtype not in (np.uint8, np.int8, np.int32, np.int64):
            x = x.astype(np.int64)
        try:
            y = native.run(np.ascontiguousarray(x))
        except ValueError:
            raise InputError(f"values from {x.min()} to {x.max()}; this net takes {self.low} to {self.high}") from None
        return y[:, :, 0, 0] if y.shape[2:] == (1, 1) else y

    def reference(self, x, *, limits: Limits = DEFAULT) -> np.ndarray:
        """What `run` gives, by NumPy."""
        x = self._checked(x)
        if x.size and not (self.low <= x.min() and x.max() <= self.high):
            raise InputError(f"values from {x.min()} to {x.max()}; this net takes {self.low} to {self.high}")
        tensors: dict[int, np.ndarray] = {0: x.astype(np.int32)}
        last = {j: i for i, node in enumerate(self.nodes) for j in node.inputs}
        for i, node in enumerate(self.nodes):
            inputs = [tensors[j] for j in node.inputs]
            tensors[i + 1] = self._step(node, inputs, limits)
            for j in node.inputs:
                if last[j] == i:
                    tensors.pop(j, None)
        y = tensors[len(self.nodes)]
        return y[:, :, 0, 0] if y.shape[2:] == (1, 1) else y

    def _native(self):
        if not self._made:
            net = _native.IntegerNet(self.shape, self.low, self.high)
            for i, node in enumerate(self.nodes):
                a = {name: np.ascontiguousarray(v) for name, v in node.arrays.items()}
                kernel = {"stride": node.stride, "groups": node.groups, "pad": node.pad} if node.op == "conv" else {}
                try:
                    getattr(net, node.op)(*node.inputs, **a, **kernel, low=node.low, high=node.high)
                except ValueError as e:  # tensors that no memory holds
                    raise FormatError(f"node {i}: {e}") from None
            self._made.append(net)
        return self._made[0]

    def _checked(self, x) -> np.ndarray:
        x = np.asarray(x)
        if x.ndim != 4 or x.shape[1:] != self.shape or x.dtype.kind not in "iu":
            raise InputError(f"this net takes integers (n, {', '.join(map(str, self.shape))}), not {x.dtype}{list(x.shape)}")
        return x

    def _step(self, node: Node, inputs: list[np.ndarray], limits: Limits) -> np.ndarray:
        b, c = node.arrays["multiplier"], node.arrays["shift"]
        if node.op == "add":
            bits = np.int64(c[0])
            y = (inputs[0] * np.int64(b[0]) + inputs[1] * np.int64(b[1]) + ((np.int64(1) << bits) >> 1)) >> bits
        elif node.op == "mean":
            y = rescaled(inputs[0].sum(axis=(2, 3), keepdims=True, dtype=np.int64), b, c)
        else:
            acc = convolved(inputs[0], node, node.largest(self._reach[node.inputs[0]]), limits)
            y = rescaled(acc + node.arrays["bias"][:, None, None], b[:, None, None], c[:, None, None])
        return np.clip(y, node.low, node.high).astype(np.int32)

    # -- the file ----------------------------------------------------------------------------------------------------------
    def save(self, path, *, codec: str = "raw", overwrite: bool = False) -> None:
        """Write the net to a .cpd file; ``codec`` of the weights, which must lose nothing."""
        nodes = [{"op": n.op, "inputs": list(n.inputs), "low": n.low, "high": n.high, "stride": n.stride, "groups": n.groups,
                  "pad": list(n.pad)} for n in self.nodes]
        with Writer(path, overwrite=overwrite, meta={KEY: {"nodes": nodes, "shape": list(self.shape), "low": self.low,
                                                           "high": self.high}}) as file:
            for i, node in enumerate(self.nodes):
                for name, a in node.arrays.items():
                    file.write(f"{i}.{name}", a, codec if name == "weight" else "raw")

    @staticmethod
    def open(source, *, limits: Limits = DEFAULT) -> IntegerNet:
        """The net in a .cpd file (a path or bytes). Any bytes end in a net that can run, or in a `CompandError`."""
        with open_file(source, limits=limits) as file:
            said = file.meta.get(KEY)
            if not isinstance(said, dict):
                raise FormatError("this .cpd file holds no integer net")
            nodes = said.get("nodes")
            if not isinstance(nodes, list) or not 0 < len(nodes) <= NODES:
                raise FormatError("the integer net has no list of nodes")
            found = []
            for i, record in enumerate(nodes):
                if not isinstance(record, dict):
                    raise FormatError(f"node {i} is not an object")
                names = _STORED if record.get("op") == "conv" else ("multiplier", "shift")
                try:
                    arrays = {name: np.ascontiguousarray(file[f"{i}.{name}"].array()) for name in names}
                except KeyError as e:
                    raise CorruptError(f"node {i}: the file has no entry {e.args[0]!r}") from None
                integers = {k: _integers(record.get(k), i) for k in ("low", "high", "stride", "groups")}
                lists = {k: tuple(_integers(v, i) for v in _list(record.get(k), i)) for k in ("inputs", "pad")}
                try:
                    found.append(Node(str(record.get("op")), arrays=arrays, **integers, **lists))  # type: ignore[arg-type]
                except CompandError as e:
                    raise type(e)(f"node {i}: {e}") from None
            shape = tuple(_integers(v, -1) for v in _list(said.get("shape"), -1))
            return IntegerNet(tuple(found), shape, _integers(said.get("low"), -1), _integers(said.get("high"), -1))  # type: ignore[arg-type]


def convolved(x: np.ndarray, node: Node, largest: int, limits: Limits = DEFAULT) -> np.ndarray:
    """Σ w x of a convolution: integers x (n, c, h, w) → int64 (n, o, h', w').

    Products run through floating-point units, exactly: ``largest``, a bound of every partial sum, is below 2^24 (float32) or 2^53.
    """
    weight, (top, bottom, left, right), s = node.arrays["weight"], node.pad, node.stride
    o, own, kh, kw = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))) if any(node.pad) else x
    n, c = x.shape[:2]
    tall, wide = (x.shape[2] - kh) // s + 1, (x.shape[3] - kw) // s + 1
    limits.check("allocation", 8 * n * tall * wide * max(own * kh * kw if node.groups == 1 else 1, o), "an integer convolution")
    if own == 1 and o == c:  # depthwise
        y = np.zeros((n, o, tall, wide), np.int32)
        for i in range(kh):
            for j in range(kw):
                y += x[:, :, i:i + s * (tall - 1) + 1:s, j:j + s * (wide - 1) + 1:s] * weight[:, 0, i, j].astype(np.int32)[:, None, None]
        return y.astype(np.int64)
    carrier: Any = np.float32 if largest < _EXACT[np.float32] else np.float64
    y = np.empty((n, o, tall * wide), np.int64)
    for g in range(node.groups):
        rows = slice(g * (o // node.groups), (g + 1) * (o // node.groups))
        w = weight[rows].reshape(len(weight[rows]), -1).astype(carrier)
        for k in range(n):
            own_x = x[k, g * own:(g + 1) * own]
            if kh == kw == 1:
                patches = own_x[:, ::s, ::s]
            else:
                view = np.lib.stride_tricks.sliding_window_view(own_x, (kh, kw), axis=(1, 2))[:, ::s, ::s]
                patches = view.transpose(0, 3, 4, 1, 2)
            y[k, rows] = w @ patches.reshape(w.shape[1], -1).astype(carrier)
    return y.reshape(n, o, tall, wide)


def _integers(value: Any, node: int) -> int:
    if type(value) is not int:
        raise FormatError(f"node {node}: {str(value)[:40]!r} where an integer belongs")
    return value


def _list(value: Any, node: int) -> list:
    if not isinstance(value, list) or len(value) > 8:
        raise FormatError(f"node {node}: {str(value)[:40]!r} where a list of integers belongs")
    return value
