"""Whether products by bit planes would pay: one-bit weights times activations of 8, 4, 2 and 1 bits, on one thread.

    python benchmarks/planes.py

Compiles benchmarks/planes.cpp (c++, AVX-512 with VPOPCNTDQ and VNNI). `masks_a8` is what the kernel of one-bit ids did before it had
planes, without its scales. Planes of W-bit weights cost W times as much, while a dot product of bytes takes weights of any number of
bits. Best of 2,000 turns, everything in the second-level cache.
"""

from __future__ import annotations

import pathlib
import subprocess
import tempfile

import record

FLAGS = "-std=c++17 -O3 -mavx512f -mavx512bw -mavx512vl -mavx512vnni -mavx512vpopcntdq".split()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder, "planes")
        subprocess.run(["c++", *FLAGS, pathlib.Path(__file__).with_suffix(".cpp"), "-o", program], check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split("\n")
    rows = [{"kernel": name, "gweights_s": float(value)} for name, value in (line.split() for line in lines if line)]
    for row in rows:
        print(f"{row['kernel']:10} {row['gweights_s']:7.1f} G weights/s")
    print(record.save("planes", rows))


if __name__ == "__main__":
    main()
