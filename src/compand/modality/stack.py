"""Models whose weights are sums, read within any memory: the first terms of each matrix, chosen by what they are worth.

A file of stacked terms, as ``hadamard,(trellis:2+trellis:1+trellis:1)`` writes, is a whole family of models. What each number of terms
of each matrix costs is measured once (`compand.integration.language_stack`) and kept in the file; where it was not, each bit more of a
value is taken to quarter its squared error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..codes import stored_form
from ..dtypes import dtype
from ..errors import InputError
from ..expression import used
from ..file import File
from ..file import open as open_file
from ..fit.stack import choose
from ..stage import Part
from ..terms import count, first
from ..writer import Writer

if TYPE_CHECKING:
    from ..entry import Entry

KEY = "stack"  # of the file's meta: {"lost": {name: [after 1, 2, ... terms]}}


def stacked(entry: Entry) -> int:
    """Terms that a matrix may be read with: 1 for what is no sum, no model's weight, or a difference to a base model."""
    plain = entry.kind != "array" or len(entry.shape) < 2 or "base" in entry.attrs
    return 1 if plain else count(entry.codec.stage)


def sizes(entry: Entry) -> list[int]:
    """Bytes of the codes with the first 1, 2, ... terms as they are in memory, without entropy coding."""
    codec, form, stored, found = entry.codec, entry.codec.form(entry.shape, entry.dtype), entry.parts(), []
    for terms in range(1, stacked(entry) + 1):
        stage, where = first(codec.stage, terms)
        total = sum(a.nbytes for a in stage.arrays().values())
        for path, part in stage.layout(form).items():
            kind, shape = stored_form(Part(part.shape, part.dtype, part.k))
            total += stored.get(where(path)[0], 0) if -1 in shape else math.prod(shape) * dtype(kind).itemsize
        found.append(total)
    return found


def lost(file: File, names: list[str], costs: list[list[int]]) -> list[list[float]]:
    """What each number of terms of these matrices costs: as it was measured if the file says so of all of them, else by their bits."""
    kept = file.meta.get(KEY)
    told = kept.get("lost") if isinstance(kept, dict) else None
    measured = [told.get(n) if isinstance(told, dict) else None for n in names]
    if all(isinstance(m, list) and len(m) == len(c) and all(type(v) in (int, float) and 0 <= v < 1e30 for v in m)
           for m, c in zip(measured, costs, strict=True)):
        return measured  # type: ignore[return-value]
    values = [math.prod(file[n].shape) for n in names]
    return [[v * 4.0 ** (-8 * c / max(v, 1)) for c in own] for v, own in zip(values, costs, strict=True)]


def within(file: File, memory: int, coded: Callable[[Entry], bool] = lambda entry: not entry.codec.stage.raw) -> dict[str, int]:
    """How many terms of each stacked matrix to read so that all weights take at most ``memory`` bytes.

    ``coded`` says which matrices stay codes; others take what they are decoded to: 2 bytes a value of bfloat16 or float16, else 4.
    Raises `InputError` if the first terms alone take more, `CorruptError` for damage.
    """
    names, rest = [], 0
    for entry in file.values():
        if entry.kind != "array":
            continue
        if len(entry.shape) > 1 and coded(entry):
            if stacked(entry) > 1:
                names.append(entry.name)
            else:
                rest += entry.nbytes if entry.codec.stage.raw else sizes(entry)[0]
        else:
            rest += math.prod(entry.shape) * (2 if len(entry.shape) > 1 and dtype(entry.dtype).itemsize == 2 else 4)
    return _chosen(file, {n: sizes(file[n]) for n in names}, rest, memory, "a memory")


def _chosen(file: File, costs: dict[str, list[int]], rest: int, budget: int, what: str) -> dict[str, int]:
    """Terms by name; ``rest`` are bytes that are taken anyway."""
    least = rest + sum(c[0] for c in costs.values())
    if least > budget:
        more = "" if costs else "; no matrix is a sum of terms, as hadamard,(trellis:2+trellis:1) makes them"
        raise InputError(f"{what} of {budget:,} bytes: {least:,} are needed at least{more}")
    names, own = list(costs), list(costs.values())
    return dict(zip(names, choose(own, lost(file, names, own), budget - rest), strict=True))


def cut(path, out, memory: int | None = None, *, size: int | None = None, overwrite: bool = False) -> dict[str, int]:
    """Write the terms of a stacked file that are worth most as a file of its own: weights of ``memory`` bytes, or a file of ``size``.

    Returns the terms kept, by name. Nothing is coded anew. Raises `InputError` as `within` does.
    """
    if (memory is None) == (size is None):
        raise InputError("give memory or size")
    with open_file(path) as file:
        if memory is not None:
            kept = within(file, memory)
        else:
            costs = {n: _stored(e) for n, e in file.items() if stacked(e) > 1}
            kept = _chosen(file, costs, file.nbytes - sum(c[-1] for c in costs.values()), size or 0, "a file")
        meta = {k: v for k, v in file.meta.items() if k not in (KEY, "writer")}
        with Writer(Path(out), overwrite=overwrite, meta=meta) as writer:
            for name, entry in file.items():
                if entry.kind == "file":
                    writer.write_file(name, entry.array().tobytes())
                else:
                    writer.write_codes(name, entry.codes(terms=kept.get(name)), attrs=entry.attrs or None)
    return kept


def _stored(entry: Entry) -> list[int]:
    """Bytes in the file of the first 1, 2, ... terms."""
    parts, stage = entry.parts(), entry.codec.stage
    return [sum(parts[p] for p in used(stage, parts, t)) + sum(a.nbytes for a in first(stage, t)[0].arrays().values())
            for t in range(1, stacked(entry) + 1)]
