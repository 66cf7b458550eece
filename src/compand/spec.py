"""Spec strings: the algebra as text, safe unquoted in a shell.

    expression = sum {"," sum}            then
    sum        = term {"+" term}          and the rest
    term       = "(" expression ")" | name {":" argument}
    argument   = value | key "=" value

Values are integers, decimals, words, or integers joined by ``x``. ``str(parse(s))`` is canonical and stable.
"""

from __future__ import annotations

import re

from . import fields
from .errors import SpecError, UnsupportedError
from .expression import rest, then
from .limits import DEFAULT, Limits
from .registry import _stages as known_stages
from .registry import lookup
from .stage import Stage

_TOKEN = re.compile(r"[A-Za-z0-9_.\-]+|[,+:=()]")


def parse(text: str, limits: Limits = DEFAULT) -> Stage:
    """The (unfitted) expression of a spec string.

    Raises `SpecError` with a caret under the fault; `UnsupportedError` for a stage that is not installed.

    >>> str(parse("hadamard,(int:4:group=64)"))
    'hadamard,int:4:group=64'
    """
    limits.check("spec_length", len(text), "spec")
    return _Parser(text, limits).whole()


_KEPT = 4096  # stages remembered by their text: they cannot change, and files name few of them often
_stages: dict[str, Stage] = {}


class _Parser:
    def __init__(self, text: str, limits: Limits):
        self.text, self.limits, self.stages, self.depth = text, limits, 0, 0
        self.tokens: list[str] = _TOKEN.findall(text)
        if sum(map(len, self.tokens)) != len(text):
            at = next(i for i, c in enumerate(text) if not _TOKEN.match(c))
            raise SpecError(f"unexpected character {text[at]!r} in spec", text, at)
        self.tokens.append("")
        self.i = 0

    @property
    def token(self) -> str:
        return self.tokens[self.i]

    def where(self, i: int) -> int:
        """Where a token starts in the text."""
        return sum(map(len, self.tokens[:i]))

    def error(self, message: str, i: int | None = None) -> SpecError:
        i = self.i if i is None else i
        return SpecError(message, self.text, self.where(i), len(self.tokens[i]))

    def take(self, token: str) -> bool:
        if self.tokens[self.i] == token:
            self.i += 1
            return True
        return False

    def whole(self) -> Stage:
        if not self.token:
            raise SpecError("empty spec; try 'int:8' or see `compand specs`", self.text, 0)
        stage = self.expression()
        if self.token:
            raise self.error(f"expected ',' or '+' before {self.token!r}")
        return stage

    def expression(self) -> Stage:
        return self.joined(",", then, self.sum)

    def sum(self) -> Stage:
        return self.joined("+", rest, self.term)

    def joined(self, mark: str, operator, operand) -> Stage:
        """Operands with an operator between each two."""
        sides, marks = [operand()], []
        while self.token == mark:
            marks.append(self.i)
            self.i += 1
            sides.append(operand())
        if not marks:
            return sides[0]
        try:
            return operator(*sides, limits=self.limits)
        except SpecError as e:
            raise self.error(str(e), marks[max(getattr(e, "side", 1), 1) - 1]) from None

    def term(self) -> Stage:
        if self.token == "(":
            self.depth += 1
            self.limits.check("stages", self.depth, "nesting of parentheses")
            self.i += 1
            inside = self.expression()
            if not self.take(")"):
                raise self.error("expected ')'")
            self.depth -= 1
            return inside
        return self.stage()

    def stage(self) -> Stage:
        at, name = self.i, self.token
        if not "a" <= name[:1] <= "z":
            raise self.error("expected the name of a stage" + (f" before {name!r}" if name else " here"))
        self.stages += 1
        self.limits.check("stages", self.stages, "stages in a spec")
        end = at + 1
        while self.tokens[end] == ":":
            end += 2 if self.tokens[end + 1] == "" or self.tokens[end + 2] != "=" else 4
            end = min(end, len(self.tokens) - 1)
        text = "".join(self.tokens[at:end])
        stage = _stages.get(text)
        if stage is None or known_stages.get(name) is not type(stage):
            stage = self.build(at, name)
            if len(_stages) >= _KEPT:
                _stages.clear()
            _stages[text] = stage
        self.i = end
        return stage

    def build(self, at: int, name: str) -> Stage:
        """The stage whose name is the token ``at``."""
        try:
            cls = lookup(name)
        except UnsupportedError as e:
            raise UnsupportedError(f"{e}\n  {self.text}\n  {' ' * self.where(at)}{'^' * len(name)}") from None
        self.i = at + 1
        known = fields.of(cls)
        positional = [f for f in known if f.positional]
        given: dict[str, object] = {}
        while self.take(":"):
            start = self.i
            word = self.word(name)
            if self.take("="):
                f = next((f for f in known if f.name == word), None)
                if f is None:
                    names = ", ".join(f.name for f in known) or "none"
                    raise self.error(f"{name} has no argument {word!r}; its arguments: {names}", start)
                start = self.i
                word = self.word(name)
            else:
                f = next((f for f in positional if f.name not in given), None)
                if f is None:
                    raise self.error(f"{name} takes at most {len(positional)} unnamed arguments", start)
            if f.name in given:
                raise self.error(f"{name}: {f.name} is given twice", start)
            try:
                given[f.name] = fields.parse(f, word)
            except ValueError:
                raise self.error(f"{name}: {f.name} must be {f.expected}, not {word!r}", start) from None
        for f in known:
            if f.name not in given and f.default is fields.MISSING:
                raise self.error(f"{name} needs {f.name}: {f.expected}", at)
        try:
            return cls(**given)
        except SpecError as e:
            raise self.error(str(e), at) from None

    def word(self, name: str) -> str:
        word = self.token
        if not word or not _TOKEN.fullmatch(word) or word in ",+:=()":
            raise self.error(f"expected a value for {name}")
        self.i += 1
        return word
