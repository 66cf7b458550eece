"""The index of a .cpd file as JSON: read with every rule of FORMAT.md §4 checked, written canonically.

Nothing here knows arrays or chunks; it turns hostile bytes into plain dicts and lists of known depth, size and types.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from . import _native
from .errors import CompandError, CorruptError, InputError, UnsupportedError
from .limits import Limits

DEPTH = 6                # of nested objects and arrays
CONTAINERS = 1 << 18     # objects and arrays: bounds the memory of the parsed index
NAME_BYTES = 1024
BELOW = 1 << 53          # integers every JSON library keeps exact
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_ROOTED = re.compile(r"[/\\]|[A-Za-z]:([/\\]|$)")  # a leading slash, a drive letter
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.\-]{2}[A-Za-z0-9_.\-/ ]{0,1000}")  # most names; they need no closer look
_LONG_NUMBER = re.compile(rb"[0-9]{16}|[eE][+]?[0-9]{3}")  # only these can reach 2^53 or infinity
_scan_once = json.JSONDecoder().scan_once  # the value that starts at an offset, and where it ends
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def loads(raw: bytes, limits: Limits) -> dict[str, Any]:
    """The index. Raises `CorruptError` for anything but one JSON object within the rules."""
    limits.check("index_bytes", len(raw), "index")
    bare = _STRING.sub(b"", raw)
    _check_depth(bare)
    numbers = {"parse_int": _integer, "parse_float": _float} if _LONG_NUMBER.search(bare) else {}
    try:
        index = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, **numbers)
    except CompandError:
        raise
    except (ValueError, RecursionError) as e:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CorruptError(f"the index is not JSON in UTF-8: {str(e)[:200]}") from None
    if type(index) is not dict:
        raise CorruptError("the index is not a JSON object")
    return index


class Records(Mapping):
    """The entries of an index that was found valid: name → fields, each parsed when it is asked for."""

    def __init__(self, text: np.ndarray, where: dict[str, int], plain: bool):
        self._text, self._where, self.plain = str(text.data, "ascii"), where, plain

    def __getitem__(self, name: str) -> Any:
        return _scan_once(self._text, self._where[name] >> 32)[0]

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def split(raw: np.ndarray, limits: Limits) -> dict[str, Any]:
    """`loads`, but where the text (uint8) is as a writer makes it, ``entries`` are `Records`, and only the rest is parsed."""
    limits.check("index_bytes", raw.size, "index")
    if (found := _native.json_split(raw)) is None:
        return loads(raw.tobytes(), limits)
    fields, entries, plain_names, sizes, sums = found
    index: dict[str, Any] = {}
    for name, (begin, end) in fields.items():
        if name == "entries" and entries is not None:
            index[name] = Records(raw, entries, plain_names)
        elif name == "chunks" and sizes is not None:
            index[name] = {"bytes": sizes, "xxh3": sums}
        else:
            index[name] = json.loads(raw[begin:end].tobytes())
    return index


def dumps(index: dict[str, Any]) -> bytes:
    """The bytes of an index: no spaces, UTF-8, keys in the order given."""
    return json.dumps(index, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")


def _check_depth(bare: bytes) -> None:
    """Refuse nesting and counts that would cost the parser stack or memory, by looking at the brackets alone."""
    brackets = np.frombuffer(bare.translate(None, _NOT_BRACKETS), np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    depth = int(np.cumsum(np.where(opening, np.int32(1), np.int32(-1)), dtype=np.int32).max(initial=0))
    if depth > DEPTH:
        raise CorruptError(f"the index nests {depth} deep; {DEPTH} is the most")
    if (count := int(opening.sum())) > CONTAINERS:
        raise CorruptError(f"the index has {count:,} objects and arrays; {CONTAINERS:,} is the most")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise CorruptError(f"the index has the key {short(key)} twice")
            seen.add(key)
    return found


def _constant(word: str) -> NoReturn:
    raise CorruptError(f"the index has {word}, which is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > 17 or not -BELOW < (value := int(digits)) < BELOW:
        raise CorruptError(f"the index has an integer of {len(digits)} digits; it must be below 2^53")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if value - value != 0:
        raise CorruptError(f"the index has the number {short(digits)}, which is not finite")
    return value


def short(value: Any) -> str:
    """A value for an error message, of bounded length."""
    text = repr(value[:80]) if isinstance(value, (str, list)) else f"{type(value).__name__} of {len(value)} fields" \
        if isinstance(value, dict) else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


# -- fields -----------------------------------------------------------------------------------------------------------
def fields(value: Any, what: str, required: frozenset[str], optional: frozenset[str] = frozenset(), writer: str = "") -> dict[str, Any]:
    """An object with these fields. Unknown fields that start with ``?`` are ancillary and skipped; others are critical.

    Raises `CorruptError` for a missing field, `UnsupportedError` for an unknown critical one.
    """
    if type(value) is not dict:
        raise CorruptError(f"{what} must be an object, not {short(value)}")
    have = value.keys()
    if not required <= have:
        raise CorruptError(f"{what} has no {', '.join(sorted(required - have))}")
    for name in have - required - optional:
        if not name.startswith("?"):
            raise UnsupportedError(f"{what} has the critical field {short(name)}, unknown here"
                                   f"{f'; the file was written by {short(writer)}' if writer else ''}; update compand to read it")
    return value


def mapping(value: Any, what: str) -> dict[str, Any]:
    """An object with any fields."""
    if type(value) is not dict:
        raise CorruptError(f"{what} must be an object, not {short(value)}")
    return value


def integer(value: Any, what: str, low: int = 0, below: int = BELOW) -> int:
    """An integer in [low, below), and not a float or bool."""
    if type(value) is not int or not low <= value < below:
        raise CorruptError(f"{what} must be an integer from {low} to {below - 1}, not {short(value)}")
    return value


def integers(value: Any, what: str, low: int = 0, below: int = BELOW) -> list[int]:
    """A list of integers in [low, below)."""
    if type(value) is not list:
        raise CorruptError(f"{what} must be a list of integers, not {short(value)}")
    if set(map(type, value)) <= {int} and (not value or (low <= min(value) and max(value) < below)):
        return value
    bad = next(v for v in value if type(v) is not int or not low <= v < below)
    raise CorruptError(f"{what} must hold integers from {low} to {below - 1}, not {short(bad)}")


def text(value: Any, what: str, most: int = 4096) -> str:
    """A string of no more than so many characters."""
    if type(value) is not str or len(value) > most:
        raise CorruptError(f"{what} must be a string of at most {most} characters, not {short(value)}")
    return value


def name_fault(name: Any) -> str:
    """Why a string cannot name an entry; '' if it can."""
    if type(name) is not str or not name:
        return "a name must be a string that is not empty"
    if _PLAIN_NAME.fullmatch(name) and ".." not in name:
        return ""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "a name must be valid Unicode, without lone surrogates"
    if size > NAME_BYTES:
        return f"a name may have {NAME_BYTES} bytes, this has {size}"
    if not name.isprintable() and any(unicodedata.category(c) == "Cc" for c in name):
        return "a name must not have control characters"
    if not unicodedata.is_normalized("NFC", name):
        return "a name must be in Unicode form NFC"
    if _ROOTED.match(name) or (".." in name and ".." in re.split(r"[/\\]", name)):
        return "a name must not be an absolute path, have '..' as a part, or start with a drive letter"
    return ""


def plain(value: Any, what: str, depth: int) -> Any:
    """User metadata as JSON within the file's rules. Raises `InputError` where it is not."""
    if value is None or type(value) in (bool, str):
        if type(value) is str and any("\ud800" <= c <= "\udfff" for c in value):
            raise InputError(f"{what} must be valid Unicode, without lone surrogates")
        return value
    if (type(value) is int and -BELOW < value < BELOW) or (type(value) is float and value - value == 0):
        return value
    if isinstance(value, (list, tuple, dict)) and depth < 1:
        raise InputError(f"{what} nests too deep for a .cpd index")
    if isinstance(value, (list, tuple)):
        return [plain(v, what, depth - 1) for v in value]
    if isinstance(value, dict) and all(type(k) is str for k in value):
        return {plain(k, what, 0): plain(v, f"{what}[{k!r}]", depth - 1) for k, v in value.items()}
    raise InputError(f"{what} must be JSON (finite numbers, integers below 2^53, strings, lists, dicts), not {short(value)}")
