"""Pictures: rows of pixels as a coarse picture and sparse blocks in learnt bases, foretold by a learnt model that adapts."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import numpy as np

from .. import _native  # type: ignore[attr-defined]
from ..array import like, to_numpy
from ..errors import CorruptError, InputError
from ..stage import KW_ONLY, Form, Part, Quantizer

MOST = 1 << 28  # pixels
MODEL_ARRAYS = ("color", "eight", "sixteen", "p", "seen", "weights", "rates", "centre")


def model_of(arrays: dict[str, np.ndarray]):
    """The native model of its arrays, as `compand/models/*.cpd` hold them; ``filter.N.weights`` and ``filter.N.bias`` are layers."""
    model = _native.ImageModel(**{name: np.ascontiguousarray(arrays[name]) for name in MODEL_ARRAYS}, share=int(arrays["share"][0]))
    for i in range(sum(name.endswith(".bias") for name in arrays)):
        model.add_layer(arrays[f"filter.{i}.weights"], arrays[f"filter.{i}.bias"])
    return model


def within(stage: Quantizer, height: int, width: int) -> tuple[int, int]:
    """Height and width. Raises `SpecError` beyond `MOST` pixels: decoding one takes up to 60 bytes of memory."""
    if height * width > MOST:
        raise stage.fail(f"a picture of {width} x {height}; at most {MOST:,} pixels are coded together, cut it into parts")
    return height, width


@cache
def model_named(name: str):
    """The model that ships under a name, loaded once."""
    from ..file import open as open_file

    with open_file(resources.files("compand").joinpath("models", f"{name}.cpd").read_bytes()) as file:
        return model_of({n: entry.array() for n, entry in file.items()})


class Image(Quantizer, name="image"):
    """A picture: rows of ``channels`` values a pixel, from 0 to 255 (or 65535).

    A learnt rotation of colours; the picture at an eighth of its size, in cosines; what that leaves over in blocks of 16 x 16 or 8 x 8,
    each in the basis that makes it sparsest, chosen with its values for the least of error and bits; a small integer network takes
    off what quantizing left at the edges of blocks. Bits are foretold by integer mixing of contexts learnt from photographs. Tiles
    are coded apart, so a damaged one leaves the others whole. Decoding is integer arithmetic: the same pixels on every machine.

    All rows are one block. What was learnt (the model) ships with compand and is not stored in the file.

    Parameters
    ----------
    step : the quantizer's step, in levels of 8 bits; the squared error grows with about its square
    channels : 1 (grey) or 3 (red, green, blue)
    bits : 8 or 16 a value
    tile : side of a tile in pixels, a multiple of 64; smaller ones lose less when damaged and cost more
    rdo : squared error, in squared steps, that a bit is worth to the encoder

    Sezer, Guleryuz & Altunbasak, "Approximation and compression with sparse orthonormal transforms", 2015 (bases); Burt & Adelson, 1983
    (coarse picture); Mahoney, "Adaptive weighing of context models for lossless data compression", 2005 (mixing).

    >>> import compand
    >>> y, x = np.mgrid[:96, :128]
    >>> picture = np.stack([2 * x, 2 * y, 255 - x - y], -1).astype(np.uint8)
    >>> codes = compand.Codec("image:16").encode(picture)
    >>> off = compand.Codec("image:16").decode(codes).astype(int) - picture
    >>> codes.nbytes < 1000, bool(np.sqrt(np.mean(off**2)) < 6)
    (True, True)
    """

    examples = ("image:12", "image:40:channels=1:bits=16:tile=64")
    whole = True

    step: Annotated[float, (0.25, 1000)] = 24.0
    _: KW_ONLY
    channels: Literal[3, 1] = 3
    bits: Literal[8, 16] = 8
    tile: Annotated[int, range(64, 4097)] = 512
    rdo: Annotated[float, (0, 4)] = 0.09
    model: Literal["photo"] = "photo"

    @property
    def effort(self):
        return 24  # a tile through both networks

    def check(self):
        if self.tile % 64:
            raise self.fail(f"a tile's side is a multiple of 64; try {max(64, round(self.tile / 64) * 64)}")

    def _sides(self, form: Form) -> tuple[int, int]:
        """Height and width in pixels. Raises `SpecError` if rows are no whole pixels."""
        if form.d % self.channels:
            raise self.fail(f"rows of {form.d} values are no pixels of {self.channels} channels; try channels=1")
        if max(form.n, form.d // self.channels) > 1 << 16:
            raise self.fail(f"a picture of {form.d // self.channels} x {form.n}; a side has at most 65536 pixels")
        return within(self, form.n, form.d // self.channels)

    def layout(self, form):
        self._sides(form)
        return {"codes": Part((-1,), "uint8")}

    def _settings(self) -> tuple[int, int, int, int]:
        return self.channels, self.bits, round(64 * self.step), self.tile

    def encode(self, x):
        rows = np.ascontiguousarray(to_numpy(x), np.float32)
        self._sides(Form(*rows.shape))
        if not rows.size:
            return {"codes": np.zeros(0, np.uint8)}
        return {"codes": _native.image_encode(model_named(self.model), rows, *self._settings(), self.rdo)}

    def decode(self, parts, form):
        rows, _ = self.restored(parts, form, conceal=False)
        first = next(iter(parts.values()))
        return rows if isinstance(first, np.ndarray) else like(rows, first)

    def restored(self, parts: dict[str, Any], form: Form, *, conceal: bool = True,
                 lost: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n, d) float32 in spite of damage, and which parts were not used: (tiles, 2) bool, coarse and details of each tile.

        ``conceal``: tiles whose check is wrong are restored from their neighbours (coarse) or left without details, instead of an error.
        ``lost`` (tiles, 2) bool: parts to leave out on purpose. Raises `CorruptError` if what says where tiles lie is damaged.
        """
        height, width = self._sides(form)
        if not height or not width:
            return np.zeros((form.n, form.d), np.float32), np.zeros((0, 2), bool)
        gone = np.zeros(0, np.uint8) if lost is None else np.ascontiguousarray(lost, np.uint8).reshape(-1)
        if gone.size not in (0, 2 * self.tiles(form)):
            raise InputError(f"{self}: lost is two flags for each of {self.tiles(form)} tiles, not {gone.size} flags")
        codes = np.ascontiguousarray(to_numpy(parts["codes"]))
        found = _native.image_decode(model_named(self.model), codes, height, width, *self._settings(), conceal, gone)
        if found is None:
            raise CorruptError(f"{self}: the codes of this picture are damaged")
        return found[0], found[1].reshape(-1, 2).astype(bool)

    def tiles(self, form: Form) -> int:
        """How many tiles such a picture has."""
        height, width = self._sides(form)
        return -(-height // self.tile) * -(-width // self.tile)

    def sizes(self, parts: dict[str, Any], form: Form) -> dict[str, int]:
        """Bytes of each stage of the codes: ``coarse``, ``details``, ``tiles`` (their table). Raises `CorruptError`."""
        codes = np.ascontiguousarray(to_numpy(parts["codes"]))
        height, width = self._sides(form)
        spans = _native.image_spans(codes, height, width, self.channels, self.tile)
        if spans is None:
            raise CorruptError(f"{self}: the codes of this picture are damaged")
        coarse, details = (int(v) for v in spans.reshape(-1, 2).sum(0))
        return {"coarse": coarse, "details": details, "tiles": codes.size - coarse - details}
