"""A small scene that looks like a trained one: splats on a surface, sizes and colours that vary slowly."""

import numpy as np

from compand.modality.splats import Splats


def make_scene(n: int, degree: int = 1, seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((n, 3))
    p = u / np.linalg.norm(u, axis=1, keepdims=True) * (1 + 0.02 * rng.standard_normal((n, 1)))
    k = 3 * ((degree + 1) ** 2 - 1)
    return Splats(positions=p, scales=-4 + 0.7 * p + 0.5 * rng.standard_normal((n, 3)), rotations=rng.standard_normal((n, 4)),
                  opacity=2 * rng.standard_normal(n), sh0=p + 0.2 * rng.standard_normal((n, 3)), sh_rest=0.1 * rng.standard_normal((n, k)))
