"""Claim: a million vectors and more are encoded with bounded memory, and what that costs adds up in a straight line.

Measures the constants of docs/scale.md on this machine: `compand.jobs` over shards of 100,792 vectors (384 values, float32), in a
process of its own per step, so that its peak of resident memory is its own. Two numbers of shards show what does not grow.

    python benchmarks/scale.py [--data DIR] [--shards 3,10] [--workers 1]
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402
from ivf import enlarge  # noqa: E402
from nearest import load  # noqa: E402
from record import save, table  # noqa: E402

SPEC = "(vq:1024:codewords=float16,rans)+(klt,grouped:46)"
STEP = """
import json, re, sys, time
import numpy as np
import compand
from compand import _native, jobs
_native.set_threads(1)
what, folder, *shards = sys.argv[1:]
start = time.perf_counter()
out = {}
def peak():  # of this process alone; getrusage would tell its parent's, if that was larger
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1e3
if what == "fit":
    codec = compand.Codec(SPEC).fit(np.load(shards[0]))
    with compand.Writer(folder + "/codec.cpd") as w:
        w.write_codes("codec", codec.encode(np.load(shards[0], mmap_mode="r")[:64]))
elif what == "encode":
    codec = compand.open(folder + "/codec.cpd")["codec"].codec
    jobs.encode(shards, folder + "/job", codec)
elif what == "join":
    jobs.join(folder + "/job", folder + "/all.cpd", overwrite=True)
elif what == "search":
    q = np.load(shards[0])
    index = compand.Index(folder + "/all.cpd")
    index.search(q[:1], 10, probes=32)
    out["load s"] = time.perf_counter() - start
    times = []
    for _ in range(5):
        at = time.perf_counter()
        index.search(q, 10, probes=32)
        times.append(time.perf_counter() - at)
    out["QPS"] = len(q) / sorted(times)[2]
    at = time.perf_counter()
    for i in range(100):
        index.search(q[i:i + 1], 10, probes=32)
    out["one query ms"] = (time.perf_counter() - at) * 10
out["seconds"] = time.perf_counter() - start
out["peak MB"] = peak()
print(json.dumps(out))
"""


def step(what: str, folder: str, *shards: str) -> dict:
    code = STEP.replace("SPEC", repr(SPEC))
    done = subprocess.run([sys.executable, "-c", code, what, folder, *shards], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--shards", default="3,10")
    args = parser.parse_args()
    folder = pathlib.Path(args.data) / "vectors"
    x, q = load(folder / "minilm-base.i16.xz"), load(folder / "minilm-query.i16.xz")
    rows = []
    counts = [int(c) for c in args.shards.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        paths = []
        for i in range(max(counts)):
            paths.append(f"{scratch}/{i}.npy")
            np.save(paths[-1], x if i == 0 else enlarge(np.roll(x, i, axis=0), 2)[len(x):])
        np.save(f"{scratch}/q.npy", q)
        empty = step("nothing", scratch)["peak MB"]
        fit = step("fit", scratch, paths[0])
        state = pathlib.Path(scratch, "codec.cpd").stat().st_size
        for count in counts:
            with tempfile.TemporaryDirectory() as own:
                n = count * len(x)
                pathlib.Path(own, "codec.cpd").write_bytes(pathlib.Path(scratch, "codec.cpd").read_bytes())
                encode = step("encode", own, *paths[:count])
                join = step("join", own, *paths[:count])
                search = step("search", own, f"{scratch}/q.npy")
                size = pathlib.Path(own, "all.cpd").stat().st_size
                rows.append({"vectors": n, "bytes in": n * x.shape[1] * 4, "bytes": size, "tables": state,
                             "bytes a vector, without tables": (size - state) / n, "fit s": fit["seconds"],
                             "encode/s": n / encode["seconds"], "encode peak MB": encode["peak MB"],
                             "join MB/s": size / 1e6 / join["seconds"],
                             "join peak MB": join["peak MB"], "load s": search["load s"],
                             "search peak MB": search["peak MB"], "QPS 1 thread, 32 of 1024 lists": search["QPS"],
                             "one query ms": search["one query ms"], "empty process MB": empty})
                print(table(rows[-1:]), flush=True)
    save("scale", rows, spec=SPEC)


if __name__ == "__main__":
    main()
