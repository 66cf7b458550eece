"""Libraries that benchmarks/vectors.py compares with.

Each contestant: name, train(x), add(x), nbytes(), search(q, threads, k) → rows, and decoded(n) → vectors where it decodes.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import faiss
import numpy as np

K = 10


class Faiss:
    def __init__(self, factory: str, d: int):
        self.name, self.rows = f"faiss {factory}", 1 << 40
        self.index = faiss.index_factory(d, factory, faiss.METRIC_INNER_PRODUCT)
        if factory.startswith("RQ"):  # its own setting trains for over ten minutes
            self.rows, self.index.rq.cp.niter, self.index.rq.train_type = 10_240, 10, faiss.ResidualQuantizer.Train_default
        if factory.startswith("OPQ"):  # a tenth of the rows, a fifth of the rounds
            opq = faiss.downcast_VectorTransform(self.index.chain.at(0))
            self.rows, opq.niter, opq.max_train_points = 10_240, 10, 10_240

    def train(self, x):
        self.index.train(x[:self.rows])

    def add(self, x):
        self.index.add(x)

    def nbytes(self) -> int:
        return faiss.serialize_index(self.index).nbytes

    def search(self, q, threads: int, k: int = K):
        faiss.omp_set_num_threads(threads)
        return self.index.search(q, k)[1]

    def decoded(self, n: int):
        return self.index.reconstruct_n(0, n)


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

    def search(self, q, threads: int, k: int = K):
        return np.asarray(self.index.search(q, k)[1]).astype(np.int64)

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


class Scann:
    """Asymmetric hashing of all vectors; ``dims`` columns share 4 bits. Training and encoding are one step: both are in train."""

    def __init__(self, dims: int, folder: str):
        self.name, self.dims, self.folder = f"scann AH {dims} columns", dims, f"{folder}/scann{dims}"

    def train(self, x):
        import scann

        builder = scann.scann_ops_pybind.builder(x, K, "dot_product")
        self.index = builder.score_ah(self.dims, anisotropic_quantization_threshold=0.2, training_sample_size=65_536).build()

    def add(self, x):
        os.makedirs(self.folder, exist_ok=True)
        self.index.serialize(self.folder)

    def nbytes(self) -> int:
        return sum(f.stat().st_size for f in pathlib.Path(self.folder).iterdir())

    def search(self, q, threads: int, k: int = K):
        run = self.index.search_batched if threads == 1 or len(q) == 1 else self.index.search_batched_parallel
        return run(q, final_num_neighbors=k)[0].astype(np.int64)


class Rabitq:
    """rabitqlib over 64 lists, all of them visited."""

    def __init__(self, bits: int, folder: str):
        self.name, self.bits, self.path = f"rabitqlib {bits}-bit", bits, f"{folder}/rabitq{bits}.bin"

    def train(self, x):
        self.means = faiss.Kmeans(x.shape[1], 64, niter=10, seed=1)
        self.means.train(x[::2])

    def add(self, x):
        import rabitqlib

        own = self.means.index.search(x, 1)[1][:, 0].astype(np.uint32)
        self.index = rabitqlib.IvfIndex(x.shape[1], len(x), 64, self.bits, "ip")
        self.index.build(x, self.means.centroids, own, 2, False)
        self.index.save(self.path)

    def nbytes(self) -> int:
        return os.path.getsize(self.path)

    def search(self, q, threads: int, k: int = K):
        return self.index.search(q, k, 64, num_threads=threads)[0].astype(np.int64)


class UsearchSigns:
    """Signs around the mean, Hamming distance, all vectors."""

    name = "usearch signs"

    def train(self, x):
        self.mean = x.mean(0)

    def add(self, x):
        self.codes = np.packbits(x > self.mean, axis=1)

    def nbytes(self) -> int:
        return self.codes.nbytes + self.mean.nbytes

    def search(self, q, threads: int, k: int = K):
        from usearch import index

        found = index.search(self.codes, np.packbits(q > self.mean, axis=1), k, index.MetricKind.Hamming, exact=True, threads=threads)
        return np.asarray(found.keys).reshape(len(q), -1).astype(np.int64)


class Lvq:
    """Intel's scalable-vs, flat, with its 4-bit locally adaptive quantization."""

    name = "scalable-vs LVQ4"

    def __init__(self, folder: str):
        self.folder = f"{folder}/svs"

    def train(self, x):
        import svs

        os.makedirs(self.folder, exist_ok=True)
        svs.write_vecs(np.ascontiguousarray(x, np.float32), f"{self.folder}/base.fvecs")
        loader = svs.VectorDataLoader(f"{self.folder}/base.fvecs", svs.DataType.float32, dims=x.shape[1])
        self.index = svs.Flat(svs.LVQLoader(loader, primary=4), svs.DistanceType.MIP)

    def add(self, x):
        self.size = len(x) * (x.shape[1] // 2 + 4)

    def nbytes(self) -> int:
        return self.size

    def search(self, q, threads: int, k: int = K):
        self.index.num_threads = threads
        return np.asarray(self.index.search(np.ascontiguousarray(q, np.float32), k)[0]).astype(np.int64)
