"""Claim: a scene of 250,000 splats is drawn at 800 x 600 in well under a second on one core, and as the readable reference draws it.

Scenes of the test data, each from 24 places around it; SH degrees and sizes as in the table. `first picture` counts preparing the
covariances. `difference` is the largest to `compand.op.render_reference` (float64, NumPy) in a picture of 64 x 48 of a fifth of the
small scene.

    python benchmarks/render.py [--data DIR] [--threads N]
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import time

import numpy as np
from record import save, table

from compand import CompandError, _native
from compand.modality.splats import read
from compand.op.render import Renderer, around
from compand.op.render_reference import reference

SCENES = ("playbot/1_0", "playbot/3_0", "biker.spz", "guitar.compressed.ply", "playcanvas-logo")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    _native.set_threads(args.threads)
    rows = []
    for name in SCENES:
        try:
            scene = read(pathlib.Path(args.data) / "splats" / name)
        except CompandError as e:
            print(f"{name} is left out: {e}")
            continue
        cameras = around(scene, 24, 800, 600)
        start = time.perf_counter()
        draw = Renderer(scene)
        draw(cameras[0])
        row = {"scene": name, "splats": len(scene), "degree": scene.degree, "first picture ms": 1e3 * (time.perf_counter() - start)}
        for level in ("avx512", "avx2", "scalar"):
            if not _native.set_isa(level):
                continue
            times = []
            for camera in cameras:
                start = time.perf_counter()
                draw(camera)
                times.append(1e3 * (time.perf_counter() - start))
            row |= {f"{level} median ms": statistics.median(times), f"{level} slowest ms": max(times)}
        _native.set_isa("auto")
        if name == "playbot/3_0":
            few = scene.take(slice(None, None, 5))
            camera = around(scene, 24, 64, 48)[6]
            row["difference"] = float(np.abs(Renderer(few)(camera).image - reference(few, camera)[0]).max())
        rows.append(row)
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    save("render", rows, threads=args.threads, picture="800 x 600, 24 views")
    print(table(rows))


if __name__ == "__main__":
    main()
