"""Cut an image into tiles."""

from __future__ import annotations

from typing import Annotated

from ..array import array_namespace
from ..stage import KW_ONLY, Transform


class Blocks(Transform, name="blocks"):
    """Tiles of h × w values as rows: (n, d) → (tiles, h·w), tiles from left to right, then down. Any dtype, no loss.

    Parameters
    ----------
    tile : h x w
        Each side from 1 to 64. Edges that do not fill a tile are padded by repeating the last value.
    width : int
        Width of the images if each row of the array is a whole image (d = height · width); none = the array itself is one
        image, and its rows are the image's. The codec codes about a million values at a time; tiles do not cross that border.

    Raises `SpecError` for an image narrower than a tile.

    >>> import numpy as np
    >>> Blocks((2, 2)).forward(np.arange(8).reshape(2, 4))[0]
    array([[0, 1, 4, 5],
           [2, 3, 6, 7]])
    """

    examples = ("blocks:4x4,int:4",)
    raw = True
    moves = True
    tile: Annotated[tuple[int, ...], range(1, 65)]
    _: KW_ONLY
    width: Annotated[int, range(1, 1 << 31)] | None = None

    def check(self):
        if len(self.tile) != 2:
            raise self.fail("a tile has two sides, as blocks:8x8")

    def _sizes(self, n: int, d: int) -> tuple[int, int, int]:
        """(images, height, width)."""
        if self.width and d % self.width:
            raise self.fail(f"width must divide the row length d={d}")
        sizes = (n, d // self.width, self.width) if self.width else (1, n, d)
        if sizes[2] < self.tile[1] or (self.width and sizes[1] < self.tile[0]):
            raise self.fail(f"images of {sizes[1]}x{sizes[2]} are smaller than a tile of {self.tile[0]}x{self.tile[1]}")
        return sizes

    def out(self, form):
        images, height, width = self._sizes(form.n, form.d)
        h, w = self.tile
        return form._replace(n=images * -(-height // h) * -(-width // w), d=h * w)

    def carry(self, weight, form):
        return self.forward(array_namespace(weight).broadcast_to(weight, (form.n, form.d)))[0]

    def forward(self, x):
        xp = array_namespace(x)
        images, height, width = self._sizes(*x.shape)
        h, w = self.tile
        x = xp.reshape(x, (images, height, width))
        for axis, (size, side) in enumerate(((height, h), (width, w)), 1):
            if size % side:
                last = x[:, -1:, :] if axis == 1 else x[:, :, -1:]
                x = xp.concat([x] + [last] * (-size % side), axis=axis)
        down, across = -(-height // h), -(-width // w)
        x = xp.permute_dims(xp.reshape(x, (images, down, h, across, w)), (0, 1, 3, 2, 4))
        return xp.reshape(x, (images * down * across, h * w)), {}

    def inverse(self, y, side, form):
        xp = array_namespace(y)
        images, height, width = self._sizes(form.n, form.d)
        h, w = self.tile
        down, across = -(-height // h), -(-width // w)
        y = xp.permute_dims(xp.reshape(y, (images, down, across, h, w)), (0, 1, 3, 2, 4))
        y = xp.reshape(y, (images, down * h, across * w))[:, :height, :width]
        return xp.reshape(y, (form.n, form.d))
