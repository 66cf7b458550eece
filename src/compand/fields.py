"""A stage's hyper-parameters read from its dataclass fields: types, ranges, text.

Types are ``int``, ``float``, ``bool``, ``str``, ``tuple[int, ...]`` (written ``8x8x5``), ``Literal["a", "b"]``, any of them
``| None``, and ``Annotated[int, range(1, 9)]`` or ``Annotated[float, (low, high)]`` for a closed range.
"""

from __future__ import annotations

import dataclasses
import re
import types
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from .errors import SpecError

MISSING = dataclasses.MISSING


class Field(NamedTuple):
    """One hyper-parameter."""

    name: str
    type: type            # int, float, bool, str or tuple
    optional: bool        # may be None
    choices: tuple        # words allowed; () = any
    range: Any            # range, (low, high) or None
    default: Any          # MISSING if it must be given
    positional: bool

    @property
    def expected(self) -> str:
        """Words for people: 'an integer from 1 to 8'."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        words = {int: "an integer", float: "a number", bool: "true or false", str: "a word",
                 tuple: "integers joined by x, as 8x8x5"}[self.type]
        if isinstance(self.range, range):
            words += f" from {self.range.start} to {self.range.stop - 1}"
        elif self.range:
            words += f" from {self.range[0]} to {self.range[1]}"
        return words + (" or none" if self.optional else "")


@cache
def fitted(cls: type) -> tuple[str, ...]:
    """The names of a stage class's fitted arrays, in order."""
    return tuple(f.name for f in dataclasses.fields(cls) if f.name.endswith("_"))


@cache
def of(cls: type) -> tuple[Field, ...]:
    """The hyper-parameters of a stage class, in order."""
    hints = get_type_hints(cls, include_extras=True) if dataclasses.is_dataclass(cls) else {}
    found = []
    for f in dataclasses.fields(cls) if hints else ():
        if f.name.endswith("_"):
            continue
        kind, bounds, optional, choices = hints[f.name], None, False, ()
        while True:
            origin = get_origin(kind)
            if origin is Annotated:
                kind, bounds = get_args(kind)[:2]
            elif origin in (Union, types.UnionType):
                optional = True
                (kind,) = [a for a in get_args(kind) if a is not type(None)]
            else:
                break
        if origin is Literal:
            choices = get_args(kind)
            kind = type(choices[0])
        found.append(Field(f.name, tuple if origin is tuple else kind, optional, choices, bounds, f.default, not f.kw_only))
    return tuple(found)


def valid(f: Field, value: Any) -> bool:
    """Whether a value is of the field's type and in its range."""
    if value is None:
        return f.optional
    if f.type is tuple:
        ok = isinstance(value, tuple) and len(value) > 0 and all(type(v) is int and v >= 0 for v in value)
    elif f.type is float:
        ok = type(value) in (int, float) and value == value
    else:
        ok = type(value) is f.type
    if not ok or (f.choices and value not in f.choices):
        return False
    if isinstance(f.range, range):
        return all(v in f.range for v in (value if f.type is tuple else (value,)))
    return f.range is None or f.range[0] <= value <= f.range[1]


def check(stage) -> None:
    """Raise `SpecError` unless every hyper-parameter is valid."""
    for f in of(type(stage)):
        value = getattr(stage, f.name)
        if value is f.default:
            continue
        if f.type is float and type(value) is int:
            object.__setattr__(stage, f.name, value := float(value))
        if not valid(f, value):
            raise SpecError(f"{stage.name}: {f.name}={value!r} must be {f.expected}")


def parse(f: Field, word: str) -> Any:
    """The value a word stands for; `ValueError` if it is none."""
    if f.optional and word == "none":
        return None
    if f.type is int:
        if not re.fullmatch(r"-?[0-9]{1,19}", word):
            raise ValueError
        value: Any = int(word)
    elif f.type is float:
        if not re.fullmatch(r"-?[0-9]{0,20}\.?[0-9]{0,20}(e-?[0-9]{1,3})?", word):
            raise ValueError
        value = float(word)
    elif f.type is bool:
        value = {"true": True, "yes": True, "false": False, "no": False}.get(word)
    elif f.type is tuple:
        if not re.fullmatch(r"[0-9]{1,10}(x[0-9]{1,10}){0,63}", word):
            raise ValueError
        value = tuple(int(v) for v in word.split("x"))
    else:
        value = word
    if not valid(f, value):
        raise ValueError
    return value


def word(value: Any) -> str:
    """The text of a value; inverse of `parse`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value).replace("e+", "e")
    return str(value)


def text(stage) -> str:
    """The canonical spec of one stage: leading fields by position, keyword fields that differ from their default."""
    out, pending = [stage.name], []
    for f in of(type(stage)):
        value = getattr(stage, f.name)
        if f.positional:
            pending.append(word(value))
            if value != f.default or f.default is MISSING:
                out += pending
                pending = []
        elif value != f.default:
            out.append(f"{f.name}={word(value)}")
    return ":".join(out)
