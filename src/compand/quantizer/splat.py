"""3D Gaussian splats: each row a splat, with steps that follow from its own size, shape and weight in a picture."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from .. import _native
from ..array import like, to_numpy
from ..errors import CorruptError, FitError
from ..stage import KW_ONLY, Form, Part, Quantizer, replace

PARTS = ("tree", "scale", "opacity", "rotation", "color", "sh", "fine", "order")
_SEEN = 1e-3  # a coefficient of harmonics is kept if it is not zero in more splats than this


class Splat(Quantizer, name="splat"):
    """Rows of position (3), log scales (3), quaternion wxyz (4), logit of opacity, color (3), harmonics (3 K): 14 + 3 K values.

    Positions are cells of a tree of counts, so a scene in the order of the tree (`compand.modality.splats.order`) pays nothing
    for an order it does not need. Scales come back longest first, axes turned to match: the same ellipsoid has 24 names. The step
    of a position follows from the splat's size, that of a direction from how far it is from round, that of color and harmonics
    from opacity times area; all from integers decoded before, so nothing is stored for them and decoding is exact. Symbols are
    foretold by splats nearby that are already decoded. Steps are trellis-coded: of steps half as wide every other one may be taken,
    which ones following from the numbers before, and the encoder looks for the sequence with the least error. Harmonics are coded in
    the scene's own basis (KLT), stored in 8 bits.

    Parameters
    ----------
    position : the step of a position is the splat's size (the mean of its two longer deviations) / 2^position, in 1/64
    scale : steps of an octave of a standard deviation
    rotation : the direction of a thin splat's axis has 2^rotation steps across the hemisphere, in 1/64
    opacity : levels of the square root of alpha
    color, sh : steps of color and harmonics, for a splat of usual weight
    adapt : 0 to 1; how far those steps follow weight (1: least squared error of the picture)
    rank : coefficients of harmonics that are kept; none: as many as are ever used
    turn : bits by which directions are finer for each octave that axes differ more, up to four
    thin : weight of the shortest deviation in the size that steps of positions follow; the longer ones have 1
    even : levels of opacity are even in alpha instead of in its root
    trade : the price of a bit in squared steps: coefficients of harmonics are taken whose error and bits together are least; 0: the
        nearest, beyond a dead zone. Only the encoder asks
    block : at most so many splats are coded together; fewer cost more but decode alone

    Marcellin & Fischer, "Trellis coded quantization", 1990 (steps);
    Devillers & Gandoin, "Geometric compression for interactive transmission", 2000 (tree); Fan et al., LightGaussian, 2023 (weight).

    >>> import compand
    >>> x = np.random.default_rng(0).standard_normal((1000, 23)).astype(np.float32)
    >>> codec = compand.Codec("splat:sh=0.2").fit(x)
    >>> y = codec.decode(codec.encode(x))
    >>> off = np.abs(y[:, :3] - x[:, :3]).max(1) / np.exp(x[:, 3:6]).max(1)
    >>> bool(off.max() < 1 / 32), bool(np.abs(np.sort(x[:, 3:6])[:, ::-1] - y[:, 3:6]).max() < 0.05)
    (True, True)
    """

    fills = True
    examples = ("splat", "splat:6:12:8:64:0.03:0.1:adapt=0.5")

    position: Annotated[float, (-8, 16)] = 5.0
    scale: Annotated[int, range(1, 257)] = 10
    rotation: Annotated[float, (0, 16)] = 8.0
    opacity: Annotated[int, range(2, 4097)] = 96
    color: Annotated[float, (1e-6, 1e6)] = 0.06
    sh: Annotated[float, (1e-6, 1e6)] = 0.1
    _: KW_ONLY
    adapt: Annotated[float, (0, 1)] = 0.5
    rank: Annotated[int, range(0, 73)] | None = None
    turn: Annotated[float, (0, 1)] = 1.0
    thin: Annotated[float, (0, 1)] = 0.0
    even: bool = False
    trade: Annotated[float, (0, 4)] = 0.1
    block: Annotated[int, range(512, 65537)] = 65536
    basis_: np.ndarray  # (coefficients, 3 K) int8: rows of the basis of harmonics
    gain_: np.ndarray   # (coefficients,) float32: what one step of each row of the basis is
    weight_: np.ndarray  # (1,) int32: weight of a usual splat in 1/scale octaves

    @property
    def most_rows(self) -> int:
        """Splats of a block."""
        return self.block

    def _rest(self, form: Form) -> int:
        """Values of harmonics of a row. Raises `SpecError` if rows are no splats."""
        rest = form.d - 14
        if rest < 0 or rest % 3 or rest > 72:
            raise self.fail(f"rows of {form.d} values are no splats, which have 14 + 3 K, K from 0 to 24; see compand.modality.splats")
        return rest

    def layout(self, form):
        self._rest(form)
        return {name: Part((-1,), "uint8") for name in PARTS}

    def state(self, form):
        rest = self._rest(form)
        rank = min(rest, self.rank if self.rank is not None else rest)
        if self.basis_ is not None and self.rank is None:
            rank = min(rest, len(self.basis_))
        return {"basis_": Part((rank, rest), "int8"), "gain_": Part((rank,), "float32"), "weight_": Part((1,), "int32")}

    def fit(self, x, *, weight=None):
        x = np.ascontiguousarray(to_numpy(x), np.float32)
        rest = self._rest(Form(*x.shape))
        area = np.sort(np.clip(x[:, 3:6], -40, 40), 1)[:, 1:].sum(1, dtype=np.float64)
        seen = 2 * np.minimum(x[:, 10], 0) - 2 * np.log1p(np.exp(-np.abs(x[:, 10].astype(np.float64))))  # 2 log alpha
        usual = float(np.median(np.clip(area + seen, -400, 400))) / np.log(2) * self.scale
        rows, gain = _basis(x[:, 14:], self.sh, rest if self.rank is None else min(rest, self.rank), self.rank is not None)
        return replace(self, basis_=rows, gain_=gain, weight_=np.int32([round(usual)]))

    def _steps(self) -> tuple:
        basis = self.basis_.astype(np.float32) * self.gain_[:, None]
        return (float(self.position), self.scale, float(self.rotation), self.opacity, float(self.color), float(self.sh),
                round(16 * self.adapt), int(self.weight_[0]), round(16 * self.turn), round(16 * self.thin), self.even, float(self.trade),
                np.ascontiguousarray(basis))

    def encode(self, x):
        rows = np.ascontiguousarray(to_numpy(x), np.float32)
        if not len(rows):
            return {name: np.zeros(0, np.uint8) for name in PARTS}
        return dict(zip(PARTS, _native.splat_encode(rows, *self._steps()), strict=True))

    def decode(self, parts, form):
        if self.basis_ is None or abs(int(self.weight_[0])) >= 1 << 20 or not (np.abs(self.gain_) < 1e30).all():
            raise FitError(f"{self}: not fitted, or its state is damaged")
        if not form.n:
            return np.zeros((0, form.d), np.float32)
        data = [np.ascontiguousarray(to_numpy(parts[name])) for name in PARTS]
        rows = _native.splat_decode(data, form.n, form.d, *self._steps())
        if rows is None:
            raise CorruptError(f"{self}: the streams of these splats are damaged")
        first = next(iter(parts.values()))
        return rows if isinstance(first, np.ndarray) else like(rows, first)


def _basis(x: np.ndarray, step: float, rank: int, all_of_them: bool) -> tuple[np.ndarray, np.ndarray]:
    """The strongest directions of harmonics (n, 3 K), about the origin, as int8 rows and their gains."""
    d = x.shape[1]
    if not rank:
        return np.zeros((0, d), np.int8), np.zeros(0, np.float32)
    top = max(float(np.abs(x).max()), 1e-30)
    y = x.astype(np.float64) / top
    _, vectors = np.linalg.eigh(y.T @ y)
    rows = vectors.T[::-1][:rank]
    if not all_of_them:
        used = (np.abs(y @ rows.T) > 0.6 * step / top).mean(0) > _SEEN
        rows = rows[:int(np.flatnonzero(used)[-1]) + 1 if used.any() else 0]
    gain = (np.abs(rows).max(1, initial=0) / 127).astype(np.float32)
    return np.rint(rows / np.maximum(gain[:, None], 1e-30)).astype(np.int8), gain
