"""Claim: at the same bytes, all counted, compand finds more of the true neighbours than other libraries, and faster.

100,792 sentence embeddings (MiniLM, 384-d) and 2,000 held-back queries: 1,000 of the same kind as the base (sym), 1,000 of
another (asym). Nothing is fitted to the queries. Recall@10 is against exact inner products. Bytes are of the whole file (compand)
or serialized index (peers) over the number of vectors. Speed: every round times each contestant once, alone; medians.

    python benchmarks/vectors.py [--data DIR] [--budgets 24,48,96,192,384] [--rounds 5] [--seconds 60] [--slow]
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "2")

import faiss  # noqa: E402
import numpy as np  # noqa: E402
from nearest import load  # noqa: E402
from record import interleave, save, table  # noqa: E402

import compand  # noqa: E402
from compand import _native  # noqa: E402
from compand.fit.vectors import preset  # noqa: E402

K = 10
FACTORY = {24: ["PQ48x4fs"], 48: ["PQ96x4fs", "RR384,RaBitQfs"], 96: ["PQ192x4fs", "RR384,RaBitQfs2"], 192: ["PQ384x4fs", "SQ4"],
           384: ["SQ8"]}
OTHERS = {48: ["klt,grouped:48:bits=4"], 96: ["klt,refined:48:48,rans", "klt,grouped:96", "klt,grouped:96:bits=4"],
          192: ["klt,grouped:192"], 384: ["klt,ecsq:288,rans"]}
SLOW = {24: ["RQ24x8"]}
TURBO = {96: 2, 192: 4}


class Compand:
    def __init__(self, spec: str):
        self.name = f"compand {spec}"
        self.codec = compand.Codec(spec)

    def train(self, x):
        self.codec = self.codec.fit(x)

    def add(self, x):
        self.codes = self.codec.encode(x)

    def nbytes(self) -> int:
        return len(self.codes.to_bytes())

    def search(self, q, threads: int):
        _native.set_threads(threads)
        return compand.search(q, self.codes, K)[1]


class Faiss:
    def __init__(self, factory: str, d: int):
        self.name = f"faiss {factory}"
        self.index = faiss.index_factory(d, factory, faiss.METRIC_INNER_PRODUCT)

    def train(self, x):
        self.index.train(x[:20_000] if "RQ" in self.name and "fs" not in self.name and "RaBit" not in self.name else x)

    def add(self, x):
        self.index.add(x)

    def nbytes(self) -> int:
        return faiss.serialize_index(self.index).nbytes

    def search(self, q, threads: int):
        faiss.omp_set_num_threads(threads)
        return self.index.search(q, K)[1]


class Turbovec:
    """Its thread pool is fixed when it starts, so each number of threads has a process of its own that answers on request."""

    CHILD = ("import sys, time, numpy as np, turbovec\n"
             "index = turbovec.TurboQuantIndex.load(sys.argv[1]); index.prepare(); q = np.load(sys.argv[2])\n"
             "for line in sys.stdin:\n"
             "    a, b, step = map(int, line.split()); t = time.perf_counter()\n"
             "    for i in range(a, b, step): rows = index.search(q[i:min(i + step, b)], 10)[1]\n"
             "    print(time.perf_counter() - t, flush=True)\n")

    def __init__(self, bits: int, folder: str):
        self.name, self.bits, self.path = f"turbovec {bits}-bit", bits, f"{folder}/turbo{bits}.tv"
        self.folder, self.children = folder, {}

    def train(self, x):
        import turbovec

        self.index = turbovec.TurboQuantIndex(dim=x.shape[1], bit_width=self.bits)
        self.index.calibrate(x[np.random.default_rng(1).choice(len(x), 4096, replace=False)])

    def add(self, x):
        self.index.add(x)
        self.index.prepare()
        self.index.write(self.path, durable=False)

    def nbytes(self) -> int:
        return len(self.index.to_bytes())

    def search(self, q, threads: int):
        return np.asarray(self.index.search(q, K)[1]).astype(np.int64)

    def seconds(self, first: int, last: int, step: int, threads: int) -> float:
        if threads not in self.children:
            self.children[threads] = subprocess.Popen(
                [sys.executable, "-c", self.CHILD, self.path, f"{self.folder}/query.npy"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True, env=dict(os.environ, RAYON_NUM_THREADS=str(threads)))
        child = self.children[threads]
        child.stdin.write(f"{first} {last} {step}\n")
        child.stdin.flush()
        return float(child.stdout.readline())

    def close(self):
        for child in self.children.values():
            child.stdin.close()
            child.wait()


def recall(rows, truth) -> float:
    return float((np.asarray(rows)[:, :, None] == truth[:, None, :]).any(-1).mean())


def timed(fn, *args) -> float:
    start = time.perf_counter()
    fn(*args)
    return time.perf_counter() - start


def contestants(budget: int, d: int, slow: bool, folder: str) -> list:
    found = [Compand(preset(budget, d)[0]), *(Faiss(f, d) for f in FACTORY.get(budget, []) + (SLOW.get(budget, []) if slow else []))]
    found += [Compand(spec) for spec in OTHERS.get(budget, [])]
    try:
        import turbovec  # noqa: F401
    except ImportError:
        return found
    return found + ([Turbovec(TURBO[budget], folder)] if budget in TURBO else [])


def speeds(found: list, q, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Queries a second of each contestant, and milliseconds of a single query, all paired in rounds."""
    own = {}

    def run(c, q, threads, one):
        if isinstance(c, Turbovec):
            value = c.seconds(0, 100 if one else len(q), 1 if one else len(q), threads)
        else:
            start = time.perf_counter()
            if one:
                for i in range(100):
                    c.search(q[i:i + 1], threads)
            else:
                c.search(q, threads)
            value = time.perf_counter() - start
        own.setdefault((c.name, threads, one), []).append(value)

    interleave({f"{c.name} {threads} {one}": lambda c=c, t=threads, o=one: run(c, q, t, o)
                for threads, one in ((1, False), (2, False), (1, True)) for c in found}, rounds, seconds)
    middle = {key: float(np.median(v[1:])) for key, v in own.items()}
    return {c.name: {"QPS 1 thread": len(q) / middle[c.name, 1, False], "QPS 2 threads": len(q) / middle[c.name, 2, False],
                     "one query ms": middle[c.name, 1, True] * 10} for c in found}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--budgets", default="24,48,96,192,384")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="of timing for each budget")
    parser.add_argument("--slow", action="store_true", help="peers that train for minutes, too")
    args = parser.parse_args()
    folder = pathlib.Path(args.data) / "vectors"
    x, q = load(folder / "minilm-base.i16.xz"), load(folder / "minilm-query.i16.xz")
    truth = np.concatenate([np.argsort(-(q[i:i + 250] @ x.T), axis=1, kind="stable")[:, :K] for i in range(0, len(q), 250)])
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        np.save(f"{scratch}/query.npy", q)
        for budget in map(int, args.budgets.split(",")):
            found = contestants(budget, x.shape[1], args.slow, scratch)
            built = {}
            for c in found:
                faiss.omp_set_num_threads(2)
                _native.set_threads(2)
                train, add = timed(c.train, x), timed(c.add, x)
                hits = c.search(q, 2)
                built[c.name] = {"recall@10 sym": recall(hits[:1000], truth[:1000]), "recall@10 asym": recall(hits[1000:], truth[1000:]),
                                 "bytes": c.nbytes() / len(x), "train s": train, "encode/s": len(x) / add}
            fast = speeds(found, q, args.rounds, args.seconds)
            rows += [{"budget": budget, "name": c.name, **built[c.name], **fast[c.name]} for c in found]
            for c in found:
                if isinstance(c, Turbovec):
                    c.close()
            print(table(rows[-len(found):]), flush=True)
            save("vectors", rows, vectors=list(x.shape), queries=len(q))


if __name__ == "__main__":
    main()
