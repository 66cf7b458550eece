"""Dynamic splats: key frames, and between them what moved: gated residuals in the steps of the key frame's splats; with seek.

    write_sequence("walk.cpd", frames, quality=50, key=30)
    with Sequence("walk.cpd") as walk:
        scene = walk[42]

Girish et al., "QUEEN: QUantized Efficient ENcoding of Dynamic Gaussians", 2024 (gating and quantizing residuals of frames).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from ...codec import Codec
from ...errors import CorruptError, FormatError, InputError
from ...file import open as open_file
from ...writer import Writer
from .packed import alpha_of, logit, unit
from .quality import spec_of
from .scene import from_matrix, matrix, order
from .splats import Splats

GATE = 0.6       # of a step; what moved less stays
LOSSLESS = "planes,rans:1"
_MOST = 32767


def _group() -> np.ndarray:
    """The 24 turns of a box that only rename its axes, as quaternions (24, 4)."""
    found = []
    for p in itertools.product((-1, 0, 1), repeat=4):
        if sum(v != 0 for v in p) in (1, 2, 4) and next(v for v in p if v) > 0:
            found.append(np.array(p) / np.linalg.norm(p))
    return np.array(found)


def _times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    (w, x, y, z), (s, t, u, v) = a.T, b.T
    return np.stack([w * s - x * t - y * u - z * v, w * t + x * s + y * v - z * u, w * u - x * v + y * s + z * t,
                     w * v + x * u - y * t + z * s], 1)


class _Names:
    """How a coded key frame names the axes of each splat, so that later frames can be named alike."""

    def __init__(self, original: Splats, decoded: Splats):
        self.places = np.argsort(-original.scales, axis=1, kind="stable")
        q, want, group = unit(original.rotations), unit(decoded.rotations), _group()
        best = np.full(len(q), -1.0)
        self.turn = np.zeros((len(q), 4))
        for g in group:
            fit = np.abs((_times(q, np.broadcast_to(g, q.shape)) * want).sum(1))
            self.turn[fit > best] = g
            best = np.maximum(best, fit)

    def rows(self, scene: Splats, near: np.ndarray) -> np.ndarray:
        """The matrix of a frame under these names; quaternions on the side of ``near`` (n, 4)."""
        x = matrix(scene)
        x[:, 3:6] = np.take_along_axis(scene.scales, self.places, 1)
        q = _times(unit(scene.rotations), self.turn)
        x[:, 6:10] = q * np.where((q * near).sum(1, keepdims=True) < 0, -1, 1)
        x[:, 10] = alpha_of(scene.opacity)
        return x


def _steps(key: np.ndarray, spec: Codec) -> np.ndarray:
    """Steps of residuals (n, values) from a decoded key frame: opacity counts in alpha here."""
    s = spec.stage
    thin = np.array([1, 1, s.thin]) / (2 + s.thin)  # type: ignore[attr-defined]
    longest = np.exp(key[:, 3:6].astype(np.float64) @ thin)
    step = np.empty(key.shape)
    step[:, :3] = (longest / 2 ** s.position)[:, None]  # type: ignore[attr-defined]
    step[:, 3:6] = np.log(2) / s.scale  # type: ignore[attr-defined]
    step[:, 6:10] = 2.0 ** -(s.rotation - 1)  # type: ignore[attr-defined]
    step[:, 10] = 1 / s.opacity  # type: ignore[attr-defined]
    step[:, 11:14] = s.color  # type: ignore[attr-defined]
    step[:, 14:] = s.sh  # type: ignore[attr-defined]
    return step


def _alpha_rows(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x[:, 10] = alpha_of(x[:, 10])
    x[:, 6:10] = unit(x[:, 6:10])
    return x


def write_sequence(path, frames: Iterable[Splats], *, quality: float = 50, key: int = 30, overwrite: bool = False) -> int:
    """Write frames of one scene (row j is the same splat in all) as a .cpd; a key frame every ``key`` frames. Gives their number.

    Raises `InputError` if frames differ in splats or degree, `OverwriteError` if the file exists.
    """
    if key < 1:
        raise InputError(f"a key frame every {key} frames")
    count, shape = 0, (0, 0)
    with Writer(path, overwrite=overwrite, meta={"modality": "splats", "sequence": {"key": key}}) as out:
        for i, frame in enumerate(frames):
            if i and (len(frame), frame.degree) != shape:
                raise InputError(f"frame {i} has {len(frame):,} splats of degree {frame.degree}, the first {shape[0]:,} of {shape[1]}")
            shape = len(frame), frame.degree
            if i % key == 0:
                sort = order(frame.positions)
                x = matrix(frame.take(sort))
                codec = Codec(spec_of(quality)).fit(x)
                out.write(f"key{i:06}", x, codec)
                now = codec.decode(codec.encode(x))
                names, steps = _Names(from_matrix(x), from_matrix(now)), _steps(now, codec)
                # against the true key frame, so that what stays costs nothing: its coding error stays too, and nothing drifts
                state = names.rows(from_matrix(x), now[:, 6:10]).astype(np.float64)
            else:
                want = names.rows(frame.take(sort), state[:, 6:10])
                q = (want - state) / steps
                q = np.where(np.abs(q) < GATE, 0, np.clip(np.rint(q), -_MOST, _MOST))
                moved = q.any(1)
                state += q * steps
                out.write(f"gate{i:06}", np.packbits(moved), LOSSLESS)
                if moved.any():
                    out.write(f"step{i:06}", np.ascontiguousarray(q[moved].T.astype(np.int16)), LOSSLESS)
            count += 1
    return count


class Sequence:
    """Frames of a .cpd that `write_sequence` wrote; ``walk[i]`` is a `Splats`. Raises `FormatError` for other files."""

    def __init__(self, path, **options):
        self.file = open_file(path, **options)
        about = self.file.meta.get("sequence")
        key = about.get("key") if isinstance(about, dict) else None
        if not isinstance(key, int) or key < 1:
            raise FormatError(f"{path}: no sequence of splats")
        self.key = key
        self._at: tuple[int, np.ndarray, np.ndarray] | None = None
        names = [n for n in self.file.names if n.startswith(("key", "gate"))]
        if names != [f"{'gate' if i % key else 'key'}{i:06}" for i in range(len(names))]:
            raise FormatError(f"{path}: frames are missing")
        self.frames = len(names)

    def __len__(self) -> int:
        return self.frames

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getitem__(self, i: int) -> Splats:
        """Frame i: from its key frame on, or from the frame read last where that is nearer."""
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        at = self._at
        if at is None or not i - i % self.key <= at[0] <= i:
            entry = self.file[f"key{i - i % self.key:06}"]
            if entry.kind != "array" or len(entry.shape) != 2 or entry.codec.stage.name != "splat":
                raise FormatError(f"{entry.name!r} is no key frame: {entry.spec} of {list(entry.shape)}")
            x = entry.array()
            from_matrix(x)
            at = (i - i % self.key, _alpha_rows(x), _steps(x, entry.codec))
        frame, state, steps = at[0], at[1].copy(), at[2]
        for frame in range(at[0] + 1, i + 1):
            gate = self.file[f"gate{frame:06}"].array()
            if gate.dtype != np.uint8:
                raise CorruptError(f"frame {frame} has gates of {gate.dtype}")
            moved = np.unpackbits(gate)[:len(state)].astype(bool)
            if len(moved) != len(state):
                raise CorruptError(f"frame {frame} gates {len(moved):,} of {len(state):,} splats")
            if moved.any():
                if f"step{frame:06}" not in self.file:
                    raise CorruptError(f"frame {frame} has no steps")
                q = self.file[f"step{frame:06}"].array()
                if q.dtype != np.int16 or q.shape != (state.shape[1], int(moved.sum())):
                    raise CorruptError(f"frame {frame} moves {q.dtype}{list(q.shape)} where {[state.shape[1], int(moved.sum())]} belong")
                state[moved] += q.T * steps[moved]
        self._at = (i, state, steps)
        x = state.copy()
        x[:, 10] = logit(np.clip(x[:, 10], 0, 1))
        return from_matrix(x.astype(np.float32))
