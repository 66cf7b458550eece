"""The two operators: `Chain` (then) and `Sum` (and the rest). Both are stages, so they nest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace as part_replace
from itertools import pairwise
from typing import Any, Self

import numpy as np

from .array import dtype_name, like, to_numpy
from .errors import InputError, SpecError
from .limits import DEFAULT, Limits
from .stage import Form, Quantizer, Stage, _remembered


class Expression(Stage):
    """Stages joined by an operator; the arrays of stage i carry the path prefix ``i.``."""

    items: tuple[Stage, ...]

    def __init__(self, items: tuple[Stage, ...]):
        object.__setattr__(self, "items", items)
        object.__setattr__(self, "exact", all(s.exact for s in items))
        object.__setattr__(self, "queried", any([s.queried for s in items]))

    @property
    def most_rows(self) -> int:
        """As few as the stage that takes fewest."""
        return min(s.most_rows for s in self.items)

    def __setattr__(self, name, value):
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def arrays(self):
        return _join((i, s.arrays()) for i, s in enumerate(self.items))

    def with_arrays(self, arrays) -> Self:
        return type(self)(tuple(s.with_arrays(_under(i, arrays)) for i, s in enumerate(self.items)))


def _join(named) -> dict[str, Any]:
    return {f"{i}.{name}": value for i, values in named for name, value in values.items()}


def _under(i: int, values: dict[str, Any]) -> dict[str, Any]:
    prefix = f"{i}."
    return {name[len(prefix):]: value for name, value in values.items() if name.startswith(prefix)}


class Chain(Expression):
    """``a | b | c``: transforms, then at most one quantizer (or sum), then at most one entropy model."""

    def __init__(self, items: tuple[Stage, ...]):
        super().__init__(items)
        transforms = tuple(s for s in items if s.kind == "transform")
        rest = items[len(transforms):]
        quantizer = rest[0] if rest and rest[0].kind == "quantizer" else None
        self.__dict__.update(
            transforms=transforms, quantizer=quantizer, coder=next((s for s in rest if s.kind == "entropy"), None),
            kind="quantizer" if quantizer else "transform", raw=all([s.raw for s in items if s.kind != "entropy"]),
            queried=items[0].queried, weighs=True, elementwise=all([getattr(s, "elementwise", False) for s in transforms]))

    def __str__(self) -> str:
        return _remembered(self, lambda: ",".join(map(str, self.items)))

    def _forms(self, form: Form) -> list[Form]:
        """What flows into each transform, and last what comes out of all; that of the last form is remembered."""
        last = self.__dict__.get("_last")
        if last is None or last[0] != form:
            forms = [form]
            for t in self.transforms:
                forms.append(t.out(forms[-1]))
            self.__dict__["_last"] = last = form, forms
        return last[1]

    def state(self, form):
        forms = self._forms(form)
        at = zip(self.items, forms + forms[-1:], strict=False)
        return _join((i, s.state(f)) for i, (s, f) in enumerate(at))

    def layout(self, form):
        forms = self._forms(form)
        parts = _join((i, t.layout(f)) for i, (t, f) in enumerate(zip(self.transforms, forms, strict=False)))
        if self.quantizer:
            i = len(self.transforms)
            parts |= _join([(i, self.quantizer.layout(forms[-1]))])
            if self.coder:
                name = str(self.coder)
                parts = {path: part_replace(p, coder=p.coder or name) if p.k else p for path, p in parts.items()}
        return parts

    def out(self, form):
        return self._forms(form)[-1]

    def fit(self, x, *, weight=None, queries=None):
        fitted: list[Stage] = []
        for t in self.transforms:
            t = t.fit(x, weight=weight, **_asked(t, None if fitted else queries))
            fitted.append(t)
            if weight is not None:
                weight = t.carry(weight, Form(*x.shape, dtype_name(x)))
            x, _ = t.forward(x)
        if self.quantizer:
            fitted.append(self.quantizer.fit(x, weight=weight, **_asked(self.quantizer, None if fitted else queries)))
        return Chain((*fitted, *(self.items[len(fitted):])))

    def forward(self, x):
        side = {}
        for i, t in enumerate(self.transforms):
            x, own = t.forward(x)
            side |= _join([(i, own)])
        return x, side

    def inverse(self, y, side, form):
        forms = self._forms(form)
        for i in range(len(self.transforms) - 1, -1, -1):
            y = self.transforms[i].inverse(y, _under(i, side), forms[i])
        return y

    def encode(self, x, weight=None, beam: int = 1):
        if weight is None:
            y, parts = self.forward(x)
            return parts | _join([(len(self.transforms), encode(self.quantizer, y, None, beam))])
        parts = {}
        for i, t in enumerate(self.transforms):
            if weight is not None:
                weight = t.carry(weight, Form(*x.shape, dtype_name(x)))
            x, own = t.forward(x)
            parts |= _join([(i, own)])
        return parts | _join([(len(self.transforms), encode(self.quantizer, x, weight, beam))])

    def decode(self, parts, form, terms: int | None = None):
        forms, own = self._forms(form), [{} for _ in self.items]
        for path, value in parts.items():
            i, _, name = path.partition(".")
            own[int(i)][name] = value
        last = len(self.transforms)
        y = _decode(self.quantizer, own[last], forms[last], terms)
        for i in range(last - 1, -1, -1):
            y = self.transforms[i].inverse(y, own[i], forms[i])
        return y


class Sum(Expression):
    """``a + b + c``: each term codes what those before it left over. The first terms alone decode to a coarser array."""

    kind = "quantizer"
    raw = False
    weighs = True
    progressive = True

    def __str__(self) -> str:
        return _remembered(self, lambda: "+".join(f"({s})" if isinstance(s, Chain) else str(s) for s in self.items))

    def state(self, form):
        return _join((i, s.state(form)) for i, s in enumerate(self.items))

    def layout(self, form):
        return _join((i, s.layout(form)) for i, s in enumerate(self.items))

    def _passes(self, x, weight=None, fit=False, queries=None):
        form, fitted, parts = Form(*x.shape, dtype_name(x)), [], {}
        for i, term in enumerate(self.items):
            if fit:
                term = term.fit(x, weight=weight, **_asked(term, queries))
                fitted.append(term)
            if not fit or i + 1 < len(self.items):
                own = encode(term, x, None if fit else weight)
                parts |= _join([(i, own)])
            if i + 1 < len(self.items):
                x = x - term.decode(own, form)
        return tuple(fitted), parts

    def fit(self, x, *, weight=None, queries=None):
        return Sum(self._passes(x, weight, fit=True, queries=queries)[0])

    def encode(self, x, weight=None, beam: int = 1):
        return self._passes(x, weight)[1] if beam == 1 else self._beam(x, beam)

    def _beam(self, x, beam: int):
        """The parts of x by beam search, for terms that are each a codebook of the same pieces of rows."""
        from .beam import search

        y = to_numpy(x).astype(np.float32)
        made = [term.codebooks(y) if hasattr(term, "codebooks") else None for term in self.items]
        if any(one is None or one[0].shape != made[0][0].shape for one in made):
            raise InputError(f"beam search needs a sum of vq, or of pq, that cut rows alike; not {self}")
        pieces, books = made[0][0], [own for _, own in made]
        ids = [search(np.ascontiguousarray(pieces[:, p]), [b[min(p, len(b) - 1)] for b in books], beam) for p in range(pieces.shape[1])]
        return {f"{i}.ids": like(np.stack([own[:, i] for own in ids], axis=1), x) for i in range(len(self.items))}

    def decode(self, parts, form, terms: int | None = None):
        total = None
        for i, term in enumerate(self.items[:terms]):
            value = term.decode(_under(i, parts), form)
            total = value if total is None else total + value
        return total


def _asked(stage: Stage, queries) -> dict[str, Any]:
    """What a stage is told of queries. They live in the space of the rows, so no transform may come before it."""
    return {} if queries is None or not stage.queried else {"queries": queries}


def encode(quantizer: Stage, x, weight=None, beam: int = 1) -> dict[str, Any]:
    """The parts of x, with the importance of values for the stages that can use it; ``beam`` above 1 is for sums of codebooks."""
    if beam > 1:
        if not isinstance(quantizer, (Chain, Sum)):
            raise InputError(f"beam search is for sums of codebooks such as vq:256+vq:256, not for {quantizer}")
        return quantizer.encode(x, weight, beam)
    return quantizer.encode(x) if weight is None or not quantizer.weighs else quantizer.encode(x, weight=weight)


def used(stage: Stage, paths: Iterable[str], terms: int | None = None) -> set[str]:
    """The parts that decoding needs if it stops after so many terms of the sum."""
    if terms is None or not progressive(stage):
        return set(paths)
    if not isinstance(stage, Chain):
        first = {path: path.partition(".")[0] for path in paths}
        return {path for path, i in first.items() if not i.isdigit() or int(i) < max(terms, 1)}
    inner = f"{len(stage.transforms)}."
    below = [path[len(inner):] for path in paths if path.startswith(inner)]
    last = used(stage.quantizer, below, terms)
    return {path for path in paths if not path.startswith(inner)} | {inner + path for path in last}


def progressive(stage: Stage) -> bool:
    """Whether decoding may stop after some terms."""
    return getattr(stage.quantizer if isinstance(stage, Chain) else stage, "progressive", False)


def fused(stage: Stage) -> Quantizer | None:
    """The quantizer that does the entropy model's step, too, if the expression is just these two; its parts have the prefix ``0.``."""
    pair = isinstance(stage, Chain) and len(stage.items) == 2 and stage.coder is not None
    return stage.quantizer if pair and str(stage.coder) in getattr(stage.quantizer, "fuses", ()) else None


def whole(stage: Stage) -> bool:
    """Whether some stage of the expression needs all rows at once."""
    return any(map(whole, stage.items)) if isinstance(stage, (Chain, Sum)) else stage.whole


def _decode(quantizer, parts, form, terms):
    return quantizer.decode(parts, form, terms) if progressive(quantizer) else quantizer.decode(parts, form)


def _fault(message: str, side: int) -> SpecError:
    """A `SpecError` about the operand of this number."""
    error = SpecError(message)
    error.side = side  # type: ignore[attr-defined]
    return error


def then(*sides: Stage, limits: Limits = DEFAULT) -> Chain:
    """``a | b | ...``. Raises `SpecError` where one cannot stand after the other."""
    items = [(s, i) for i, side in enumerate(sides) for s in (side.items if isinstance(side, Chain) else (side,))]
    order, lossy = {"transform": 0, "quantizer": 1, "entropy": 2}, False
    for (before, _), (after, side) in pairwise(items):
        if order[after.kind] < order[before.kind] or (after.kind == before.kind != "transform"):
            hint = "'+' codes what is left over" if after.kind == "quantizer" == before.kind else \
                "the order is transforms, then a quantizer, then an entropy coder"
            raise _fault(f"{after} ({after.kind}) cannot follow {before} ({before.kind}); {hint}", side)
        if after.kind == "entropy" and before.kind == "transform":
            raise _fault(f"{after} codes symbols; put a quantizer between {before} and it", side)
        lossy = lossy or not before.raw
        if after.raw and lossy and not getattr(after, "moves", False):
            raise _fault(f"{after} keeps every bit; it cannot follow {before}, which does not", side)
    if items[0][0].kind == "entropy":
        raise _fault(f"{items[0][0]} codes symbols; put a quantizer before it", 0)
    limits.check("stages", len(items), "stages in a spec")
    return Chain(tuple(s for s, _ in items))


def rest(*sides: Stage, limits: Limits = DEFAULT) -> Sum:
    """``a + b + ...``. Raises `SpecError` unless all give codes and can be subtracted."""
    items = [(s, i) for i, side in enumerate(sides) for s in (side.items if isinstance(side, Sum) else (side,))]
    for s, side in items:
        if s.kind != "quantizer":
            raise _fault(f"'+' needs codes on both sides; {s} is {dict(transform='a transform').get(s.kind, 'an entropy coder')}", side)
        if s.raw:
            raise _fault(f"{s} keeps every bit; nothing is left over for '+'", side)
    limits.check("terms", len(items), "terms of a sum")
    return Sum(tuple(s for s, _ in items))


