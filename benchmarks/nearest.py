"""Claim: nearest codewords are exact and found faster than by the usual libraries, for batches small and large.

Sub-vectors of real sentence embeddings (MiniLM); codewords are rows of the first half, queries rows of the second. Two threads
for all. `not_nearest`: of 64 queries, how many got a codeword that is not the nearest by float64.

    python benchmarks/nearest.py [--data DIR] [--seconds S] [--d 8,32,64] [--only "K d batch"]

Each row is saved as it is measured, in place of that of the same cell.

Calls are repeated for 30 ms a turn, as the threads of the library before may spin for some milliseconds more. `call us`: microseconds
that compand takes for no rows at all, from Python and back (checks, the result's array): 0.12. 8 rows of 8 dimensions against 1,024
codewords are 8,192 pairs, at 10 Gpair/s 0.82 us; they take about 1.0: beside the call 0.4 for the int8 scores (0.28 of it products, at the
rate of the units), 0.1 to centre and round the rows, 0.15 to find the lanes of four codewords that can still win (1 or 2 a row), 0.1 to
score those in float32. Waking a second thread takes as long as all of that. 8,192 codewords and more reach 10 on one thread.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "2")

import argparse
import itertools
import json
import lzma
import pathlib
import time

import faiss
import numpy as np
import torch
from record import RESULTS, interleave, save, table

from compand import _native

SHORTEST = 3e-2  # seconds of what is timed
MOST = 1 << 29  # entries of a distance table: 2 GB of float32


def load(path: pathlib.Path, d: int = 384) -> np.ndarray:
    planes = np.frombuffer(lzma.open(path).read(), np.uint8)
    z = (planes[: planes.size // 2].astype(np.uint16) << 8) | planes[planes.size // 2 :]
    return ((z >> 1).astype(np.int32) ^ -(z & 1).astype(np.int32)).astype(np.float32).reshape(-1, d) / 8192


def distances(x, c):
    return sum((x[:, j, None].astype(np.float64) - c[None, :, j]) ** 2 for j in range(x.shape[1]))


def repeated(fn) -> tuple:
    """The function often enough to take SHORTEST seconds, and how often."""
    fn()
    start = time.perf_counter()
    fn()
    times = max(1, int(SHORTEST / (time.perf_counter() - start)))

    def run():
        for _ in range(times):
            fn()

    return run, times


def contestants(index, x, c) -> dict:
    flat = faiss.IndexFlatL2(c.shape[1])
    flat.add(c)
    tx, tc = torch.from_numpy(x), torch.from_numpy(c)
    half = (c * c).sum(1) / 2
    found = {"compand": lambda: index.search(x), "faiss": lambda: flat.search(x, 1)[1][:, 0]}
    if len(x) * len(c) <= MOST:
        found["torch.cdist"] = lambda: torch.cdist(tx, tc).argmin(1).numpy()
        found["numpy gemm"] = lambda: (half - x @ c.T).argmin(1)
    return found


def keep(rows: list[dict]) -> None:
    """The rows measured so far, in place of those of the same cells in the result file."""
    path = RESULTS / "nearest.json"
    cell = ("d", "K", "batch")
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    all_rows = {tuple(row[k] for k in cell): row for row in old + rows}
    save("nearest", [all_rows[k] for k in sorted(all_rows)], data="minilm-base sub-vectors", threads=2,
         unit="1e9 query-codeword pairs a second, median")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--only", default="", help="comma-separated 'K d batch' cells")
    parser.add_argument("--d", default="8,32,64")
    args = parser.parse_args()
    dims = [int(d) for d in args.d.split(",")]
    torch.set_num_threads(2)
    faiss.omp_set_num_threads(2)
    _native.set_threads(2)
    base = load(pathlib.Path(args.data) / "vectors" / "minilm-base.i16.xz")
    cells = [(d, k, batch) for d, k, batch in itertools.product(dims, (1024, 8192, 16384, 65536), (8, 256, 4096, 16384))
             if batch == 8 or k != 16384]
    only = [tuple(map(int, cell.split())) for cell in args.only.split(",") if cell]
    rows = []
    for d, k, batch in cells:
        if only and (k, d, batch) not in only:
            continue
        rng = np.random.default_rng(d * k)
        groups = base.reshape(len(base), 384 // d, d)
        train, test = (half.reshape(-1, d) for half in (groups[: len(base) // 2], groups[len(base) // 2 :]))
        c = np.ascontiguousarray(train[rng.choice(len(train), k, replace=False)])
        x = np.ascontiguousarray(test[rng.choice(len(test), batch, replace=False)])
        index = _native.NearestIndex(c)
        fns = contestants(index, x, c)
        part = x[:64]
        exact = distances(part, c)
        row = {"K": k, "d": d, "batch": batch}
        wrong = {}
        for name, fn in fns.items():
            ids = np.asarray(fn())[: len(part)].astype(np.int64)
            wrong[name] = int((exact[np.arange(len(part)), ids] > exact.min(1)).sum())
        often = {name: repeated(fn) for name, fn in (fns | {"call": lambda index=index, x=x[:0]: index.search(x)}).items()}
        seconds = interleave({name: run for name, (run, _) in often.items()}, 9, args.seconds)
        for name in fns:
            row[f"{name} Gpair/s"] = batch * k * often[name][1] / seconds[name] / 1e9
        row["call us"] = seconds["call"] / often["call"][1] * 1e6
        row["over faiss"] = row["compand Gpair/s"] / row["faiss Gpair/s"]
        row["not_nearest"] = " ".join(f"{name}:{count}" for name, count in wrong.items() if count) or "none"
        rows.append(row)
        print(table(rows[-1:]).splitlines()[-1], flush=True)
        keep(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
