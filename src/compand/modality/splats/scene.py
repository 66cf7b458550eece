"""A scene as a source of arrays: one matrix of splats, with what else it holds beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ... import _native
from ...array import Rows
from ...errors import FormatError, InputError
from ..source import Item, Source
from .splats import REST, Splats

ENTRY = "splats"
ATTRIBUTES = ("positions", "scales", "rotations", "opacity", "sh0", "sh_rest")
PART = 1 << 13  # splats looked at together


def order(positions: np.ndarray) -> np.ndarray:
    """The order in which splats cost least: along the Morton curve around the origin. positions (n, 3) → indices (n,).

    >>> order(np.float32([[2, 2, 2], [0.5, 0.5, 0.5], [-1, -1, -1]])).tolist()
    [2, 1, 0]
    """
    return _native.splat_order(np.ascontiguousarray(np.nan_to_num(positions, posinf=3e38, neginf=-3e38), np.float32))


def matrix(scene: Splats) -> np.ndarray:
    """A scene as rows of 14 + 3 K values, as the stage ``splat`` takes them."""
    return np.ascontiguousarray(np.concatenate([scene.positions, scene.scales, scene.rotations, scene.opacity[:, None], scene.sh0,
                                                scene.sh_rest], 1))


def cut(x: np.ndarray) -> np.ndarray:
    """Rows of such a matrix, changed in place: what is endless in a logarithm (scales, opacity) is only very much."""
    np.clip(x[:, 3:6], -40, 40, out=x[:, 3:6])
    np.clip(x[:, 10], -16, 16, out=x[:, 10])
    return x


def finite(scene: Splats) -> Splats:
    """The scene without splats that have NaN or infinite values, and without endless logarithms."""
    x = cut(matrix(scene))
    good = np.isfinite(x).all(1)
    return replace(scene.take(np.flatnonzero(good)), opacity=x[good, 10], scales=x[good, 3:6])


def from_matrix(x: np.ndarray) -> Splats:
    """The scene of such rows."""
    return Splats(x[:, :3], x[:, 3:6], x[:, 6:10], x[:, 10], x[:, 11:14], x[:, 14:])


class Scene(Source):
    """A file of splats: `items()` is the one matrix 'splats' in the order that costs least; with ``exact``, of all splats as they are.

    Of a PLY only positions and the order are in memory; rows are read when they are coded. ``scene``: one read (and changed) before,
    instead of the file's; a .cpd then counts as PLY. ``layers``: what adds most comes first, so that the first blocks draw the whole
    scene coarsely (`part.layered`); the spec then needs ``suffix``, the size of blocks.
    """

    modality = "splats"

    def __init__(self, path, *, exact: bool = False, scene: Splats | None = None, layers: bool = False):
        from . import format_of, opened

        self.format = format_of(path) or "ply"  # type: ignore[misc]
        super().__init__(path)
        found = opened(path) if scene is None else scene
        self._matrix = (lambda which: matrix(found.take(which))) if isinstance(found, Splats) else found.matrix
        self._extra = found.extra
        self._exact, self.suffix = exact, ""
        n, self.which = len(found), order(found.positions)
        if not exact:
            good = np.concatenate([np.isfinite(self._rows(slice(at, at + PART))).all(1) for at in range(0, n, PART)] or [np.zeros(0, bool)])
            self.which = self.which[good[self.which]]
            if gone := n - len(self.which):
                self.notes.append(f"{gone:,} splats with NaN or infinite values are left out: they draw nothing")
        self.meta["splats"] = len(self.which)
        if layers:
            from .part import layer_rows, layered

            rows = layer_rows(len(self.which))
            which, self.meta["layers"] = layered(from_matrix(self._rows(self.which)), rows)
            self.suffix, self.which = f":block={rows}", self.which[which]

    def __len__(self) -> int:
        return len(self.which)

    def _rows(self, which) -> np.ndarray:
        x = self._matrix(which)
        return x if self._exact else cut(x)

    def items(self):
        which = self.which
        rows = Rows((len(self), self._matrix(slice(0, 0)).shape[1]), np.float32, lambda some: self._rows(which[some]))
        yield Item(ENTRY, rows.shape, "float32", lambda some=None: rows if some is None else rows[some])
        for name, x in self._extra.items():
            yield Item(name, (len(self),), x.dtype.name, lambda some=None, x=x: x[which if some is None else which[some]])

    def attrs(self, item, codec, x):
        """Where each block of splats lies, so that a region can be decoded alone."""
        from .part import boxes

        found = boxes(x, codec) if item.name == ENTRY and len(x) else None
        return {"boxes": found} if found else {}


def from_file(file) -> Splats:
    """The scene in an open .cpd. Raises `FormatError` if it holds none."""
    arrays = {n: file[n] for n in file.names if file[n].kind == "array"}
    if ENTRY in arrays:
        entry = arrays.pop(ENTRY)
        if len(entry.shape) != 2 or entry.shape[1] - 14 not in [3 * k for k in REST.values()]:
            raise FormatError(f"{ENTRY!r} is {list(entry.shape)}, not rows of 14 + 3 K values")
        scene = from_matrix(entry.array().astype(np.float32, copy=False))
        own = scene.arrays()
    elif "positions" in arrays:
        own = {n: arrays.pop(n).array() for n in ATTRIBUTES if n in arrays}
    else:
        raise FormatError("this .cpd holds no scene of splats")
    try:
        return Splats(**own, extra={n: e.array() for n, e in arrays.items()})
    except (InputError, TypeError) as e:
        raise FormatError(f"the arrays of this .cpd are no scene of splats: {e}") from None
