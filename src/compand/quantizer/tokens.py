"""Pictures as tokens: each square of 16 x 16 pixels a few indexes into shipped codebooks, every one refining those before."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import numpy as np

from .. import _native  # type: ignore[attr-defined]
from ..array import like, to_numpy
from ..errors import InputError
from ..stage import KW_ONLY, Form, Part, Quantizer
from .image import within

SIDE, K, STAGES = 16, 256, 8
KEPT = (40, 12, 12)  # cosines of lowest frequency that are kept of each plane


@cache
def tables(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours (3, 3) in 1/4096, cosines (256, 256) in 1/4096, codebooks (stages, 256, 64) in 1/16 of a level; all int64."""
    from ..file import open as open_file

    found = []
    for file, entries in (("photo", ("color", "sixteen")), (name, ("codebooks",))):
        with open_file(resources.files("compand").joinpath("models", f"{file}.cpd").read_bytes()) as opened:
            found += [opened[e].array().astype(np.int64) for e in entries]
    return found[0].reshape(3, 3), found[1][0], found[2]


def latents(rows: np.ndarray, channels: int, scale: int, colour: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Rows (h, w * channels) of integers → int64 (patches, 64) in 1/16 of a level: the lowest cosines of each square, row by row."""
    h, w = rows.shape[0], rows.shape[1] // channels
    x = np.pad(rows.reshape(h, w, channels), ((0, -h % SIDE), (0, -w % SIDE), (0, 0)), mode="edge").astype(np.int64)
    x = (x * 16 + scale // 2) // scale - 2048  # 1/16 of a level of 8 bits
    planes = (x @ colour.T + 2048) >> 12 if channels == 3 else (x * 7094 + 2048) >> 12  # sqrt 3
    down, across = x.shape[0] // SIDE, x.shape[1] // SIDE
    blocks = planes.reshape(down, SIDE, across, SIDE, channels).transpose(0, 2, 4, 1, 3).reshape(down * across, channels, SIDE * SIDE)
    out = np.zeros((down * across, sum(KEPT)), np.int64)
    at = 0
    for c, n in enumerate(KEPT[:channels]):
        out[:, at:at + n] = (blocks[:, c] @ cosines[:n].T + 2048) >> 12
        at += n
    return out


class Tokens(Quantizer, name="tokens"):
    """A picture as tokens: 1 to 8 indexes below 256 for each square of 16 x 16 pixels, coded by contexts of squares and stages.

    Colours and cosines of the stage ``image``; the 64 cosines of lowest frequency of a square are one vector, coded by residual vector
    quantization. Fewer stages are the first columns of more, so a model (or a reader short of bits) can stop early: 1/32 bit a pixel
    a stage before entropy coding. Codebooks ship with compand. Decoding is integer arithmetic.

    Parameters
    ----------
    stages : indexes of a square
    channels : 1 (grey) or 3 (red, green, blue)
    bits : 8 or 16 a value
    model : the codebooks. ``tokens3`` is nearest and uses most of its codewords on other pictures, ``tokens2`` came before it; ``tokens``
        is what specs without a model have always meant

    Barnes, Rizvi & Nasrabadi, "Advances in residual vector quantization", 1996.

    >>> import compand
    >>> y, x = np.mgrid[:64, :96]
    >>> picture = np.stack([2 * x, 3 * y, 255 - x - y], -1).astype(np.uint8)
    >>> codec = compand.Codec("tokens:4")
    >>> codes = codec.encode(picture)
    >>> codes.symbols("ids").shape, bool(np.abs(codec.decode(codes).astype(int) - picture).mean() < 12)
    ((24, 4), True)
    """

    examples = ("tokens:3", "tokens:8:channels=1:bits=16", "tokens:2:model=tokens2", "tokens:2:model=tokens3")
    whole = True

    stages: Annotated[int, range(1, STAGES + 1)] = 4
    _: KW_ONLY
    channels: Literal[3, 1] = 3
    bits: Literal[8, 16] = 8
    model: Literal["tokens", "tokens2", "tokens3"] = "tokens"

    def patches(self, form: Form) -> tuple[int, int]:
        """Squares down and across. Raises `SpecError` if rows are no whole pixels."""
        if form.d % self.channels:
            raise self.fail(f"rows of {form.d} values are no pixels of {self.channels} channels; try channels=1")
        height, width = within(self, form.n, form.d // self.channels)
        return -(-height // SIDE), -(-width // SIDE)

    @property
    def effort(self):
        return 6

    def layout(self, form):
        down, across = self.patches(form)
        return {"ids": Part((down * across, self.stages), k=K, coder="mixed")}

    def encode(self, x):
        colour, cosines, books = tables(self.model)
        rows, most = to_numpy(x), 65535 if self.bits == 16 else 255
        form = Form(*rows.shape)
        down, across = self.patches(form)
        ids = np.zeros((down * across, self.stages), np.uint8)
        if rows.size:
            rest = latents(np.rint(np.clip(rows, 0, most)), self.channels, most // 255, colour, cosines)
            for i in range(self.stages):
                book = np.ascontiguousarray(books[i], np.float32)
                ids[:, i] = _native.nearest(np.ascontiguousarray(rest, np.float32), book)
                rest -= books[i][ids[:, i]]
        return {"ids": ids}

    def decode(self, parts, form):
        first = next(iter(parts.values()))
        rows = self.restored(parts, form)
        return rows if isinstance(first, np.ndarray) else like(rows, first)

    def restored(self, parts: dict[str, Any], form: Form, *, lost: np.ndarray | None = None) -> np.ndarray:
        """Rows (n, d) float32. ``lost`` (patches, stages) bool: indexes that are missing; the first of a square is then foretold by the
        squares around it, later ones add nothing. Raises `InputError` if ``lost`` has another shape."""
        colour, cosines, books = tables(self.model)
        ids = to_numpy(parts["ids"]).astype(np.int64)
        down, across = self.patches(form)
        if lost is not None and lost.shape != ids.shape:
            raise InputError(f"{self}: lost is one flag for each of {list(ids.shape)} indexes, not {list(lost.shape)}")
        if not form.n or not form.d:
            return np.zeros((form.n, form.d), np.float32)
        values = np.zeros((len(ids), sum(KEPT)), np.int64)
        gone = np.zeros(ids.shape, bool) if lost is None else lost
        for i in range(ids.shape[1]):
            keep = ~gone[:, :i + 1].any(1)
            values[keep] += books[i][ids[keep, i]]
        if gone[:, 0].any():
            values = _filled(values, gone[:, 0], down, across)
        planes = np.zeros((len(ids), self.channels, SIDE * SIDE), np.int64)
        at = 0
        for c, n in enumerate(KEPT[:self.channels]):
            planes[:, c] = (values[:, at:at + n] @ cosines[:n] + 2048) >> 12
            at += n
        planes = planes.reshape(down, across, self.channels, SIDE, SIDE).transpose(0, 3, 1, 4, 2).reshape(down * SIDE, across * SIDE, -1)
        x = (planes @ colour if self.channels == 3 else planes * 2365) + (128 << 16)
        scale, most = (257, 65535) if self.bits == 16 else (1, 255)
        x = np.clip((x * scale + 32768) >> 16, 0, most)[:form.n, :form.d // self.channels]
        return x.reshape(form.n, form.d).astype(np.float32)


def _filled(values: np.ndarray, gone: np.ndarray, down: int, across: int) -> np.ndarray:
    """Values of missing squares: the mean of those around that are there, from the rim of a hole inwards; only the lowest cosines."""
    grid, hole = values.reshape(down, across, -1).copy(), gone.reshape(down, across).copy()
    low = np.zeros(grid.shape[-1], bool)
    low[[0, 1, 2, KEPT[0], KEPT[0] + KEPT[1]]] = True
    while hole.any() and not hole.all():
        total, count = np.zeros_like(grid), np.zeros((down, across, 1), np.int64)
        for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
            there = np.roll(~hole, shift, axis)
            edge = [slice(None), slice(None)]
            edge[axis] = slice(0, 1) if shift == 1 else slice(-1, None)
            there[tuple(edge)] = False
            total += np.where(there[..., None], np.roll(grid, shift, axis), 0)
            count += there[..., None]
        fill = hole & (count[..., 0] > 0)
        grid[fill] = np.where(low, total[fill] // count[fill], 0)
        hole &= ~fill
    return grid.reshape(values.shape)
