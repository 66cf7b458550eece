"""Trellis codes on Gaussian values: distance to the rate-distortion bound, and speed of encoding.

    python benchmarks/trellis.py [--values 262144]

`gap` is 10 log10(D · 4^R / variance) in dB, 0 for the best that any code can do; R counts the symbols and not the scales (16 bits a
row of 4,096 values, 0.02 dB). The constants of the trellis were chosen on other values. int and lattice have their best settings.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import record

import compand

SPECS = [f"trellis:{bits}:memory={memory}" + ":factors=2" * (many - 1)
         for bits in (1, 2, 3, 4) for many in (1, 2) for memory in (16, 14, 12)]
OTHERS = ["int:1", "int:2:mid=true", "int:3:mid=true", "int:4:mid=true",
          "lattice:e8:bits=1", "lattice:e8", "lattice:e8:bits=3", "lattice:e8:bits=4"]
TARGETS = {f"trellis:{bits}:memory=16{more}": most for more, all_ in (("", (0.65, 1.0, 1.5)), (":factors=2", (0.5, 0.75, 0.9)))
           for bits, most in zip((2, 3, 4), all_, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=1 << 18)
    args = parser.parse_args()
    x = np.random.default_rng(2026).standard_normal((max(16, args.values // 4096), 4096), dtype=np.float32)
    rows = []
    for spec in SPECS + OTHERS:
        codec = compand.Codec(spec)
        start = time.perf_counter()
        codes = codec.encode(x)
        seconds = time.perf_counter() - start
        stage = codec.stage
        error = np.square(codec.decode(codes) - x, dtype=np.float64).mean() / np.square(x, dtype=np.float64).mean()
        gap = 10 * np.log10(error * 4.0**stage.bits)
        target = TARGETS.get(spec)
        rows.append({"spec": spec, "bits": stage.bits, "gap_db": round(float(gap), 3), "target_db": target,
                     "met": None if target is None else bool(gap <= target), "encode_mvalues_s": round(x.size / seconds / 1e6, 3)})
        print(f"{spec:34} {gap:6.3f} dB{f' (target {target})' if target else '':14} {x.size / seconds / 1e6:8.3f} M values/s", flush=True)
    print(record.save("trellis", rows, values=int(x.size)))


if __name__ == "__main__":
    main()
