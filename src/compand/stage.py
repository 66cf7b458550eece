"""The stage: a frozen dataclass whose fields are its configuration, and whose fields ending in ``_`` are fitted arrays.

Spec text, file, equality, repr, help and fuzzing are derived from the fields, once, for all stages. What flows through a
stage is its kind: `Transform` array → array, `Quantizer` array → codes, `EntropyModel` codes → bytes.

    class Center(Transform, name="center"):
        mean_: np.ndarray                                   # state: (d,) float32, set by fit
        def state(self, form):     return {"mean_": Part((form.d,), "float32")}
        def fit(self, x, *, weight=None): ...return replace(self, mean_=...)
        def forward(self, x):      return x - like(self.mean_, x), {}
        def inverse(self, y, side, form): return y + like(self.mean_, y)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self, dataclass_transform

import numpy as np

from . import fields, registry
from .array import array_namespace
from .errors import FitError, SpecError

__all__ = ["KW_ONLY", "EntropyModel", "Form", "Part", "Quantizer", "Stage", "Transform", "replace"]


class Form(NamedTuple):
    """What flows into a stage, without its values: n rows of d values. Leading axis = rows, always two axes."""

    n: int
    d: int
    dtype: str = "float32"


@dataclass(frozen=True)
class Part:
    """One named array of codes or state: either symbols in [0, k), or an array of a dtype.

    ``shape`` starts with the number of rows for parts that can be cut by rows. A shape of ``(-1,)`` is a 1-D array whose
    length depends on the data. ``coder`` is the spec of the entropy model of the symbols ('' = packed bits).
    """

    shape: tuple[int, ...]
    dtype: str | None = None
    k: int | None = None
    coder: str = ""


@dataclass_transform(frozen_default=True, eq_default=False)
class Stage:
    """Base of all stages; see the module's text. Subclass `Transform`, `Quantizer` or `EntropyModel`."""

    name: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    exact: ClassVar[bool] = True  # decoded identically on every machine (False: bounded, order of float sums may vary)
    raw: ClassVar[bool] = False   # takes any dtype as it is and loses nothing; others get float32 or float64
    fills: ClassVar[bool] = False  # blocks are of `most_rows` rows, however wide these are, for stages that learn from rows before
    whole: ClassVar[bool] = False  # rows are not coded apart: all of them are one block
    examples: ClassVar[tuple[str, ...]] = ()  # specs that show this stage at work; the laws and golden files use them

    def __init_subclass__(cls, *, name: str | None = None, **kwargs):
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        cls.name = name
        for own in cls.__dict__.get("__annotations__", {}):
            if own.endswith("_") and own != "_" and own not in cls.__dict__:
                setattr(cls, own, field(default=None, kw_only=True))
        dataclass(frozen=True, eq=False, repr=False)(cls)
        registry.register(cls)

    def __post_init__(self):
        fields.check(self)
        self.check()

    def check(self) -> None:
        """Raise `SpecError` if fields do not fit each other. Each field's own range is checked from its annotation."""

    def fail(self, message: str) -> SpecError:
        """A `SpecError` that starts with this stage's spec."""
        return SpecError(f"{self}: {message}")

    def setup(self, form: Form) -> int:
        """Multiplications that the first use of this stage on such rows takes, however few they are; 0 if next to none."""
        return 0

    @property
    def effort(self) -> int:
        """What decoding a block takes at least, however few its values: 1 is a plain stage, some 30 µs. `Limits.calls` bounds the sum."""
        return 1

    @property
    def most_rows(self) -> int:
        """Most rows of a block, for stages whose memory or random access asks for fewer than the codec would take."""
        return 1 << 40

    # -- fitting -------------------------------------------------------------------------------------------------------
    def state(self, form: Form) -> dict[str, Part]:
        """The fitted arrays this stage needs for such an input; {} if it needs no fit."""
        return {}

    queried: ClassVar[bool] = False  # whether fit takes ``queries`` (q, d), too: what inner products with rows will be taken with

    def fit(self, x, *, weight=None) -> Self:
        """A copy fitted to x (n, d). ``weight`` is None or non-negative importance broadcastable to x."""
        return self

    def arrays(self) -> dict[str, np.ndarray]:
        """The fitted arrays by path; empty if not fitted."""
        return {name: a for name in fields.fitted(type(self)) if (a := getattr(self, name)) is not None}

    def with_arrays(self, arrays: dict[str, np.ndarray]) -> Self:
        """A copy with these fitted arrays (as given by `arrays`)."""
        return replace(self, **arrays)

    def require(self, form: Form) -> None:
        """Raise `FitError` unless every fitted array that `form` needs is there with its dtype and shape."""
        have = self.arrays()
        for name, part in self.state(form).items():
            a = have.get(name)
            if a is None:
                raise FitError(f"{self}: not fitted; call fit(x) first")
            if a.shape != part.shape or str(a.dtype) != part.dtype:
                raise FitError(f"{self}: {name} is {a.dtype}{list(a.shape)}, this data needs {part.dtype}{list(part.shape)}; "
                               "it was fitted to other data: fit again")

    # -- the algebra ---------------------------------------------------------------------------------------------------
    def __or__(self, other: Stage) -> Stage:
        """``a | b``, then: b works on what a gives."""
        from .expression import then

        return then(self, other)

    def __add__(self, other: Stage) -> Stage:
        """``a + b``, and the rest: b codes what a left over."""
        from .expression import rest

        return rest(self, other)

    def __str__(self) -> str:
        return _remembered(self, lambda: fields.text(self))

    def __repr__(self) -> str:
        have = ", ".join(f"{name}={a.dtype}{list(a.shape)}" for name, a in self.arrays().items())
        return f"<{self}{f' fitted: {have}' if have else ''}>"

    def __eq__(self, other: Any) -> bool:
        if type(self) is not type(other) or str(self) != str(other):
            return False
        a, b = self.arrays(), other.arrays()
        return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)

    def __hash__(self) -> int:
        return hash(str(self))


def _remembered(stage: Stage, text: Callable[[], str]) -> str:
    """The spec of a stage, made once: stages cannot change."""
    if (found := stage.__dict__.get("_text")) is None:
        stage.__dict__["_text"] = found = text()
    return found


class Transform(Stage):
    """Array → array, invertible up to the stated loss.

    ``forward`` returns the new array and a dict of side information computed from these rows (scales of a row...), declared
    by ``layout``; arrays may be of any array-API library, in and out the same.
    """

    kind = "transform"
    elementwise: ClassVar[bool] = False  # keeps each value at its place, so that weights of values stay valid
    moves: ClassVar[bool] = False        # only moves values about: any dtype, before or after stages that are not raw

    def out(self, form: Form) -> Form:
        """What comes out for what goes in."""
        return form

    def layout(self, form: Form) -> dict[str, Part]:
        """The side information of n rows."""
        return {}

    def carry(self, weight, form: Form):
        """The weight of x (of this form) as a weight of y; what cannot be carried value by value is averaged over a row."""
        if self.elementwise or weight.shape[1] == 1:
            return weight
        return array_namespace(weight).mean(weight, axis=1, keepdims=True) if weight.shape[0] == form.n > 1 else None

    def forward(self, x) -> tuple[Any, dict[str, Any]]:
        """x (n, d) → y (n, d'), side information."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def inverse(self, y, side: dict[str, Any], form: Form):
        """y (n, d') and side information → x of the given form."""
        raise NotImplementedError(f"{type(self).__name__}.inverse")


class Quantizer(Stage):
    """Array → codes: a dict of symbols (integer ids) and side information, declared by ``layout``."""

    kind = "quantizer"
    weighs: ClassVar[bool] = False  # encode also takes ``weight``, the importance of values, for what is stored with rows
    progressive: ClassVar[bool] = False  # parts "0.…", "1.…" are terms; ``decode(parts, form, terms)`` may stop after some

    def layout(self, form: Form) -> dict[str, Part]:
        """The parts of the codes of n rows."""
        raise NotImplementedError(f"{type(self).__name__}.layout")

    def encode(self, x) -> dict[str, Any]:
        """x (n, d) → parts, as `layout` declares them: symbols as any integer array, not yet packed."""
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def decode(self, parts: dict[str, Any], form: Form):
        """Parts → x_hat of the given form. Parts have been checked against `layout`: shapes, dtypes, symbols < k."""
        raise NotImplementedError(f"{type(self).__name__}.decode")

    fuses: ClassVar[tuple[str, ...]] = ()  # entropy models (their specs) for which the two methods below do both steps in one

    def encode_stored(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """x (n, d) → the parts as they are stored: what `encode` and the entropy model give, byte for byte."""
        raise NotImplementedError(f"{type(self).__name__}.encode_stored")

    def decode_stored(self, stored: dict[str, np.ndarray], form: Form, out: np.ndarray) -> None:
        """Stored parts → ``out`` (n, d), filled. Bytes may be hostile: `CorruptError` wherever decoding in two steps raises one."""
        raise NotImplementedError(f"{type(self).__name__}.decode_stored")


class EntropyModel(Stage):
    """Codes → bytes: applies to every symbol part of the quantizer before it. Integers only."""

    kind = "entropy"

    def encode(self, ids: np.ndarray, k: int) -> np.ndarray:
        """ids (n, m) uint8/uint16/uint32 in [0, k) → uint8 (bytes,)."""
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def decode(self, data: np.ndarray, shape: tuple[int, int], k: int) -> np.ndarray:
        """uint8 (bytes,) → ids of this shape. ``data`` may be hostile: `CorruptError` or any array of that shape."""
        raise NotImplementedError(f"{type(self).__name__}.decode")
