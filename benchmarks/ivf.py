"""Claim: with inverted lists, at the bytes of faiss' IVF-PQ fast scan and at its speed, compand finds more of the true neighbours.

The 100,792 MiniLM embeddings and 2,000 held-back queries of benchmarks/vectors.py; nothing is fitted to the queries. Three numbers of
recall, because one hides what happens: *recall@10*, of the ids returned (lists and codes together); *in 100*, the true ten among a
hundred returned, which is what a rerank with the original vectors could reach; *in lists*, the ceiling that the visited lists allow.
*probes* of a row: lists that every query visits or, below 1, the recall asked of compand, by which queries visit more or fewer lists.
Bytes are of the file or serialized index, with ids and tables, over the number of vectors. Speed: all contestants in turn, in rounds,
one thread, batches of all queries; medians. ``--set tokens``: the million word pieces of benchmarks/features.py (its tokens.npy in FOLDER).
``--set copies``: a million vectors, nine copies of the first set, each moved by half a difference of two others.

    python benchmarks/ivf.py [--set copies]                   (all of it; indexes are not kept)
    python benchmarks/ivf.py --build FOLDER [--set tokens]    (minutes; keeps indexes in FOLDER)
    python benchmarks/ivf.py --time FOLDER [--set tokens]     (seconds; writes results/ivf.json, ivf-tokens.json or ivf-million.json)
    python benchmarks/ivf.py --assign FOLDER                  (a minute; other ways to put rows into lists: ivf-assign.json)

The last needs no index: rows that a query must scan until so many of its true ten are in the lists visited, where each row is in its
nearest list; in lists of equal size (``balanced``); also in its second nearest; or also in the list that SOAR chooses, whose residual is
as little as may be along the first one's (Sun et al. 2023). A row in two lists is scanned, and its code stored, twice.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import faiss  # noqa: E402
import numpy as np  # noqa: E402
from features import tokens  # noqa: E402
from nearest import load  # noqa: E402
from record import interleave, save, table  # noqa: E402

import compand  # noqa: E402
from compand import _native  # noqa: E402

K = 10
RESULTS = {"minilm": "ivf", "tokens": "ivf-tokens", "copies": "ivf-million"}
COMPAND = {"lists 1024": "(vq:1024:codewords=float16,rans)+(klt,grouped:46)",
           "lists 512": "(vq:512:codewords=float16,rans)+(klt,grouped:46)",
           "lists 512, 4 bits": "(vq:512:codewords=float16,rans)+(klt,grouped:46:bits=4)",
           "lists 512, 48 + 48": "(vq:512:codewords=float16,rans)+(klt,refined:46:48,rans)"}
PROBES = {"lists 1024": (0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 24), "lists 512": (0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 16),
          "lists 512, 4 bits": (0.85, 0.9, 0.93), "lists 512, 48 + 48": (0.9, 0.95, 0.98)}
FAISS = {"IVF256,PQ96x4fs": (4, 8, 16, 24, 32), "IVF1024,PQ96x4fs": (8, 16, 32, 64)}


def enlarge(x: np.ndarray, copies: int) -> np.ndarray:
    """x, and copies - 1 more of it in which every row is moved by half the difference of two others; of length 1 again."""
    rng, out = np.random.default_rng(11), [x]
    for _ in range(copies - 1):
        y = x + 0.5 * (x[rng.permutation(len(x))] - x[rng.permutation(len(x))])
        out.append((y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32))
    return np.concatenate(out)


def data(folder: pathlib.Path, kind: str):
    source = pathlib.Path(os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    if kind == "tokens":
        x, q = tokens(folder, source)
    else:
        x, q = (load(source / "vectors" / f"minilm-{part}.i16.xz") for part in ("base", "query"))
        x = enlarge(x, 10) if kind == "copies" else x
    path = folder / f"truth-{kind}.npy"
    if not path.exists():
        best = [np.argpartition(-(q[i:i + 100] @ x.T), K, axis=1)[:, :K] for i in range(0, len(q), 100)]
        np.save(path, np.concatenate(best))
    return x, q, np.load(path)


def build(folder: pathlib.Path, kind: str) -> None:
    x, _, _ = data(folder, kind)
    learn = x[:len(x) // 10] if kind == "copies" else x  # the real ones
    for key, spec in COMPAND.items():
        if kind != "minilm" and key != "lists 1024":
            continue
        path = folder / f"{key}.{kind}.cpd"
        if not path.exists():
            start = time.perf_counter()
            same = folder / f"{key}.minilm.cpd"
            codec = (compand.open(same)["vectors"].codec if kind == "copies" and same.exists() else
                     compand.Codec(spec).fit(learn[::max(1, len(learn) // 125_000)], sample=None))
            fitted = time.perf_counter()
            codes = codec.encode(x)
            note(folder, kind, f"compand {key}", fitted - start, len(x) / (time.perf_counter() - fitted))
            with compand.Writer(path) as file:
                file.write_codes("vectors", codes)
    for key in FAISS:
        path = folder / f"{key}.{kind}.faiss"
        if not path.exists():
            index = faiss.index_factory(x.shape[1], key, faiss.METRIC_INNER_PRODUCT)
            start = time.perf_counter()
            index.train(learn)
            fitted = time.perf_counter()
            index.add(x)
            note(folder, kind, f"faiss {key}", fitted - start, len(x) / (time.perf_counter() - fitted))
            faiss.write_index(index, str(path))
    if kind == "minilm":
        build_usearch(folder, x)


def build_usearch(folder: pathlib.Path, x) -> None:
    path = folder / "usearch.minilm.index"
    if path.exists():
        return
    try:
        from usearch.index import Index
    except ImportError:
        return
    index = Index(ndim=x.shape[1], metric="ip", dtype="i8", connectivity=16)
    start = time.perf_counter()
    index.add(np.arange(len(x)), x)
    note(folder, "minilm", "usearch HNSW i8", 0, len(x) / (time.perf_counter() - start))
    index.save(str(path))


def note(folder: pathlib.Path, kind: str, name: str, train: float, encode: float) -> None:
    (folder / f"{name}.{kind}.txt").write_text(f"{train} {encode}")
    print(f"{name}: train {train:.1f} s, encode {encode:,.0f}/s", flush=True)


def contestants(folder: pathlib.Path, kind: str, x, q, truth):
    """name, point, search(k) → rows, bytes a vector, whether the true neighbours are in the lists visited (None: not known)"""
    for key, probes in PROBES.items():
        path = folder / f"{key}.{kind}.cpd"
        if not path.exists():
            continue
        codes, size = compand.open(path, limits=compand.writer.TRUSTED)["vectors"].codes(), path.stat().st_size / len(x)
        compand.search(q[:1], codes, K, probes=1)
        scanner = codes._scanners[2, "ip"]
        for p in probes:
            visited = visits(scanner, q, p)
            inside = np.take_along_axis(visited, scanner.cells.ids[truth].astype(np.int64), 1)
            how = {"recall" if p < 1 else "probes": p}
            yield f"compand {key}", p, lambda k, codes=codes, how=how: compand.search(q, codes, k, **how)[1], size, inside
    for key, probes in FAISS.items():
        path = folder / f"{key}.{kind}.faiss"
        if not path.exists():
            continue
        index = faiss.read_index(str(path))
        own = index.quantizer.search(x, 1)[1] if kind == "minilm" else None
        for p in probes:
            def run(k, index=index, p=p):
                index.nprobe = p
                return index.search(q, k)[1]

            visited = index.quantizer.search(q, p)[1]
            inside = None if own is None else (own[truth, 0][:, :, None] == visited[:, None, :]).any(-1)
            yield f"faiss {key}", p, run, path.stat().st_size / len(x), inside
    path = folder / "usearch.minilm.index"
    if kind == "minilm" and path.exists():
        from usearch.index import Index

        index = Index.restore(str(path))
        for ef in (16, 64):
            def run(k, index=index, ef=ef):
                index.expansion_search = ef
                return np.asarray(index.search(q, k, threads=1).keys).astype(np.int64)

            yield "usearch HNSW i8", ef, run, path.stat().st_size / len(x), None


def visits(scanner, q: np.ndarray, point: float) -> np.ndarray:
    """Which lists queries visit, of compand: (q, lists) bool, from float32 centroids."""
    choice = scanner._choice(q)
    order = np.argsort(-choice, axis=1, kind="stable")
    near = np.zeros(order.shape, bool)
    if point >= 1:
        near[:, :point] = True
    else:
        reach = scanner.reach(point)
        gaps = choice.max(axis=1, keepdims=True) - np.take_along_axis(choice, order[:, :len(reach)], 1)
        near[:, :len(reach)] = gaps <= reach * np.linalg.norm(q, axis=1, keepdims=True)
    out = np.zeros(order.shape, bool)
    np.put_along_axis(out, order, near, 1)
    return out


def second(x: np.ndarray, centroids: np.ndarray, first: np.ndarray, weight: float) -> np.ndarray:
    """Of each row the best list but the first: least |r2|² + weight (r2 · r1)² / |r1|², r the residuals. SOAR; 0: the second nearest."""
    out = np.empty(len(x), np.int64)
    half = np.einsum("ij,ij->i", centroids, centroids)
    for at in range(0, len(x), 8192):
        own, one = x[at:at + 8192], first[at:at + 8192]
        r = own - centroids[one]
        along = np.einsum("ij,ij->i", own, r)[:, None] - r @ centroids.T
        loss = half - 2 * own @ centroids.T + weight * along ** 2 / np.maximum(np.einsum("ij,ij->i", r, r), 1e-20)[:, None]
        loss[np.arange(len(own)), one] = np.inf
        out[at:at + 8192] = loss.argmin(axis=1)
    return out


def scanned(q: np.ndarray, truth: np.ndarray, centroids: np.ndarray, lists: np.ndarray, goals) -> dict:
    """Rows scanned for each query until so many of the true ones are in the lists visited; lists (n, 1 or 2) of each row."""
    order = np.argsort(-(q @ centroids.T) / np.linalg.norm(centroids, axis=1), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(len(centroids)), order.shape), 1)
    found = np.sort(np.stack([np.take_along_axis(rank, own[truth], 1) for own in lists.T]).min(axis=0).ravel())
    rows = np.bincount(lists.ravel(), minlength=len(centroids))[order].cumsum(axis=1).mean(axis=0)
    visits = {goal: int(found[int(np.ceil(goal * len(found))) - 1]) for goal in goals}
    return {f"rows for {goal}": float(rows[p]) for goal, p in visits.items()} | {f"lists for {goal}": p + 1 for goal, p in visits.items()}


def assign(folder: pathlib.Path) -> None:
    from compand.fit.kmeans import kmeans

    x, q, truth = data(folder, "minilm")
    rows, goals = [], (0.9, 0.93, 0.95, 0.98)
    for k in (512, 1024):
        for balanced in (False, True):
            centroids = kmeans(x[::2], k, iterations=10, balanced=balanced)[0]
            first = _native.nearest(x, centroids).astype(np.int64)
            size = np.bincount(first, minlength=k)
            uneven = float((size.astype(float) ** 2).sum() * k / size.sum() ** 2)
            ways = {"balanced" if balanced else "nearest": first[:, None]}
            if not balanced:
                ways |= {f"nearest and {name}": np.stack([first, second(x, centroids, first, w)], axis=1)
                         for name, w in (("second", 0.0), ("SOAR 1", 1.0), ("SOAR 2", 2.0))}
            rows += [{"lists": k, "rows are in": name, "codes a row": own.shape[1], "size² over equal": uneven,
                      **scanned(q[:1000], truth[:1000], centroids, own, goals)} for name, own in ways.items()]
    print(table(rows))
    save("ivf-assign", rows, vectors=list(x.shape), queries=1000)


def recall(rows, truth) -> float:
    return float((np.asarray(rows)[:, None, :] == truth[:, :, None]).any(-1).mean())


def measure(folder: pathlib.Path, kind: str) -> None:
    """Recall and bytes of all points, kept for the timing."""
    x, q, truth = data(folder, kind)
    rows = []
    sets = {"sym": slice(0, 1000), "asym": slice(1000, 2000)}
    for name, point, run, size, inside in contestants(folder, kind, x, q, truth):
        ten, hundred = run(K), None if "48 + 48" in name else run(100)
        row = {"name": name, "probes": point, "bytes": size}
        for key, part in sets.items():
            row[f"recall@10 {key}"] = recall(ten[part], truth[part])
            row[f"in 100 {key}"] = None if hundred is None else recall(hundred[part], truth[part])
            row[f"in lists {key}"] = None if inside is None else float(inside[part].mean())
        built = folder / f"{name}.{kind}.txt"
        if built.exists():
            row["train s"], row["encode/s"] = map(float, built.read_text().split())
        rows.append(row)
    (folder / f"recall-{kind}.json").write_text(json.dumps(rows))


def clock(folder: pathlib.Path, kind: str, rounds: int, seconds: float) -> None:
    x, q, truth = data(folder, kind)
    rows = json.loads((folder / f"recall-{kind}.json").read_text())
    runs = {f"{name} {point}": lambda run=run: run(K) for name, point, run, _, _ in contestants(folder, kind, x, q, truth)}
    times = interleave(runs, rounds, seconds)
    for row in rows:
        row["QPS 1 thread"] = len(q) / times[f"{row['name']} {row['probes']}"]
    print(table(rows))
    save(RESULTS[kind], rows, vectors=list(x.shape), queries=len(q))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build")
    parser.add_argument("--time")
    parser.add_argument("--assign")
    parser.add_argument("--set", choices=tuple(RESULTS), default="minilm")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    _native.set_threads(1)
    if not (args.build or args.time or args.assign):
        with tempfile.TemporaryDirectory(prefix="compand-ivf-") as folder:
            print(f"builds all indexes of {args.set}, then times them; --build keeps them", file=sys.stderr)
            build(pathlib.Path(folder), args.set)
            measure(pathlib.Path(folder), args.set)
            clock(pathlib.Path(folder), args.set, args.rounds, args.seconds)
        return
    for folder, what in ((args.build, build), (args.build, measure), (args.time, lambda f, c: clock(f, c, args.rounds, args.seconds)),
                         (args.assign, lambda f, _: assign(f))):
        if folder:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
            what(pathlib.Path(folder), args.set)


if __name__ == "__main__":
    main()
