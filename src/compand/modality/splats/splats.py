"""The in-memory form of a scene of 3D Gaussian splats: six float32 arrays with one row a splat."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from ...errors import InputError

REST = {0: 0, 1: 3, 2: 8, 3: 15, 4: 24}  # coefficients above the constant one, by degree
RESERVED = {"positions", "scales", "rotations", "opacity", "sh0", "sh_rest", "splats"}  # names of what a scene itself is stored as
SH_C0 = 0.28209479177387814              # value of the constant spherical harmonic: colour = 0.5 + SH_C0 * sh0


@dataclass
class Splats:
    """n Gaussians as trained: nothing activated, right-down-front axes as INRIA's PLY has them.

    Arrays (float32, C order): ``positions`` (n, 3) · ``scales`` (n, 3) natural logarithm of the standard deviation along each own
    axis · ``rotations`` (n, 4) quaternion w, x, y, z from own axes to the scene's, not necessarily of length one ·
    ``opacity`` (n,) logit of alpha · ``sh0`` (n, 3) constant coefficient of red, green, blue · ``sh_rest`` (n, 3 K), K = (degree + 1)² − 1:
    the other coefficients, coefficient by coefficient, each red, green, blue (`sh_rest.reshape(n, K, 3)`), in the order of the
    paper's real harmonics: (l, m) = (1, -1), (1, 0), (1, 1), (2, -2) ... (INRIA's PLY stores all of red first; readers reorder).
    ``extra`` holds further properties by name (n,), such as normals that are not zero. Raises `InputError` if shapes do not fit.

    Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering", 2023.

    >>> s = Splats(positions=np.zeros((2, 3)), scales=np.zeros((2, 3)), rotations=np.eye(4)[[0, 0]], opacity=np.zeros(2),
    ...            sh0=np.zeros((2, 3)))
    >>> len(s), s.degree, s.sh_rest.shape
    (2, 0, (2, 0))
    """

    positions: np.ndarray
    scales: np.ndarray
    rotations: np.ndarray
    opacity: np.ndarray
    sh0: np.ndarray
    sh_rest: np.ndarray | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        n = len(self.positions)
        if self.sh_rest is None:
            self.sh_rest = np.zeros((n, 0), np.float32)
        for name, d in (("positions", 3), ("scales", 3), ("rotations", 4), ("opacity", 0), ("sh0", 3), ("sh_rest", -1)):
            x = np.ascontiguousarray(getattr(self, name), np.float32)
            want = (n, d) if d > 0 else (n,) if d == 0 else (n, x.shape[-1])
            if x.shape != want or (d == -1 and x.shape[-1] not in [3 * k for k in REST.values()]):
                need = list(want) if d >= 0 else f"[{n}, 0, 9, 24, 45 or 72]"
                raise InputError(f"splats: {name} is {list(x.shape)}, {n:,} splats need {need}")
            setattr(self, name, x)
        for name, x in self.extra.items():
            if name in RESERVED:
                raise InputError(f"splats: a further property cannot have the name {name!r}")
            if x.shape != (n,):
                raise InputError(f"splats: {name} is {list(x.shape)}, {n:,} splats need [{n}]")

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 4."""
        return next(d for d, k in REST.items() if 3 * k == self.sh_rest.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays; a PLY has 12 more a splat for its unused normals."""
        return sum(x.nbytes for x in self.arrays().values())

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, ``extra`` last."""
        own = {k: getattr(self, k) for k in ("positions", "scales", "rotations", "opacity", "sh0", "sh_rest")}
        return own | self.extra

    def take(self, which) -> Self:
        """The splats of an index array or slice, in its order."""
        own = {k: v[which] for k, v in self.arrays().items() if k not in self.extra}
        return type(self)(**own, extra={k: v[which] for k, v in self.extra.items()})

    def with_degree(self, degree: int) -> Self:
        """The same scene with harmonics up to this degree: cut off, or filled with zeros."""
        rest = np.zeros((len(self), 3 * REST[degree]), np.float32)
        m = min(rest.shape[1], self.sh_rest.shape[1])
        rest[:, :m] = self.sh_rest[:, :m]
        own = {k: v for k, v in self.arrays().items() if k not in self.extra and k != "sh_rest"}
        return type(self)(**own, sh_rest=rest, extra=self.extra)
