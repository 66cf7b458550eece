"""What a native scan needs to know of codes: ids, codebooks, gains. None where there is no kernel for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..codes import Codes, unpack_part
from ..expression import Chain, Sum
from ..quantizer.ecsq import Ecsq
from ..quantizer.int import Int
from ..quantizer.refined import Refined
from ..stage import Stage
from ..symbols import pack
from . import codewords
from .affine import Affine, affine
from .codewords import Codewords

_EMPTY = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Leaf:
    """Rows of ids whose decoded inner product with a query is gain · Σ table[id], after an affine map of the query."""

    rows: np.ndarray       # (n, row bytes) packed ids
    bits: int
    groups: int
    gain: np.ndarray       # (n,) float32
    codebooks: np.ndarray  # (values,) float32: for each group (size, 2^bits)
    sizes: np.ndarray      # (groups,) int32; none: columns
    columns: np.ndarray    # (width,) float32 factors of the query's coordinates
    zero: float            # columns, without codebooks: value = id + zero
    affine: Affine
    debiased: bool = False            # the gain makes inner products unbiased
    take: np.ndarray | None = None    # the query's coordinate of each column; None: in order
    fine: int = 1 << 32               # columns from here on say what the others have rounded off


class Place(NamedTuple):
    """A quantizer in the expression of codes."""

    stage: Stage
    path: str                        # of its parts
    coder: str                       # of the chain it stands in
    transforms: tuple[Stage, ...]    # before it, outermost first


def place(codes: Codes, terms: int, term: int = 0) -> Place | None:
    """Where the quantizer of one term is, if codes are a sum and it is the last of ``terms``; else the only one's."""
    stage, path, transforms, coder = codes.codec.stage, "", (), ""
    while isinstance(stage, (Chain, Sum)):
        if isinstance(stage, Chain):
            path += f"{len(stage.transforms)}."
            transforms += stage.transforms
            coder = str(stage.coder) if stage.coder else coder
            stage = stage.quantizer
        elif terms == term + 1 and term < len(stage.items):
            path, stage = path + f"{term}.", stage.items[term]
        else:
            return None
    return Place(stage, path, coder, transforms)


def leaf(codes: Codes, terms: int, term: int = 0) -> Leaf | None:
    """The leaf of codes, of one term if they are a sum and it is the last of ``terms``; None if only decoding can tell scores.

    Of codewords without gains the first ``terms`` together are one leaf.
    """
    found = place(codes, terms, term)
    if not codes.blocks:
        return None
    if found is None:
        return _together(codes, terms) if term == 0 and terms > 1 else None
    stage = found.stage
    refined = isinstance(stage, Refined) and terms == term + 1
    made = _made(codes, found._replace(stage=stage.coarse) if refined else found)
    return made and (replace(made, debiased=False) if refined else made)  # a refined row's length is known from both its codes


def leaves(codes: Codes, first: int = 0) -> tuple[list[Leaf], np.ndarray] | None:
    """The leaves of all terms from ``first`` on, whose scores add up, and the shift (d,) of a row by all of them together.

    None if there is only one leaf, or only decoding can tell scores.
    """
    stage = codes.codec.stage
    stage = stage.quantizer if isinstance(stage, Chain) else stage
    outer = map_of(codes, _whole(codes))
    if outer is None or not codes.blocks:
        return None
    out: list[Leaf] = []
    shift = outer.shift
    for i in range(first, len(stage.items) if isinstance(stage, Sum) else 1):
        found = place(codes, i + 1, i)
        if found is None:
            return None
        refined = isinstance(found.stage, Refined)
        made = [_made(codes, found._replace(stage=s)) for s in ((found.stage.coarse, found.stage.fine) if refined else (found.stage,))]
        if any(one is None for one in made):
            return None
        if refined:
            gain = np.ascontiguousarray(found.stage.gains({"whole": codes.part(found.path + "whole")}), np.float32)
            made = [replace(one, gain=gain) for one in made]
        out += made
        shift = shift + made[0].affine.shift - outer.shift
    return (out, shift) if len(out) > 1 else None


def _made(codes: Codes, found: Place) -> Leaf | None:
    if found.stage.name not in ("ecsq", "grouped", "int", "pq", "sign", "vq"):
        return None
    map_ = map_of(codes, found.transforms)
    if map_ is None:
        return None
    if found.stage.name in ("ecsq", "int"):
        return (_ecsq if found.stage.name == "ecsq" else _int)(found.stage, codes, found.path, found.coder, map_)
    made = _codewords(codes, found, map_)
    return made and _of_codewords(made, codes, map_, getattr(found.stage, "gain", False))


def _codewords(codes: Codes, found: Place, map_: Affine) -> Codewords | None:
    if found.stage.name == "grouped":
        return codewords.grouped(found.stage, codes, found.path, found.coder)
    make = {"pq": codewords.pq, "sign": codewords.sign, "vq": codewords.vq}.get(found.stage.name)
    width = len(map_.shift) if map_.matrix is None else len(map_.matrix)
    return make(found.stage, codes, found.path, found.coder, width) if make else None


def _of_codewords(made: Codewords, codes: Codes, map_: Affine, debiased: bool = False) -> Leaf:
    gain = np.ones(codes.form.n, np.float32) if made.gain is None else made.gain
    return Leaf(made.rows, made.bits, len(made.sizes), gain, made.books, made.sizes,
                np.ones(int(made.sizes.sum(dtype=np.int64)), np.float32), 0.0, map_, debiased)


def _together(codes: Codes, terms: int) -> Leaf | None:
    """Codewords of the first terms of a sum, with the maps of all of them, one below the other."""
    found = [place(codes, i + 1, i) for i in range(terms)]
    if any(f is None or f.stage.name not in ("grouped", "pq", "vq") for f in found):
        return None
    maps = [map_of(codes, f.transforms) for f in found]
    made = [m and _codewords(codes, f, m) for f, m in zip(found, maps, strict=True)]
    one = None if any(m is None for m in made) else codewords.together(made)
    if one is None:
        return None
    eye, outer = np.eye(codes.form.d, dtype=np.float32), map_of(codes, _whole(codes))
    matrix = np.concatenate([(eye if a.matrix is None else a.matrix)[:m.sizes.sum()] for a, m in zip(maps, made, strict=True)])
    shift = outer.shift + sum(a.shift - outer.shift for a in maps)
    return _of_codewords(one, codes, Affine(matrix, shift))


def _whole(codes: Codes) -> tuple[Stage, ...]:
    """Transforms before the whole sum."""
    return codes.codec.stage.transforms if isinstance(codes.codec.stage, Chain) else ()


def map_of(codes: Codes, transforms: tuple[Stage, ...]) -> Affine | None:
    """`affine` of transforms in the expression of codes, kept with them: terms of one chain share theirs."""
    kept = codes.__dict__.setdefault("_affines", {})
    key = tuple(map(id, transforms))
    if key not in kept:
        kept[key] = affine(transforms, codes.form)
    return kept[key]


def _int(q: Int, codes: Codes, path: str, coder: str, map_: Affine) -> Leaf | None:
    if q.k > 256 or q.group or q.noise is not None or not q.sym or q.pow2:
        return None
    width = len(map_.shift) if map_.matrix is None else len(map_.matrix)
    gain, columns = np.ones(codes.form.n, np.float32), np.ones(width, np.float32)
    if q.step:
        columns *= np.float32(q.step)
    elif q.per == "row":
        gain = np.ascontiguousarray(codes.part(path + "scale")[:, 0].astype(np.float32))
    else:
        columns *= q.scale_
    rows = codewords.packed(codes, path + "ids", coder, 256) if q.k == 256 else pack(codes.symbols(path + "ids"), 256)
    return Leaf(rows, 8, width, gain, _EMPTY, np.zeros(0, np.int32), columns, float(q.z), map_)


def _ecsq(q: Ecsq, codes: Codes, path: str, coder: str, map_: Affine) -> Leaf | None:
    """Integers as bytes. Of columns that reach beyond ±127 the multiple of a number, and after all columns what is left of it."""
    reach = np.repeat(q.most, np.diff([0, *q.ends(len(q.factors_))]))
    half = q.trellis  # i + 1/2 = c (a + 1/2) + r + 1/2, of -128 ≤ a < 128, an even c and r = i - c a - c / 2
    coarse = np.where(reach > 128, 2 * -(-reach // 256), 1) if half else -(-reach // 127)
    wide, at, d = np.flatnonzero(coarse > 1), 0, len(reach)
    rows, gain = np.empty((codes.form.n, d + len(wide)), np.uint8), np.ones(codes.form.n, np.float32)
    for block in codes.blocks:  # one by one: symbols and integers of all rows would take several times the memory of what is made
        layout, own = codes.codec.layout(codes.form._replace(n=block.rows)), slice(at, at + block.rows)
        parts = {f"ids{c}": unpack_part(block.parts[f"{path}ids{c}"], layout[f"{path}ids{c}"]) for c in range(len(q.reach_))}
        if q.gain:
            gain[own] = q.gains(parts | {"gain": block.parts[path + "gain"]})
        ids = q.integers(parts)
        rest = ids[:, wide]
        ids[:, wide] = (np.floor if half else np.rint)(rest / coarse[wide].astype(np.float32))
        rest -= ids[:, wide] * coarse[wide].astype(np.int16) + (coarse[wide] // 2 * half).astype(np.int16)
        rows[own, :d], rows[own, d:] = ids + np.int16(128), rest + np.int16(128)
        at += block.rows
    take = np.concatenate([np.arange(len(reach)), wide])
    columns = np.concatenate([q.factors_ * coarse, q.factors_[wide]]).astype(np.float32)
    return Leaf(rows, 8, rows.shape[1], gain, _EMPTY, np.zeros(0, np.int32), columns, q.shift - 128, map_, q.gain, take, len(reach))
