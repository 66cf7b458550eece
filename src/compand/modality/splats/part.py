"""Parts of a scene in a .cpd: the splats of a region, the first layers of a scene that was written coarse first, or block by block.

    with compand.open("scene.cpd") as file:
        near = part(file, region=(-1, -1, -1, 1, 1, 1))      # only blocks that reach into the box are decoded
        coarse = part(file, layers=1)                        # of a scene written with layers
        for some in stream(file): ...                        # one block in memory at a time
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ...errors import FormatError, InputError
from .packed import alpha_of
from .scene import ENTRY, from_file, from_matrix, order
from .splats import REST, Splats

LAYERS = 8  # blocks that a scene is cut into at least, where it is large enough; the first layer is one of them
LEAST = 512  # splats of a block


def weight(scene: Splats) -> np.ndarray:
    """What each splat may add to a picture, float64 (n,): opacity times the area of its two longer axes (Fan et al., 2023)."""
    two = np.sort(np.clip(scene.scales.astype(np.float64), -40, 40), 1)[:, 1:].sum(1)
    return alpha_of(scene.opacity) * np.exp(two)


def layer_rows(n: int, most: int = 1 << 16) -> int:
    """Splats of a block, so that n of them make at least eight blocks (if each has 512).

    >>> layer_rows(300_000), layer_rows(1000)
    (37500, 512)
    """
    return min(most, max(LEAST, -(-n // LAYERS)))


def layered(scene: Splats, rows: int) -> tuple[np.ndarray, list[int]]:
    """An order in which the first rows draw the whole scene: (indices (n,), where each layer ends).

    Layers hold what adds most, then less: one block, another, then each as much as all before; along the curve within a layer.
    """
    n, by = len(scene), np.argsort(-weight(scene), kind="stable")
    ends = [min(n, rows)]
    while ends[-1] < n:
        ends.append(min(n, ends[-1] + max(rows, ends[-1])))
    cuts = [np.sort(by[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    return np.concatenate([cut[order(scene.positions[cut])] for cut in cuts]) if n else by, ends


def boxes(x, codec) -> list[list[float]]:
    """For each block of rows that a codec makes, the box (x0, y0, z0, x1, y1, z1) of the decoded centres; no boxes if one is endless."""
    out, step = [], codec.block_rows(codec.form(x.shape, "float32"))
    finer = getattr(codec.stage, "position", math.inf)
    for at in range(0, len(x), step):
        rows = x[at:at + step][:, :6].astype(np.float64)
        if not np.isfinite(rows).all():
            return []
        off = np.exp(np.clip(rows[:, 3:6], -40, 40).max()) * 2.0 ** -finer  # a position moves by less than its step
        low, high = rows[:, :3].min(0) - off, rows[:, :3].max(0) + off
        wide = 1e-5 * np.maximum(np.abs(low), np.abs(high))  # five digits are enough, outwards
        out.append([float(f"{v:.5g}") for v in (*(low - wide), *(high + wide))])
    return out


def part(file, *, region: Sequence[float] | None = None, layers: int | None = None) -> Splats:
    """Some of the scene in an open .cpd: the splats whose centres lie in ``region`` (x0, y0, z0, x1, y1, z1), of the first ``layers``.

    Blocks that hold none of them are not read. Raises `InputError` for a box that is none, or layers of a scene written without.
    """
    box = None if region is None else _box(region)
    if ENTRY not in file.names:
        if layers is not None:
            raise InputError("this scene was written without layers; compress it with --progressive")
        scene = from_file(file)
        return scene if box is None else scene.take(np.flatnonzero(_inside(scene.positions, box)))
    last = _end(file, layers)
    found = [rows if box is None else rows[_inside(rows[:, :3], box)] for rows in _blocks(file, box, last)]
    entry = file[ENTRY]
    return from_matrix(np.concatenate(found) if found else np.zeros((0, entry.shape[1]), np.float32))


def stream(file) -> Iterator[Splats]:
    """The scene in an open .cpd, a block at a time, so that memory does not grow with the scene; as one if it has further properties."""
    n = length(file)
    if n is None:
        yield from_file(file)
        return
    for rows in _blocks(file, None, n):
        yield from_matrix(rows)


def length(file) -> int | None:
    """Splats of the scene in an open .cpd, if there are any and it decodes block by block."""
    if [name for name in file.names if file[name].kind == "array"] != [ENTRY]:
        return None
    return next(iter(file[ENTRY].shape), 0) or None


def _blocks(file, box: np.ndarray | None, last: int) -> Iterator[np.ndarray]:
    entry = file[ENTRY]
    if entry.kind != "array" or len(entry.shape) != 2 or entry.shape[1] - 14 not in [3 * k for k in REST.values()]:
        raise FormatError(f"{ENTRY!r} is {list(entry.shape)}, not rows of 14 + 3 K values")
    step, known = entry.block_rows, entry.attrs.get("boxes")
    count = -(-entry.shape[0] // step)
    if not (isinstance(known, list) and len(known) == count and all(_is_box(b) for b in known)):
        known = None  # written by another hand: every block is looked into
    for i in range(-(-last // step)):
        here = None if known is None else np.float64(known[i])
        if box is None or here is None or bool(((here[:3] <= box[3:]) & (here[3:] >= box[:3])).all()):
            yield entry.array(rows=slice(i * step, min((i + 1) * step, last))).astype(np.float32, copy=False)


def _end(file, layers: int | None) -> int:
    n = file[ENTRY].shape[0]
    if layers is None:
        return n
    source = file.meta.get("source")
    ends = source.get("layers") if isinstance(source, dict) else None
    if not isinstance(ends, list) or not ends or not all(isinstance(e, int) and 0 < e <= n for e in ends):
        raise InputError("this scene was written without layers; compress it with --progressive")
    if not 1 <= layers <= len(ends):
        raise InputError(f"the scene has {len(ends)} layers; {layers} were asked for")
    return ends[layers - 1]


def _is_box(box) -> bool:
    return isinstance(box, list) and len(box) == 6 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in box)


def _box(region: Sequence[float]) -> np.ndarray:
    box = np.asarray(region, np.float64)
    if box.shape != (6,) or np.isnan(box).any() or (box[:3] > box[3:]).any():
        raise InputError(f"a region is x0, y0, z0, x1, y1, z1 with x0 <= x1, y0 <= y1, z0 <= z1, not {list(region)}")
    return box


def _inside(positions: np.ndarray, box: np.ndarray) -> np.ndarray:
    return np.asarray(((positions >= box[:3]) & (positions <= box[3:])).all(1))
