"""Codes that minimise the error of a layer's outputs, not of its weights: each column makes up for what those before it lost.

With H = L D Lᵀ (L unit lower triangular) the loss trace(e H eᵀ) is the sum over columns j of D_j |e_j + Σ_{i>j} e_i L_ij|². So columns
are coded from the last to the first, each aiming at its weight less the sum. That is GPTQ (Frantar et al. 2022) and LDLQ (QuIP, Chee
et al. 2023), which are the same; for blocks of columns, whose errors a vector code chooses together, BlockLDLQ (QuIP#, Tseng 2024).

The loop is here and not in stages. Any of these can be in it:

- scalar stages, whose ids each stand for one value (int, table, float, ...): a column at a time, in any order;
- stages that code pieces of rows on their own (vq, pq, lattice with group, sums of such): a block of pieces at a time;
- stages with a method ``walk(x)`` that walks through the columns itself (trellis), and sums of such.

Of another sum, the last term is fed back, and those before it (sparse, lowrank) keep their codes. A ``lowrank`` that ends a sum is
fitted to what the terms before it lost of the outputs: ``(hadamard,trellis:2)+lowrank:16``. ``salient`` terms that end a sum take the
rows of the whole matrix that lost most of the outputs, and are fed back themselves: ``(hadamard,trellis:3)+salient:0.1:4``.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil
from typing import Any, Literal, NamedTuple

import numpy as np

from ..array import to_numpy
from ..codec import Codec
from ..codes import Block, Codes, pack_part
from ..errors import InputError, SpecError
from ..expression import Chain, Sum
from ..quantizer.vq import VQ
from ..stage import Form, Stage
from .codewords import settled, terms_of
from .compensate import compensated
from .hessian import carried, damped
from .salient import refined

UNITS = np.float32([[1, 0], [0, 1], [-1, 0], [0, -1]])  # of complex signs
_LEVELS = 1 << 24  # values of all levels of some rows that are held at once


def encode(codec: Codec | str, w, hessian, *, outputs=None, importance=None, damping: float = 0.01, block: int = 8,
           order: Literal["natural", "activity"] = "natural", sweeps: int = 0, each: bool = False) -> Codes:
    """The codes of weights w (n, ...) of a linear layer y = x wᵀ, for inputs whose mean xᵀx is ``hessian`` (d, d).

    Parameters
    ----------
    codec : fitted Codec, or a spec (fitted to w here if it needs to be)
    outputs : curvature G (n, n) of what follows in the outputs of the layer, as the mean of g gᵀ over gradients g there: the loss is
        then trace(G e H eᵀ), and rows make up for those coded before them too (YAQA, Tseng et al. 2025; from the paper)
    importance : of each row (n,), for ``salient`` terms, which take the rows whose importance times loss is largest
    damping : of the diagonal of H, in parts of its mean
    block : columns that a vector stage decides at a time, before their error is fed back
    order : ``activity`` codes the columns with the largest inputs first; for scalar stages, whose scales are then all chosen before
    sweeps : rounds of descent after feedback, for trellis and scalar stages: codes move, a column or a few at a time, to where they lose
        less while all others stay. Each takes a trellis 1.5 times as long as feedback. For vq, pq and sums of them, codewords move too
        (`codewords`)
    each : every term of a sum makes up for its own error, so that the first terms alone are good too; default: for that of the whole sum

    Raises `InputError` for a stage or transform that cannot be in the loop.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((500, 8)) @ rng.standard_normal((8, 32)) + 0.1 * rng.standard_normal((500, 32))
    >>> w, h = rng.standard_normal((64, 32)).astype(np.float32), x.T @ x / 500
    >>> plain, fed = (Codec("int:3").encode(w), encode("int:3", w, h))
    >>> error = [np.square((c.codec.decode(c) - w) @ x.T).mean() for c in (plain, fed)]
    >>> bool(error[1] < 0.4 * error[0]), plain.nbytes == fed.nbytes
    (True, True)
    """
    codec, how = Codec(codec) if isinstance(codec, str) else codec, How(block, order, sweeps, each)
    w = to_numpy(w)
    y, form = codec._rows(w)
    if codec.stage.raw:
        raise InputError(f"{codec.spec} keeps every bit; there is no error to feed back")
    if codec.stage.state(form) and not codec.state():
        codec = codec.fit(w, weight=np.diag(np.asarray(hessian))[None] if np.ndim(hessian) == 2 else None)
    codec.stage.require(form)
    if isinstance(codec.stage, Sum) and codec.stage.items[-1].name == "lowrank":
        return _compensated(codec, w, hessian, outputs, damping, how)
    if isinstance(codec.stage, Sum) and codec.stage.items[-1].name == "salient":
        return _refined(codec, w, hessian, outputs, importance, damping, how)
    chain = codec.stage if isinstance(codec.stage, Chain) else None
    transforms = chain.transforms if chain else ()
    stage: Stage = chain.quantizer if chain else codec.stage
    h = damped(carried(hessian, transforms, form), damping)
    lower = None if outputs is None else np.linalg.cholesky(h)  # once for all strips
    blocks, step = [], codec.block_rows(form)

    def feed(rows) -> dict[str, Any]:
        side: dict[str, Any] = {}
        if chain:
            rows, side = chain.forward(rows)
        parts = _feed(stage, np.asarray(rows, np.float32), h, how, lower)
        return side | {f"{len(transforms)}.{name}": part for name, part in parts.items()} if chain else parts

    between = None if outputs is None else Between(codec, np.asarray(y, np.float32), form, outputs, damping)
    for at in reversed(range(0, form.n, step)):
        rows = codec._flow(y[at:at + step], form, at)
        parts = feed(rows) if between is None else between.block(at, min(at + step, form.n), feed)
        layout = codec.layout(form._replace(n=len(rows)))
        blocks.append(Block(len(rows), {path: pack_part(to_numpy(parts[path]), p) for path, p in layout.items()}))
    found = Codes(codec, tuple(w.shape), str(w.dtype), tuple(blocks[::-1]))
    return settled(found, w, hessian, damping, sweeps) if sweeps and outputs is None and terms_of(codec.stage) else found


class How(NamedTuple):
    """`encode`'s arguments of the same names."""

    block: int
    order: Literal["natural", "activity"]
    sweeps: int
    each: bool


class Between:
    """Feedback between rows: strips of rows from the last to the first, each aiming at its weights less what later rows ask of it."""

    strip = 16  # rows decided together; a trellis keeps its bits in tiles of so many

    def __init__(self, codec: Codec, w: np.ndarray, form: Form, outputs, damping: float):
        g = np.asarray(outputs, np.float64)
        if g.shape != (form.n, form.n) or not np.isfinite(g).all():
            raise InputError(f"the curvature of the outputs must be finite and {form.n} by {form.n}, not {list(g.shape)}")
        self.codec, self.w, self.form, self.error = codec, w, form, np.zeros((form.n, form.d), np.float32)
        self.lower = np.linalg.cholesky(damped(g, damping))

    def block(self, first: int, last: int, feed) -> dict[str, Any]:
        """Parts of rows first to last; all rows from last on have been coded."""
        pieces = []
        for lo in reversed(range(first, last, self.strip)):
            hi = min(lo + self.strip, last)
            aim = self.w[lo:hi] - _feedback(self.lower, lo, hi).T @ self.error[hi:]
            parts, form = feed(aim), self.form._replace(n=hi - lo, dtype="float32")
            pieces.append((hi - lo, parts))
            self.error[lo:hi] = np.asarray(self.codec.stage.decode(parts, form)) - self.w[lo:hi]
        return self._joined(pieces[::-1])

    def _joined(self, pieces: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
        whole = self.codec.stage.layout(self.form._replace(n=sum(n for n, _ in pieces)))
        joined = {name: np.concatenate([to_numpy(parts[name]) for _, parts in pieces]) for name in whole}
        for name, part in whole.items():
            if joined[name].shape[:1] != part.shape[:1]:
                raise InputError(f"rows of {self.codec.spec} cannot be coded apart; feedback between rows needs that")
        return joined


def _compensated(codec: Codec, w: np.ndarray, hessian, outputs, damping: float, how: How) -> Codes:
    """A sum that ends in lowrank: the terms before it with feedback, then lowrank for the outputs they lost."""
    *head, last = codec.stage.items
    before = Codec(head[0] if len(head) == 1 else Sum(tuple(head)))
    first = encode(before, w, hessian, outputs=outputs, damping=damping, **how._asdict())
    form = first.form
    rest = w.reshape(form.n, form.d).astype(np.float32) - first.codec.decode(first).reshape(form.n, form.d)
    fitted, parts = compensated(last, rest, hessian, damping)
    whole, at, blocks = Codec(Sum((*head, fitted))), 0, []
    for b in first.blocks:
        own = {f"0.{name}": part for name, part in b.parts.items()} if len(head) == 1 else dict(b.parts)
        own |= {f"{len(head)}.{name}": np.ascontiguousarray(part[at:at + b.rows]) for name, part in parts.items()}
        blocks.append(Block(b.rows, own))
        at += b.rows
    return Codes(whole, tuple(w.shape), str(w.dtype), tuple(blocks))


def _refined(codec: Codec, w: np.ndarray, hessian, outputs, importance, damping: float, how: How) -> Codes:
    """A sum that ends in salient terms: the terms before them with feedback, then more bits for some rows, with feedback too."""
    items = codec.stage.items
    count = max((i for i, s in enumerate(items, 1) if s.name != "salient"), default=0)
    if not count:
        raise InputError(f"{codec.spec} codes some rows only; begin with a term that codes all, as (hadamard,trellis:3)+{codec.spec}")
    before = Codec(items[0] if count == 1 else Sum(tuple(items[:count])))
    first = encode(before, w, hessian, outputs=outputs, damping=damping, **how._asdict())
    h = damped(np.asarray(hessian, np.float64), damping)
    return refined(first, items[count:], w, h, importance, lambda stage, rows, h: _feed(stage, rows, h, how))


def _feed(stage: Stage, w: np.ndarray, h: np.ndarray, how: How, lower: np.ndarray | None = None) -> dict[str, Any]:
    """Parts of w (n, d) by the loop that suits the stage; ``lower`` is the Cholesky factor of h, if it is known."""
    form = Form(*w.shape)
    if hasattr(stage, "walk"):
        return _walk(stage, stage.walk(w), w, h, how, lower)
    if hasattr(stage, "joined"):
        joined = stage.joined()
        return joined.parts(_feed(joined, w, h, how, lower))
    if getattr(stage, "complex", False) and (stage.group or form.d) >= form.d:  # pairs of columns, of one scale a row
        scale = _encode(stage, w, h)["scale"]
        size = np.maximum(np.asarray(scale, np.float32), 1e-30)
        return {"scale": scale, "ids": _feed(VQ(4, dim=2, codebook_=UNITS), w / size, h, how)["ids"]}
    if isinstance(stage, Sum) and how.each:
        found, rest = {}, w
        for i, term in enumerate(stage.items):
            own = _inner(term, rest, h, how)
            found |= {f"{i}.{name}": part for name, part in own.items()}
            rest = rest - np.asarray(term.decode(own, form))
        return found
    if isinstance(stage, Sum) and all(hasattr(s, "walk") for s in stage.items):
        return _walk(stage, Walks(stage, w), w, h, how, lower)
    first = _encode(stage, w, h)
    if _is_scalar(stage, first, form):
        return _scalar(stage, w, h, first, how)
    if (getattr(stage, "group", None) or 0) >= form.d:
        return first  # a row is one group: there is nothing before it to make up for
    unit = _unit(stage, w, h, first)
    if unit:
        return _pieces(stage, w, h, first, max(unit, how.block // unit * unit))
    if isinstance(stage, Sum):
        head = Sum(stage.items[:-1]) if len(stage.items) > 2 else stage.items[0]
        parts = head.encode(w)
        rest = w - np.asarray(head.decode(parts, form))
        if len(stage.items) == 2:
            parts = {f"0.{name}": part for name, part in parts.items()}
        last = stage.items[-1]
        return parts | {f"{len(stage.items) - 1}.{name}": part for name, part in _inner(last, rest, h, how).items()}
    raise InputError(f"{stage} codes whole rows, so that columns cannot make up for each other; use int, table, vq, pq, "
                     "lattice with group, or trellis, or round it without text")


def _inner(stage: Stage, w: np.ndarray, h: np.ndarray, how: How) -> dict[str, Any]:
    """`_feed` for a term of a sum, which may be a chain."""
    if not isinstance(stage, Chain):
        return _feed(stage, w, h, how)
    y, side = stage.forward(w)
    parts = _feed(stage.quantizer, y, damped(carried(h, stage.transforms, Form(*w.shape)), 0.0), how)
    return side | {f"{len(stage.transforms)}.{name}": part for name, part in parts.items()}


def _encode(stage: Stage, w: np.ndarray, h: np.ndarray) -> dict[str, Any]:
    """Parts of w alone, with scales that know what columns are worth where the stage can use it."""
    if getattr(stage, "weighs", False):
        return stage.encode(w, weight=np.diag(h)[None].astype(np.float32))
    return stage.encode(w)


# -- which loop --------------------------------------------------------------------------------------------------------
def _ids(stage: Stage, form: Form) -> str | None:
    """The part that holds one symbol a value, if it is the only part of symbols."""
    symbols = [name for name, part in stage.layout(form).items() if part.k]
    return symbols[0] if len(symbols) == 1 and stage.layout(form)[symbols[0]].shape == (form.n, form.d) else None


def scalar_ids(stage: Stage, parts: dict[str, Any], form: Form) -> str | None:
    """The part with one id a value, if each stands for the value at its own place only."""
    return _ids(stage, form) if _is_scalar(stage, parts, form) else None


def _is_scalar(stage: Stage, parts: dict[str, Any], form: Form) -> bool:
    """Whether each symbol stands for the value at its own place only."""
    name = _ids(stage, form)
    if name is None or isinstance(stage, Sum) or any(p.shape == (-1,) for p in stage.layout(form).values()):
        return False
    ids = np.zeros_like(parts[name])
    before = np.asarray(stage.decode({**parts, name: ids}, form))
    ids[:, 0] = stage.layout(form)[name].k - 1
    after = np.asarray(stage.decode({**parts, name: ids}, form))
    return np.array_equal(before[:, 1:], after[:, 1:])


def _widths(stage: Stage, d: int) -> dict[str, int] | None:
    """How many columns of the values a column of each part stands for; None if that is not told by group, dim or shape."""
    hints = {8, *(v for s in getattr(stage, "items", (stage,)) for v in (getattr(s, "group", None), getattr(s, "dim", None)) if v)}
    widths = {}
    for name, p in stage.layout(Form(1, d)).items():
        m = p.shape[1]
        fits = [1] if m >= d else sorted(v for v in hints if ceil(d / v) == m) or ([d // m] if d % m == 0 else [])
        if not fits:
            return None
        widths[name] = fits[0]
    return widths


def _unit(stage: Stage, w: np.ndarray, h: np.ndarray, parts: dict[str, Any]) -> int | None:
    """The least number of columns that are coded without regard to all others; None if whole rows are."""
    n, d = w.shape
    if any(len(p.shape) != 2 or p.shape[0] != n for p in stage.layout(Form(n, d)).values()) or not (widths := _widths(stage, d)):
        return None
    unit = max(widths.values())
    if unit >= d or any(unit % v for v in widths.values()):
        return None
    changed = w.copy()
    changed[:, unit:] = changed[:, unit:] * 2 + 1
    again = _encode(stage, changed, h)
    same = all(np.array_equal(np.asarray(parts[name])[:, :unit // v], np.asarray(again[name])[:, :unit // v]) for name, v in widths.items())
    return unit if same else None


def _alike(stage: Stage, a: Form, b: Form) -> bool:
    """Whether what is fitted to rows of form b serves rows of form a."""
    try:
        return stage.state(a) == stage.state(b)
    except SpecError:
        return False


# -- the loops ---------------------------------------------------------------------------------------------------------
class Walks:
    """The walk of a sum of stages that walk: each takes what those before it leave of a block, and their error together is fed back.

    Of columns ahead, a later term sees what the terms before it would leave without feedback.
    """

    def __init__(self, stage: Sum, w: np.ndarray):
        self.w, self.walks = w, [s.walk(w) for s in stage.items[:1]]
        for before, s in pairwise(stage.items):
            w = w - np.asarray(before.decode(before.encode(w), Form(*w.shape)))
            self.walks.append(s.walk(w))
        self.aims = [walk.x.copy() for walk in self.walks]
        self.y = [np.zeros_like(w) for _ in self.walks]
        self.step = max(walk.step for walk in self.walks)

    @classmethod
    def of(cls, stage: Sum, parts: dict[str, Any], form: Form) -> Walks:
        """The walks that ended in these codes, which may descend."""
        walks = cls.__new__(cls)
        each = [{name.removeprefix(f"{i}."): p for name, p in parts.items() if name.startswith(f"{i}.")} for i in range(len(stage.items))]
        walks.walks = [type(s.walk(np.zeros((1, 4), np.float32))).of(s, own, form) for s, own in zip(stage.items, each, strict=True)]
        return walks

    def block(self, target: np.ndarray, lo: int, hi: int) -> np.ndarray:
        """As of a stage's walk."""
        ahead, left = slice(max(0, lo - 8 * self.step), lo), target[:, lo:hi]
        for walk, aim, y in zip(self.walks, self.aims, self.y, strict=True):
            aim[:, ahead] = walk.x[:, ahead] + (target[:, ahead] - self.w[:, ahead])
            aim[:, lo:hi] = left
            y[:, lo:hi] = walk.block(aim, lo, hi)
            left = left - y[:, lo:hi]
        return sum(y[:, lo:hi] for y in self.y)  # type: ignore[return-value]

    def rescale(self, hessian: np.ndarray) -> None:
        """The scales of each term for what the others have found, one term after another."""
        for i, walk in enumerate(self.walks):
            walk.x = self.w - sum(y for j, y in enumerate(self.y) if j != i)
            walk.rescale(hessian)
            self.y[i] = walk.values(0, self.w.shape[1])

    def values(self, lo: int, hi: int) -> np.ndarray:
        """What some columns decode to."""
        return sum(walk.values(lo, hi) for walk in self.walks)  # type: ignore[return-value]

    def descend(self, gradient: np.ndarray, hessian: np.ndarray, importance: np.ndarray | None = None, *, least: float = 0.0) -> float:
        """As of a stage's walk, one term after another."""
        won = sum(walk.descend(gradient, hessian, importance, least=least) for walk in self.walks)
        self.y = [walk.values(0, gradient.shape[1]) for walk in self.walks]
        return won

    def parts(self) -> dict[str, np.ndarray]:
        """The parts of the sum."""
        return {f"{i}.{name}": part for i, walk in enumerate(self.walks) for name, part in walk.parts().items()}


def _walk(stage: Any, walk: Any, w: np.ndarray, h: np.ndarray, how: How, lower: np.ndarray | None) -> dict[str, Any]:
    """Blocks of columns by a stage that walks itself; it also sees targets of the columns ahead."""
    lower = np.linalg.cholesky(h) if lower is None else lower
    d = w.shape[1]
    block = max(walk.step, how.block // walk.step * walk.step)
    ahead = 4 * walk.step
    error, target = np.zeros_like(w), w.copy()
    for lo in reversed(range(0, d, block)):
        hi, first = min(lo + block, d), max(0, lo - ahead)
        target[:, first:hi] = w[:, first:hi] - error[:, hi:] @ _feedback(lower, first, hi)
        error[:, lo:hi] = walk.block(target, lo, hi) - w[:, lo:hi]
    walk.rescale(h)
    for _ in range(how.sweeps):
        walk.descend(((walk.values(0, d) - w) @ h).astype(np.float32), h)
        walk.rescale(h)
    return {name: part.astype(_dtype(stage, w, name, part), copy=False) for name, part in walk.parts().items()}


def _dtype(stage: Stage, w: np.ndarray, name: str, found: np.ndarray):
    from ..dtypes import dtype

    part = stage.layout(Form(*w.shape))[name]
    return dtype(part.dtype or ("uint8" if (part.k or 0) <= 256 else found.dtype.name))


def _feedback(lower: np.ndarray, lo: int, hi: int) -> np.ndarray:
    """What errors of columns from hi on ask of columns lo to hi, decided together: (d - hi, hi - lo) float32."""
    return (lower[hi:, lo:hi] @ np.linalg.inv(lower[lo:hi, lo:hi])).astype(np.float32)


def _scalar(stage: Stage, w: np.ndarray, h: np.ndarray, parts: dict[str, Any], how: How) -> dict[str, Any]:
    """A column at a time, each to the nearest level; scales of groups are chosen when their first column is reached."""
    n, d = w.shape
    name = _ids(stage, Form(n, d))
    k = stage.layout(Form(n, d))[name].k
    group = getattr(stage, "group", None)
    group = min(group, d) if group and how.order == "natural" else None
    turn = np.argsort(np.diag(h), kind="stable") if how.order == "activity" else np.arange(d)
    lower = np.linalg.cholesky(h[np.ix_(turn, turn)])
    unit = (lower / np.diag(lower)).astype(np.float32)
    v, ids = np.ascontiguousarray(w[:, turn]), np.array(parts[name])
    parts, error, size = dict(parts), np.zeros_like(w), group or 64
    for lo in reversed(range(0, d, size)):
        hi = min(lo + size, d)
        base = v[:, lo:hi] - error[:, hi:] @ unit[hi:, lo:hi]
        if group:
            aim = w.copy()
            aim[:, lo:hi] = w[:, lo:hi] - error[:, hi:] @ _feedback(lower, lo, hi)
            fresh = _encode(stage, aim, h)
            for other, part in fresh.items():
                if other != name and np.asarray(part).shape == (n, ceil(d / group)):
                    parts[other] = np.array(parts[other])
                    parts[other][:, lo // group] = np.asarray(part)[:, lo // group]
        step = max(1, _LEVELS // (k * d))
        for top in range(0, n, step):
            rows = slice(top, min(top + step, n))
            levels = _levels(stage, parts, name, k, rows, turn[lo:hi], n, d)
            for j in reversed(range(hi - lo)):
                t = base[rows, j] - error[rows, lo + j + 1:hi] @ unit[lo + j + 1:hi, lo + j]
                pick = np.abs(levels[:, :, j] - t).argmin(axis=0)
                ids[rows, turn[lo + j]] = pick
                error[rows, lo + j] = levels[pick, np.arange(len(t)), j] - v[rows, lo + j]
    parts[name] = ids
    for _ in range(how.sweeps):
        y = np.asarray(stage.decode(parts, Form(n, d)))
        settle(stage, parts, name, (y - w) @ h.astype(np.float32), h)
    return parts


def settle(stage: Stage, parts: dict[str, Any], name: str, gradient: np.ndarray, h: np.ndarray,
           importance: np.ndarray | None = None) -> None:
    """Each id in turn to the level that is best while all others of its row stay; the ids of parts change in place.

    Best is where Σ gradient · e + ½ Σ_r importance_r e_r H e_rᵀ is least, e the change of values; the gradient (n, d) moves with them.
    """
    (n, d), ids = gradient.shape, parts[name]
    k, curve = stage.layout(Form(n, d))[name].k, h.astype(np.float32)
    weight = np.ones(n, np.float32) if importance is None else np.maximum(importance, np.float32(1e-30))
    step = max(1, _LEVELS // (k * d))
    for top in range(0, n, step):
        rows = slice(top, min(top + step, n))
        levels = _levels(stage, parts, name, k, rows, np.arange(d), n, d)
        each, g, heavy = np.arange(levels.shape[1]), gradient[rows], weight[rows]
        y = np.take_along_axis(levels, ids[rows][None].astype(np.intp), 0)[0]
        for j in range(d):
            pick = np.abs(levels[:, :, j] - (y[:, j] - g[:, j] / (heavy * curve[j, j]))).argmin(axis=0)
            g += np.outer(heavy * (levels[pick, each, j] - y[:, j]), curve[j])
            ids[rows, j] = pick


def _levels(stage: Stage, parts, name: str, k: int, rows: slice, columns: np.ndarray, n: int, d: int) -> np.ndarray:
    """What every id decodes to at each place: (k, rows, columns) float32."""
    m = rows.stop - rows.start
    cut = {p: np.asarray(a)[rows] if np.asarray(a).shape[:1] == (n,) else a for p, a in parts.items()}
    whole = any(np.asarray(a).shape[:1] != (n,) for a in parts.values())
    out = np.empty((k, m, len(columns)), np.float32)
    for v in range(k):
        if whole:  # a part that several rows share
            out[v] = np.asarray(stage.decode({**parts, name: np.full_like(parts[name], v)}, Form(n, d)))[rows][:, columns]
        else:
            out[v] = np.asarray(stage.decode({**cut, name: np.full_like(cut[name], v)}, Form(m, d)))[:, columns]
    return out


def _pieces(stage: Stage, w: np.ndarray, h: np.ndarray, parts: dict[str, Any], block: int) -> dict[str, Any]:
    """A block of pieces at a time, each piece to its nearest codeword."""
    n, d = w.shape
    lower = np.linalg.cholesky(h)
    widths = _widths(stage, d) or {}
    error, aim = np.zeros_like(w), w.copy()
    parts = {name: np.array(part) for name, part in parts.items()}
    for lo in reversed(range(0, d, block)):
        hi = min(lo + block, d)
        aim[:, lo:hi] = w[:, lo:hi] - error[:, hi:] @ _feedback(lower, lo, hi)
        alone = Form(n, hi - lo)
        if _alike(stage, alone, Form(n, d)):
            some = stage.encode(np.ascontiguousarray(aim[:, lo:hi]))
            y = np.asarray(stage.decode(some, alone))
            cut = slice(None)
        else:
            some = stage.encode(aim)
            y = np.asarray(stage.decode(some, Form(n, d)))[:, lo:hi]
            cut = None
        for name, v in widths.items():
            at = slice(lo // v, None if hi == d else hi // v)
            parts[name][:, at] = np.asarray(some[name])[:, at if cut is None else cut]
        error[:, lo:hi] = y - w[:, lo:hi]
    return parts
