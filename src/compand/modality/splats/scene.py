"""A scene as a source of arrays: one matrix of splats, with what else it holds beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ... import _native
from ...errors import FormatError, InputError
from ..source import Item, Source
from .splats import REST, Splats

ENTRY = "splats"
ATTRIBUTES = {"positions": 3, "scales": 3, "rotations": 4, "opacity": 1, "sh0": 3, "sh_rest": 0}


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


def finite(scene: Splats) -> Splats:
    """The scene without splats that have NaN or infinite values; what is endless in a logarithm is only very much, and cut."""
    scene = replace(scene, opacity=np.clip(scene.opacity, -16, 16), scales=np.clip(scene.scales, -40, 40))
    good = np.isfinite(matrix(scene)).all(1)
    return scene if good.all() else scene.take(np.flatnonzero(good))


def from_matrix(x: np.ndarray) -> Splats:
    """The scene of such rows."""
    return Splats(x[:, :3], x[:, 3:6], x[:, 6:10], x[:, 10], x[:, 11:14], x[:, 14:])


class Scene(Source):
    """A file of splats: `items()` is the one matrix 'splats' in the order that costs least; with ``exact``, of all splats as they are.

    ``scene``: one read (and changed) before, instead of the file's; a .cpd then counts as PLY. ``layers``: what adds most comes
    first, so that the first blocks draw the whole scene coarsely (`part.layered`); the spec then needs ``suffix``, the size of blocks.
    """

    modality = "splats"

    def __init__(self, path, *, exact: bool = False, scene: Splats | None = None, layers: bool = False):
        from . import format_of, read

        self.format = format_of(path) or "ply"  # type: ignore[misc]
        super().__init__(path)
        scene = read(path) if scene is None else scene
        self.meta["splats"] = len(scene)
        self.scene = scene.take(order(scene.positions))
        self.exact, self.suffix = exact, ""
        if not exact:
            self.scene = finite(self.scene)
            if gone := len(scene) - len(self.scene):
                self.notes.append(f"{gone:,} splats with NaN or infinite values are left out: they draw nothing")
            self.meta["splats"] = len(self.scene)
            if layers:
                from .part import layer_rows, layered

                rows = layer_rows(len(self.scene))
                which, self.meta["layers"] = layered(self.scene, rows)
                self.suffix = f":block={rows}"
                self.scene = self.scene.take(which)

    def items(self):
        for name, x in {ENTRY: matrix(self.scene), **self.scene.extra}.items():
            yield Item(name, x.shape, x.dtype.name, lambda rows=None, x=x: x if rows is None else x[rows])

    def attrs(self, item, codec, x):
        """Where each block of splats lies, so that a region can be decoded alone."""
        from .part import boxes

        return {"boxes": boxes(x, codec)} if item.name == ENTRY and len(x) and np.isfinite(x[:, :6]).all() else {}


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
