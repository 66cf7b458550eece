"""gsplat's PNG compression of one scene, run by a Python that has gsplat: python gsplat_png.py IN.npz FOLDER OUT.npz

IN.npz holds the arrays of a scene by the names of compand's `Splats`, in the order of a space-filling curve; FOLDER gets the files whose
bytes count. gsplat sorts them on a square by PLAS; on a CPU that takes more than half an hour for 90,000 splats, so here they are laid
along a Hilbert curve in the square instead, which also keeps neighbours together. Harmonics above the constant need torchpq and CuPy,
thus a GPU: they are left out.
"""

import pathlib
import sys

import numpy as np
import torch
from gsplat import PngCompression


def hilbert(side: int) -> np.ndarray:
    """Cells of a square of side x side, row by row, in the order of a Hilbert curve over the next power of two."""
    x, y = (v.ravel().copy() for v in np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    at, s = np.zeros(side * side, np.int64), 1 << (side - 1).bit_length()
    while s := s >> 1:
        rx, ry = (x & s) > 0, (y & s) > 0
        at += s * s * ((3 * rx) ^ ry)
        flip = ~ry & rx
        x[flip], y[flip] = s - 1 - (x[flip] & (s - 1)), s - 1 - (y[flip] & (s - 1))
        swap = ~ry
        x[swap], y[swap] = y[swap], x[swap]
    return np.argsort(at, kind="stable")


def main() -> None:
    """Compress, decompress, save."""
    given, folder, out = sys.argv[1:]
    x = dict(np.load(given))
    side = int(len(x["positions"]) ** 0.5)  # as gsplat does, splats that are too many for a square go, those of least opacity
    kept = np.sort(np.argsort(-x["opacity"], kind="stable")[:side * side])
    place = np.empty(side * side, np.int64)
    place[hilbert(side)] = kept
    x = {k: torch.from_numpy(np.ascontiguousarray(v[place])) for k, v in x.items()}
    n = len(x["positions"])
    splats = {"means": x["positions"], "scales": x["scales"], "quats": x["rotations"], "opacities": x["opacity"],
              "sh0": x["sh0"].reshape(n, 1, 3)}
    pathlib.Path(folder).mkdir(exist_ok=True)
    coder = PngCompression(use_sort=False, verbose=False)
    coder.compress(folder, splats)
    y = {k: v.numpy() for k, v in coder.decompress(folder).items()}
    m = len(y["means"])
    np.savez(out, positions=y["means"], scales=y["scales"], rotations=y["quats"], opacity=y["opacities"], sh0=y["sh0"].reshape(m, 3),
             sh_rest=np.zeros((m, 0), np.float32))


if __name__ == "__main__":
    main()
