"""Weights as a native product wants them: leaves of codes, laid out once and kept with the codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from .. import _native
from ..codes import Codes, unpack_part
from ..errors import CorruptError
from ..positions import unpack_positions
from ..quantizer import e8
from ..quantizer.float import _E8M0, E4M3, Float
from ..quantizer.int import Int, _powers
from ..quantizer.lattice import Lattice
from ..quantizer.lowrank import Lowrank
from ..quantizer.nested import Nested
from ..quantizer.pq import PQ, wide_codewords
from ..quantizer.ranks import checked
from ..quantizer.salient import Salient
from ..quantizer.sign import Sign
from ..quantizer.table import Table
from ..quantizer.ternary import Ternary
from ..quantizer.trellis import ROWS, Trellis
from ..stage import Form, Stage
from ..symbols import pack, unpack, width

Product = Callable[[np.ndarray], np.ndarray]  # x (m, d) float32 → x times the transpose of the weights (m, n) float32
BLOCK = 64          # columns whose activations share a scale; 128 for trellis
FINE = 127 * 128    # levels of two bytes are within ± this


@dataclass(frozen=True)
class Leaf:
    """Where the codes of one quantizer are: its stage, the form it sees, and the path of its parts."""

    codes: Codes
    stage: Stage
    form: Form
    path: str
    coder: str
    kinds: Any = _native  # the classes of products: native ones, or those of another device by the same names

    def part(self, name: str) -> np.ndarray:
        """One part over all rows, as stored."""
        return self.codes.part(self.path + name)

    def some(self, at: int, rows: int, size: int, k: int) -> np.ndarray:
        """The symbols (rows, size) from a row on."""
        if self.coder:
            return self.codes.symbols(self.path + "ids")[at:at + rows]
        return unpack(np.ascontiguousarray(self.part("ids")[at:at + rows]), size, k)

    def ids(self, k: int) -> np.ndarray:
        """The symbols packed in whole bits: a view of the codes where they are so, else packed anew some rows at a time."""
        if not self.coder and k & (k - 1) == 0:
            return np.ascontiguousarray(self.part("ids"))
        packed = []
        for b in self.codes.blocks:
            part = self.codes.codec.layout(self.codes.form._replace(n=b.rows))[self.path + "ids"]
            stored = b.parts[self.path + "ids"]
            step = b.rows if self.coder else max(1, (1 << 20) // max(1, prod(part.shape[1:])))
            for at in range(0, b.rows, step):
                own = replace(part, shape=(min(step, b.rows - at), *part.shape[1:]))
                ids = unpack_part(stored if self.coder else stored[at:at + step], own)
                packed.append(pack(ids.reshape(own.shape[0], -1), 1 << width(k)))
        return np.concatenate(packed)


def plain(w: np.ndarray) -> _native.Plain:
    """Weights as float32, whose products are the same bits everywhere."""
    return _native.Plain(np.ascontiguousarray(w, np.float32))


def product(leaf: Leaf) -> Product | None:
    """The product of a leaf by a kernel of its kinds; None where there is none."""
    make = {"int": _int, "table": _table, "float": _float, "sign": _sign, "ternary": _ternary, "trellis": _trellis, "lattice": _lattice,
            "vq": _vq, "pq": _pq, "nested": _nested, "lowrank": _lowrank, "sparse": _sparse, "salient": _salient,
            "ranks": _ranks, "raw": _raw}.get(leaf.stage.name)
    return make(leaf) if make and leaf.form.n and leaf.form.d else None


# -- rows of ids ---------------------------------------------------------------------------------------------------------------
def _rows(leaf: Leaf, k: int, scale: np.ndarray, group: int | None, *, values: np.ndarray | None = None, zero=None,
          ids: np.ndarray | None = None) -> Product | None:
    """Ids of k levels: id + z0 where ``values`` is None (``zero`` being z0 or an array of them), else values[id]."""
    d = leaf.form.d
    group = min(group or d, d)
    if group >= d:
        group = -(-d // BLOCK) * BLOCK
    if k > 256 or not (group in (16, 32) or group % BLOCK == 0):
        if isinstance(zero, np.ndarray):
            return None
        return _words(leaf, k, np.arange(k, dtype=np.float32) + np.float32(zero) if values is None else values, scale=scale, group=group)
    bits = max(width(k), 1)
    if ids is None:
        ids = leaf.ids(k) if k > 1 else np.zeros((leaf.form.n, -(-d // 8)), np.uint8)
    unit, offset, low, high, free = 1.0, 0, None, None, None
    if isinstance(zero, np.ndarray):
        free = np.ascontiguousarray(zero, np.float32)
    elif values is None and zero == int(zero):
        offset = -int(zero)
    else:
        values = np.arange(k, dtype=np.float32) + np.float32(zero) if values is None else values
        found = _integers(values)
        if found is None:
            return None
        level, unit = found
        if level.max() - level.min() <= 255:
            offset, low = -int(level.min()), _bytes(level - level.min(), bits)
        else:
            below = (level + 64) % 128
            low, high = _bytes(below, bits), _bytes((level + 64 - below) // 128 + 127, bits)
            offset = 64 + 127 * 128
    brain = scale.view(np.uint16) if scale.dtype.name == "bfloat16" else None
    wide = None if brain is not None else np.ascontiguousarray(scale, np.float32)
    return leaf.kinds.Ids(d, ids, bits, offset, unit, group, brain, wide, low, high, free)


def _integers(values: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Levels as integers within ±FINE times a unit: exactly where a power of two does it, else to 2^-15 of the largest."""
    top = float(np.abs(values).max(initial=0))
    if not np.isfinite(top):
        return None
    if top == 0:
        return np.zeros(len(values), np.int64), 1.0
    exponent = int(np.floor(np.log2(FINE / top)))
    for e in range(exponent, exponent - 16, -1):  # the smallest integers that are exact
        scaled = np.ldexp(values.astype(np.float64), e)
        if (scaled == np.rint(scaled)).all():
            while (scaled % 2 == 0).all():
                scaled, e = scaled / 2, e - 1
            return scaled.astype(np.int64), float(2.0 ** -e)
    return np.rint(values * (FINE / top)).astype(np.int64), top / FINE


def _bytes(level: np.ndarray, bits: int) -> np.ndarray:
    return np.pad(level, (0, (1 << bits) - len(level))).astype(np.uint8)


def _int(leaf: Leaf) -> Product | None:
    q: Int = leaf.stage
    n, zero, columns = leaf.form.n, q.z, None
    if q.noise is not None:
        return None
    if q.step:
        scale = np.full((n, 1), q.step, np.float32)
    elif q.per == "row":
        scale = _powers(leaf.part("scale")) if q.pow2 else leaf.part("scale")
        zero = zero if q.sym else leaf.part("zero").astype(np.float32)
    else:
        own = _powers(q.scale_) if q.pow2 else q.scale_
        if q.per == "column" and not q.sym:
            return None
        columns = own if q.per == "column" else None
        scale = np.broadcast_to(np.float32(1) if q.per == "column" else own, (n, 1))
        zero = zero if q.sym else np.full((n, 1), q.zero_[0], np.float32)
    if columns is None:
        return _rows(leaf, q.k, scale, q.group, zero=zero)
    rows = _rows(leaf, q.k, scale, q.group, zero=zero)
    return rows and (lambda x: rows(x * columns))


def _table(leaf: Leaf) -> Product | None:
    q: Table = leaf.stage
    if q.per == "row":
        return None
    scale = np.ones((leaf.form.n, 1), np.float32) if q._scale == "none" else leaf.part("scale")
    return _rows(leaf, q.k, scale, q.group, values=q.table)


def _float(leaf: Leaf) -> Product | None:
    q: Float = leaf.stage
    values = q.of.values
    whole = np.isfinite(values).all() and (found := _integers(values)) is not None and (found[0] * found[1] == values).all()
    if q.scale in ("none", "tensor"):
        scale = np.full((leaf.form.n, 1), 1 if q.scale == "none" else q.scale_[0], np.float32)
    else:
        scale = leaf.part("scale")
        if q.scale != "row":
            scale = _E8M0[scale] if q.scale == "mx" else E4M3.decode(scale) * q.scale_
    if whole:
        return _rows(leaf, q.of.k, scale, q._group, values=values)
    fraction = q.of.mantissa if q.of.k == 256 else 0  # a range too wide for two bytes
    if not fraction or leaf.coder:
        return _words(leaf, q.of.k, values, scale=scale, group=q._group)
    ids, finite = leaf.ids(256), np.isfinite(values)
    if not finite.all() and not all(finite[ids[at:at + 256]].all() for at in range(0, len(ids), 256)):
        return None  # NaN and infinity are no such numbers; no encoder writes them
    return _words(leaf, 256, None, scale=scale, group=q._group, fraction=fraction, unit=2.0 ** (127 - q.of.bias))


def _sign(leaf: Leaf) -> Product | None:
    q: Sign = leaf.stage
    if q.complex:
        return _words(leaf, 4, np.float32([[1, 0], [0, 1], [-1, 0], [0, -1]]), scale=leaf.part("scale"), group=q.group)
    return _rows(leaf, 2, leaf.part("scale"), q.group, values=np.float32([-1, 1]))


def _nested(leaf: Leaf) -> Product | None:
    q: Nested = leaf.stage
    (low, high), d, packed = q.span, leaf.form.d, []
    if high - low > 255:
        return None
    for b in leaf.codes.blocks:  # the bits of all terms in one
        layout = leaf.codes.codec.layout(leaf.codes.form._replace(n=b.rows))
        names = [f"{leaf.path}{t}.ids" for t in range(len(q.bits))]
        ids = q.integers([unpack_part(b.parts[name], layout[name]) for name in names]) - low
        packed.append(pack(np.ascontiguousarray(ids, np.uint8).reshape(b.rows, d), 1 << q.bits[-1]))
    middle = 0.5 if q.rule == "floor" else 0.0
    return _rows(leaf, 1 << q.bits[-1], leaf.part("scale"), q.group, zero=low + middle, ids=np.concatenate(packed))


def _ternary(leaf: Leaf) -> Product | None:
    q: Ternary = leaf.stage
    return _rows(leaf, 3, leaf.part("scale"), q.group, zero=-1)


# -- words of codebooks --------------------------------------------------------------------------------------------------------
def _words(leaf: Leaf, k: int, book: np.ndarray | None, *, scale=None, group: int | None = None, start=None, fraction: int = 0,
           unit: float = 1.0) -> Product | None:
    """Ids of words: book is (k,), (k, dim), or (pieces, k, dim), float32 or int8; all of it times ``unit`` where it is int8."""
    d = leaf.form.d
    bits = max(width(k), 1)
    if bits > 20 or k < 2:
        return None
    arrays: dict[str, np.ndarray | None] = {"start": start}
    if book is not None:
        book = book.reshape(-1, k, book.shape[-1] if book.ndim > 1 else 1)
        if k < 1 << bits:
            book = np.pad(book, ((0, 0), (0, (1 << bits) - k), (0, 0)))
        arrays["small" if book.dtype == np.int8 else "book"] = np.ascontiguousarray(book)
    if scale is not None:
        wide = scale.astype(np.float32) * np.float32(1 if fraction else unit)
        arrays["scale"] = np.ascontiguousarray(wide)
    dim = 1 if book is None else book.shape[2]
    return leaf.kinds.Words(d, leaf.ids(k), bits, dim, **arrays, group=min(group or d, d) if scale is not None else d, fraction=fraction,
                         unit=unit)


def _vq(leaf: Leaf) -> Product | None:
    return _words(leaf, leaf.stage.k, wide_codewords(leaf.stage.codebook_))


def _pq(leaf: Leaf) -> Product | None:
    q: PQ = leaf.stage
    start = np.array([c.start for c in q.columns(leaf.form.d)], np.uint32)
    return _words(leaf, q.k, wide_codewords(q.codebook_), start=start)


def _lattice(leaf: Leaf) -> Product | None:
    q: Lattice = leaf.stage
    scale = leaf.part("scale")
    if q.bits < 3:  # twice the coordinates are integers
        points = (2 * e8.shortest(8 * q.bits)[0]).astype(np.int8)
        return _words(leaf, 1 << (8 * q.bits), points, scale=scale, group=q.group, unit=0.5)
    if q.bits > 7:
        return None
    low, size = -(1 << (q.bits - 1)), 8 * -(-leaf.form.d // 8)
    packed = np.empty((leaf.form.n, -(-leaf.form.d * (q.bits + 1) // 8)), np.uint8)
    rows = max(1, (1 << 20) // size)
    for at in range(0, leaf.form.n, rows):  # the half that all eight share goes to each of them: a bit more
        ids = leaf.some(at, rows, size, 1 << q.bits)
        points = e8.box_points(ids.reshape(-1, 8).astype(np.float32), low).reshape(len(ids), size)[:, :leaf.form.d]
        packed[at:at + rows] = pack((2 * (points - low)).astype(np.uint8), 2 << q.bits)
    return _rows(leaf, 2 << q.bits, scale.astype(np.float32) * np.float32(0.5), q.group, zero=2 * low, ids=packed)


# -- trellis -------------------------------------------------------------------------------------------------------------------
def _trellis(leaf: Leaf) -> Product | None:
    q: Trellis = leaf.stage
    n, d = leaf.form[:2]
    rows = [b.rows for b in leaf.codes.blocks]
    if any(r % ROWS for r in rows[:-1]):
        return None
    group = min(q.group or d, d)
    if group >= d:
        group = -(-d // 128) * 128
    block = 128 if group % 128 == 0 else group
    if block % 2 or block > 4096:
        return None
    bits = leaf.part("bits")
    strips = n // ROWS
    scale = leaf.part("scale").astype(np.float32)
    own = np.ascontiguousarray(scale[:strips * ROWS].reshape(strips, ROWS, scale.shape[1]).transpose(0, 2, 1))
    left = n - strips * ROWS
    rest = np.zeros((left, d), np.int16)
    if left:
        tail = {"bits": np.ascontiguousarray(bits[strips * 2 * d * q.bits:]), "scale": np.ones((left, scale.shape[1]), np.float32)}
        rest = np.ascontiguousarray(q.decode(tail, Form(left, d)).astype(np.int16))
    factors = np.array(q.multipliers, np.uint16)
    behind = np.ascontiguousarray(scale[strips * ROWS:])
    return leaf.kinds.Trellis(d, bits, q.bits, factors, block, group, own, rest, behind)


# -- every bit kept ------------------------------------------------------------------------------------------------------------
def _ranks(leaf: Leaf) -> Product | None:
    if leaf.form.dtype != "bfloat16" or leaf.coder:
        return None
    if leaf.form.d < BLOCK:  # the kernel lays 128 columns together
        return leaf.kinds.Plain(np.ascontiguousarray(leaf.codes.codec.decode(leaf.codes)).view(np.uint16))
    blocks = []
    for b in leaf.codes.blocks:
        mantissa, rank, count, escapes, exponents = (b.parts[leaf.path + p] for p in ("mantissa", "rank", "count", "escapes", "exponents"))
        blocks.append((mantissa, rank, count[:, 0].astype(np.uint32), escapes, checked(exponents, escapes)))
    try:
        return leaf.kinds.Ranks(leaf.form.d, blocks)
    except (TypeError, ValueError) as e:
        raise CorruptError(f"{leaf.stage} cannot decode these parts: {e}") from e


def _raw(leaf: Leaf) -> Product | None:
    if leaf.form.dtype not in ("bfloat16", "float32"):
        return None
    values = np.ascontiguousarray(leaf.part("values"))
    return leaf.kinds.Plain(values.view(np.uint16) if leaf.form.dtype == "bfloat16" else values)


# -- terms of sums -------------------------------------------------------------------------------------------------------------
def _lowrank(leaf: Leaf) -> Product:
    q: Lowrank = leaf.stage
    basis, scale, gain = (a.astype(np.float32) for a in (q.basis_, q.scale_, q.gain_))
    directions = np.ascontiguousarray(basis * gain * scale[:, None])
    coefficients = np.ascontiguousarray(leaf.part("coefficients"), np.float32)
    return leaf.kinds.Behind(leaf.kinds.Plain(coefficients), leaf.kinds.Plain(directions))


def _sparse(leaf: Leaf) -> Product:
    n, d = leaf.form[:2]
    rows, columns, values, at = [], [], [], 0
    for b in leaf.codes.blocks:
        form = leaf.form._replace(n=b.rows)
        layout = leaf.codes.codec.layout(leaf.codes.form._replace(n=b.rows))
        parts = {name: unpack_part(b.parts[leaf.path + name], layout[leaf.path + name]) for name in ("scale", "low", "high", "values")}
        where = unpack_positions(parts["low"], parts["high"], len(parts["values"]), form.n * d)
        rows.append(where // d + at)
        columns.append((where % d).astype(np.uint32))
        values.append(parts["values"].astype(np.float32) * parts["scale"])
        at += b.rows
    start = np.concatenate([[0], np.cumsum(np.bincount(np.concatenate(rows), minlength=n))]).astype(np.int64)
    return leaf.kinds.Sparse(d, start, np.concatenate(columns), np.ascontiguousarray(np.concatenate(values), np.float32))


def _salient(leaf: Leaf) -> Product | None:
    q: Salient = leaf.stage
    n = leaf.form.n
    rows, ids, scale, at = [], [], [], 0
    for b in leaf.codes.blocks:
        parts = {name: b.parts[leaf.path + name] for name in ("rows", "ids", "scale")}
        own, packed = q.coded(parts, leaf.form._replace(n=b.rows))
        rows.append(own + at)
        ids.append(packed)
        scale.append(parts["scale"].reshape(-1, 1))
        at += b.rows
    if not (number := np.concatenate(rows)).size:
        return lambda x: np.zeros((len(x), n), np.float32)
    few = replace(leaf, form=leaf.form._replace(n=len(number)))
    inner = _rows(few, q.grid.k, np.concatenate(scale), None, zero=q.grid.z, ids=np.concatenate(ids))
    return inner and leaf.kinds.Some(inner, n, number)
