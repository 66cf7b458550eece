"""Pictures as tokens: each square of 16 x 16 pixels a few indexes into shipped codebooks, every one refining those before."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import numpy as np

from .. import _native  # type: ignore[attr-defined]
from ..array import like, to_numpy
from ..entropy.mixed import Mixed
from ..errors import CorruptError, InputError
from ..stage import KW_ONLY, Form, Part, Quantizer
from .image import within
from .squares import dealt, filled, shares

SIDE, K, STAGES = 16, 256, 8
KEPT = (40, 12, 12)  # cosines of lowest frequency that are kept of each plane
FLAT = (0, KEPT[0], KEPT[0] + KEPT[1])  # the means of a square


@cache
def tables(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours (3, 3) in 1/4096, cosines (256, 256) in 1/4096, codebooks (stages, 256, 64) in 1/16 of a level; all int64."""
    return _shipped("photo", "color").reshape(3, 3), _shipped("photo", "sixteen")[0], _shipped(name, "codebooks")


@cache
def books(name: str, words: int) -> np.ndarray:
    """Codebooks (stages, words, 64) int64: all codewords, or those that are missed most where others stand in for the rest."""
    every = tables(name)[2]
    if words == K:
        return every
    order = _shipped("orders", name)
    return np.stack([book[own[:words]] for book, own in zip(every, order, strict=True)])


def _shipped(file: str, entry: str) -> np.ndarray:
    from ..file import open as open_file

    with open_file(resources.files("compand").joinpath("models", f"{file}.cpd").read_bytes()) as opened:
        return opened[entry].array().astype(np.int64)


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
    words : codewords of each stage, of ``tokens3``: fewer are the first of an order in which each codeword left out is the least missed,
        so that one model has ids of any number of bits (clustered codebooks of Mao et al., Extreme image compression using
        fine-tuned VQGANs, 2023)
    spread : squares are dealt out to so many parts, each in a chunk of its own with its own check, so that damage takes squares that lie
        apart and `restored` foretells them from those around
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

    examples = ("tokens:3", "tokens:8:channels=1:bits=16", "tokens:2:model=tokens2", "tokens:2:model=tokens3",
                "tokens:2:words=64:spread=5:model=tokens3")
    whole = True

    stages: Annotated[int, range(1, STAGES + 1)] = 4
    _: KW_ONLY
    channels: Literal[3, 1] = 3
    bits: Literal[8, 16] = 8
    words: Annotated[int, range(2, K + 1)] = K
    spread: Annotated[int, range(1, 65)] = 1
    model: Literal["tokens", "tokens2", "tokens3"] = "tokens"

    def patches(self, form: Form) -> tuple[int, int]:
        """Squares down and across. Raises `SpecError` if rows are no whole pixels."""
        if form.d % self.channels:
            raise self.fail(f"rows of {form.d} values are no pixels of {self.channels} channels; try channels=1")
        height, width = within(self, form.n, form.d // self.channels)
        return -(-height // SIDE), -(-width // SIDE)

    def check(self):
        if self.words < K and self.model != "tokens3":
            raise self.fail(f"fewer than {K} words are of model=tokens3, not of {self.model}")

    @property
    def effort(self):
        return 5 + self.spread

    def layout(self, form):
        down, across = self.patches(form)
        sizes = [down * across] if self.spread == 1 else shares(down, across, self.spread)
        return {name: Part((n, self.stages), k=self.words, coder="mixed") for name, n in zip(self._names, sizes, strict=True)}

    @property
    def _names(self) -> list[str]:
        return ["ids"] if self.spread == 1 else [f"ids{i}" for i in range(self.spread)]

    def encode(self, x):
        colour, cosines, _ = tables(self.model)
        rows, most = to_numpy(x), 65535 if self.bits == 16 else 255
        form = Form(*rows.shape)
        down, across = self.patches(form)
        ids = np.zeros((down * across, self.stages), np.uint8)
        if rows.size:
            rest = latents(np.rint(np.clip(rows, 0, most)), self.channels, most // 255, colour, cosines)
            for i, book in enumerate(books(self.model, self.words)[:self.stages]):
                ids[:, i] = _native.nearest(np.ascontiguousarray(rest, np.float32), np.ascontiguousarray(book, np.float32))
                rest -= book[ids[:, i]]
        return self.deal(ids, form)

    def deal(self, ids: np.ndarray, form: Form) -> dict[str, np.ndarray]:
        """Ids (squares, stages), row by row → the parts that hold them."""
        part = dealt(*self.patches(form), self.spread)
        return {name: ids[part == i] for i, name in enumerate(self._names)}

    def gather(self, parts: dict[str, Any], form: Form) -> tuple[np.ndarray, np.ndarray]:
        """Ids (squares, stages) int64, row by row, and which squares are in parts that are not there, (squares,) bool.

        Raises `CorruptError` if none is there."""
        part = dealt(*self.patches(form), self.spread)
        ids, gone = np.zeros((len(part), self.stages), np.int64), np.ones(len(part), bool)
        for i, name in enumerate(self._names):
            if name in parts:
                ids[part == i] = to_numpy(parts[name])
                gone[part == i] = False
        if len(gone) and gone.all():
            raise CorruptError(f"{self}: all indexes are lost")
        return ids, gone

    def sizes(self, parts: dict[str, Any], form: Form) -> dict[str, int]:
        """Bytes of each stage's indexes: what those up to it take, over those before; empty unless every part is there."""
        if parts.keys() != set(self._names):
            return {}
        ids = [to_numpy(part) for part in parts.values()]
        upto = [sum(Mixed().encode(np.ascontiguousarray(part[:, :i + 1]), self.words).size for part in ids) for i in range(self.stages)]
        return {f"stage {i + 1}": int(n) for i, n in enumerate(np.diff(upto, prepend=0))}

    def decode(self, parts, form):
        first = next(iter(parts.values()))
        rows = self.restored(parts, form)
        return rows if isinstance(first, np.ndarray) else like(rows, first)

    def restored(self, parts: dict[str, Any], form: Form, *, lost: np.ndarray | None = None) -> np.ndarray:
        """Rows (n, d) float32. Parts may be missing, and ``lost`` (squares, stages) bool tells single indexes that are; the first of a
        square is then foretold by the squares around it, later ones add nothing. Raises `InputError` if ``lost`` has another shape."""
        colour, cosines, _ = tables(self.model)
        ids, absent = self.gather(parts, form)
        down, across = self.patches(form)
        if lost is not None and lost.shape != ids.shape:
            raise InputError(f"{self}: lost is one flag for each of {list(ids.shape)} indexes, not {list(lost.shape)}")
        if not form.n or not form.d:
            return np.zeros((form.n, form.d), np.float32)
        values = np.zeros((len(ids), sum(KEPT)), np.int64)
        gone = absent[:, None] | (np.zeros(ids.shape, bool) if lost is None else lost)
        for i, book in enumerate(books(self.model, self.words)[:self.stages]):
            keep = ~gone[:, :i + 1].any(1)
            values[keep] += book[ids[keep, i]]
        if gone[:, 0].any():
            values = filled(values, gone[:, 0], down, across, FLAT)
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
