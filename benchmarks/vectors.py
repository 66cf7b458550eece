"""Claim: at the same bytes, all counted, compand finds more of the true neighbours than other libraries, and faster.

100,792 sentence embeddings (MiniLM, 384-d) and 2,000 held-back queries: 1,000 of the same kind as the base (sym), 1,000 of
another (asym, of which one row is the relevant one: nDCG@10). Nothing is fitted to the queries. Recall@10 and @100 are against exact
inner products, so many found of so many true. Squared error is of what codes decode to, over the squared length of the vectors, where
a library decodes (faiss: ``reconstruct_n``, which of two-bit RaBitQ takes one bit, so none is given); a gain that removes the bias of
inner products (grouped, ecsq, refined; RaBitQ, EDEN) makes it larger, by half at 24 bytes. Bytes are of the whole file
(compand) or serialized index (peers) over the number of vectors; code bytes without what all vectors share. Speed: every round times
each contestant once, alone; medians. ``OPQ96,PQ96x4fs`` is trained on 10,240 rows in 10 rounds, ``RQ`` as peers.py says.

    python benchmarks/vectors.py [--data DIR] [--budgets 12,24,48,96,192,384] [--rounds 5] [--seconds 60] [--slow]
    python benchmarks/vectors.py --quality     no timing: sizes, recall and errors of every row of the result file and of new contestants
    python benchmarks/vectors.py --rounds 3 --seconds 1 --timed 500     all speeds but those of slow peers, in about three minutes
    python benchmarks/vectors.py --set images --cache FOLDER     1280-d features of pictures (features.py), on which nothing was tuned
    python benchmarks/vectors.py --set tokens --cache FOLDER     a million word pieces in context (features.py): codes outside the cache

Of tokens 1,000 queries are of the texts of the base (sym), 1,000 of another (asym); 500 are timed. Rows of other budgets and sets stay
in the result file; those of sentences are drawn in results/vectors.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import tempfile
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "2")

import faiss  # noqa: E402
import numpy as np  # noqa: E402
from features import images, tokens  # noqa: E402
from nearest import load  # noqa: E402
from peers import Faiss, Lvq, Rabitq, Scann, Turbovec, UsearchSigns  # noqa: E402
from record import RESULTS, interleave, save, table  # noqa: E402

import compand  # noqa: E402
from compand import _native  # noqa: E402
from compand.fit.vectors import preset  # noqa: E402
from compand.report.plot import Series, line_plot  # noqa: E402

K, MANY = 10, 100
SETS = {"minilm": [100_792, 384], "images": [18_199, 1280], "tokens": [1_000_000, 384]}
OTHERS = {1 / 16: ["grouped:{0}", "ecsq:{0}:trellis=true,rans"], 1 / 8: ["grouped:{0}:bits=4", "ecsq:{0}:trellis=true,rans"],
          1 / 4: ["ecsq:{0},rans", "grouped:{0}", "grouped:{0}:bits=4"], 1 / 2: ["ecsq:{0},rans", "grouped:{0}"],
          1: ["ecsq:{1},rans"]}  # by bytes over columns: of all and three quarters of the bytes
# Half or a third of the bytes is scanned; splits, power and length of the short list were chosen on rows held back from the base.
REFINED = "klt:power=0.7,refined:{0}:{1}:trellis=true,rans"


class Compand:
    """``options`` of `compand.search` are part of the name: "compand SPEC rerank=200"."""

    def __init__(self, spec: str, **options: int):
        self.name = " ".join([f"compand {spec}", *(f"{key}={value}" for key, value in options.items())])
        self.codec, self.options = compand.Codec(spec), options

    def train(self, x):
        self.codec = self.codec.fit(x)

    def add(self, x):
        self.codes = self.codec.encode(x)

    def nbytes(self) -> int:
        return len(self.codes.to_bytes())

    def code_bytes(self) -> int:
        return self.codes.nbytes

    def search(self, q, threads: int, k: int = K):
        _native.set_threads(threads)
        return compand.search(q, self.codes, k, **self.options)[1]

    def decoded(self, n: int):
        return self.codec.decode(self.codes)


def named(name: str, d: int, folder: str):
    """The contestant of a row; None if it is not known."""
    library, _, what = name.partition(" ")
    words = what.split()
    if library == "compand":
        return Compand(words[0], **{key: int(value) for key, value in (word.split("=") for word in words[1:])})
    if library == "faiss":
        return Faiss(what, d)
    if library == "scann":
        return Scann(int(words[1]), folder)
    if library in ("turbovec", "rabitqlib"):
        return (Turbovec if library == "turbovec" else Rabitq)(int(what[0]), folder)
    return UsearchSigns() if name == "usearch signs" else Lvq(folder) if name.startswith("scalable-vs") else None


def recall(rows, truth) -> float:
    return float((np.asarray(rows)[:, :, None] == truth[:, None, :]).any(-1).mean())


def timed(fn, *args) -> float:
    start = time.perf_counter()
    fn(*args)
    return time.perf_counter() - start


def contestants(budget: int, d: int, slow: bool, folder: str) -> list:
    """Codes of about so many bytes, compand's default first; with ``slow`` also those of peers that take minutes."""
    share = budget / d
    found = [Compand(preset(budget, d)[0])]
    found += [Compand(f"klt{'' if share > 1 / 16 else f':{8 * budget}'}," + spec.format(budget, budget * 3 // 4))
              for spec in OTHERS.get(share, [])]
    if share == 1 / 4:
        found += [Compand(REFINED.format(budget // 2, budget - budget // 2)),
                  Compand(REFINED.format(budget // 3, budget - budget // 3), rerank=200)]
    signs = {1 / 8: [("rotate,sign", {}), ("rotate,sign", {"symmetric": 1}), (f"pq:{budget}x8", {})],
             1 / 4: [("rotate,(sign+sign)", {"rerank": 0}), ("rotate,(sign+sign)", {"rerank": 0, "symmetric": 1})]}
    found += [Compand(spec, **options) for spec, options in signs.get(share, []) if d <= 1024 or "rotate" not in spec]
    if share <= 1 / 2:
        found.append(Faiss(f"PQ{2 * budget}x4fs", d))
    scalar = {1 / 8: [f"PQ{budget}", f"RR{d},RaBitQfs"], 1 / 4: [f"RR{d},RaBitQfs2"], 1 / 2: ["SQ4"], 1: ["SQ8"]}
    found += [Faiss(factory, d) for factory in scalar.get(share, [])]
    slower = [Faiss(f"RQ{budget}x8_Nnone", d)] if share <= 1 / 8 else []
    rotated = {1 / 8: [f"OPQ{2 * budget},PQ{2 * budget}x4fs", f"RR{d},EDEN1"], 1 / 4: [f"RR{d},EDEN2"], 1 / 2: [f"RR{d},EDEN4"]}
    slower += [Faiss(factory, d) for factory in rotated.get(share, [])]
    slower += [Scann(d // (2 * budget), folder)] if share <= 1 / 2 else []
    slower += [Rabitq(bits, folder) for at, bits in {1 / 8: 1, 1 / 4: 2, 1 / 2: 4}.items() if at == share]
    slower += [UsearchSigns()] if share == 1 / 8 else [Lvq(folder)] if share == 1 / 2 else []
    fast = [Turbovec(bits, folder) for at, bits in {1 / 4: 2, 1 / 2: 4}.items() if at == share]
    return found + fast + (slower if slow else [])


def squared_error(c, x) -> float | None:
    """Of what a contestant's codes decode to, relative; None if it does not decode."""
    if not hasattr(c, "decoded") or "RaBitQfs2" in c.name:
        return None
    return float(np.square(c.decoded(len(x)) - x, dtype=np.float32).mean(dtype=np.float64) / np.square(x).mean(dtype=np.float64))


def ready(c, x, q) -> dict | None:
    """What training and encoding took, and sizes; None where a library is missing or refuses."""
    try:
        faiss.omp_set_num_threads(2)
        _native.set_threads(2)
        train, add = timed(c.train, x), timed(c.add, x)
        hits = c.search(q, 2)
    except Exception as e:  # whatever a peer raises is its answer
        if isinstance(c, Compand):
            raise
        print(f"{c.name}: left out, {type(e).__name__}: {str(e).splitlines()[0][:120] if str(e) else ''}", flush=True)
        return None
    return {"hits": hits, "bytes": c.nbytes() / len(x), "code bytes": c.code_bytes() / len(x) if isinstance(c, Compand) else None,
            "train s": train, "encode/s": None if isinstance(c, Scann | Lvq) else len(x) / add}


def quality(hits, truth, relevant, kinds: bool) -> dict:
    """Recall of hits (queries, k), and nDCG@10; truth (queries, MANY), best first."""
    parts, k = {" sym": slice(1000), " asym": slice(1000, None)} if kinds else {"": slice(None)}, hits.shape[1]
    both = {f"recall@{k}{kind}": recall(hits[part], truth[part, :k]) for kind, part in parts.items()}
    if relevant is None or k != K:
        return both
    rank = np.argmax(hits == relevant[:, None], axis=1)
    found = (hits == relevant[:, None]).any(1) & (relevant >= 0)
    gain = np.where(found, 1 / np.log2(rank + 2.0), 0)
    return both | {"nDCG@10": float(gain[relevant >= 0].mean())}


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


def draw(rows: list[dict]) -> None:
    """Recall over speed, a line for each library and kind of code; sizes at the points."""
    lines: dict[str, list] = {}
    for row in rows:
        if row["set"] == "minilm" and row.get("QPS 1 thread"):
            name = row["name"]
            for known in ("ecsq", "grouped", "refined", "sign", "pq", "int:8", "PQ", "EDEN", "RaBitQ", "SQ", "RQ"):
                if known in name:
                    name = f"{name.split()[0]} {known}"
                    break
            else:
                name = name.split()[0]
            lines.setdefault(name, []).append((row["recall@10 sym"], row["QPS 1 thread"], f"{row['bytes']:.0f} B"))
    order = sorted(lines, key=lambda name: (not name.startswith("compand"), -len(lines[name])))
    svg = line_plot([Series(name, lines[name]) for name in order], "recall@10", "queries a second, one thread", log_y=True)
    svg = svg[:svg.index("</svg>")].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="13" ', 1)
    style = ("<style>:root{--c0:#2563c9;--c1:#c85a06;--c2:#0c8270;--c3:#7f45c8;--c4:#b92f6d;--c5:#75740a;--rest:#a9aeb7;--card:#fff}"
             "svg{background:#fff}.grid{stroke:#eceef1}.axis{stroke:#bbb}</style>")
    legend = "".join(f'<text x="905" y="{30 + 18 * i}" style="fill:var(--{f"c{i}" if i < 6 else "rest"})">{name}</text>'
                     for i, name in enumerate(order))
    head = svg.index(">") + 1
    (RESULTS / "vectors.svg").write_text(svg[:head] + style + svg[head:] + legend + "</svg>\n")


def few(found: list) -> list:
    """Of contestants those worth their time on a million vectors: compand's default and its refined codes, and peers but SQ."""
    return [c for i, c in enumerate(found) if (i == 0 or "refined" in c.name if isinstance(c, Compand) else "SQ" not in c.name)]


def nearest(x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The MANY rows with the largest inner products, best first."""
    scores, rows = np.full((len(q), 0), 0, np.float32), np.zeros((len(q), 0), np.int64)
    for at in range(0, len(x), 50_000):
        own = q @ x[at:at + 50_000].T
        best = np.argpartition(-own, MANY, axis=1)[:, :MANY] if own.shape[1] > MANY else np.tile(np.arange(own.shape[1]), (len(q), 1))
        scores, rows = np.concatenate([scores, np.take_along_axis(own, best, 1)], axis=1), np.concatenate([rows, best + at], axis=1)
        best = np.argsort(-scores, axis=1)[:, :MANY]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    return rows


def data(args):
    """Base, queries, the true hundred, and the one relevant row of each query (or None)."""
    if args.set == "images":
        both = images(pathlib.Path(args.cache), pathlib.Path(args.data))
        x, q, relevant = both[:-2000], both[-2000:], None
    elif args.set == "tokens":
        x, q = tokens(pathlib.Path(args.cache), pathlib.Path(args.data))
        relevant = None
    else:
        folder = pathlib.Path(args.data) / "vectors"
        x, q = load(folder / "minilm-base.i16.xz"), load(folder / "minilm-query.i16.xz")
        relevant = np.load(folder / "minilm-asym-relevant.npy")
    return x, q, np.concatenate([nearest(x, q[i:i + 500]) for i in range(0, len(q), 500)]), relevant


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--set", choices=tuple(SETS), default="minilm")
    parser.add_argument("--cache", default=tempfile.gettempdir(), help="where features.py keeps its result")
    parser.add_argument("--budgets", help="bytes a vector  [default: a 32nd of the columns, and twice as much, up to one byte a column]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="of timing for each budget")
    parser.add_argument("--slow", action="store_true", help="peers that train or search for minutes, too")
    parser.add_argument("--quality", action="store_true", help="no timing; speeds of the result file stay")
    parser.add_argument("--timed", type=int, help="how many of the queries are timed  [default: all; of tokens 500]")
    parser.add_argument("--only", help="contestants with this in their name; rows of the others stay")
    args = parser.parse_args()
    x, q, truth, relevant = data(args)
    path, rows = RESULTS / "vectors.json", []
    if path.exists():
        rows = [{"set": "minilm", **row} for row in json.loads(path.read_text())["rows"]]
    budgets = [x.shape[1] >> i for i in range(5, -1, -1)] if args.budgets is None else list(map(int, args.budgets.split(",")))
    if args.quality and args.budgets is None:
        budgets = sorted({*budgets, *(row["budget"] for row in rows if row["set"] == args.set)})
    for warm in (Compand("klt,grouped:8,rans"), Faiss("PQ16x4fs", x.shape[1])):  # imports and pools of threads
        ready(warm, x[:4096], q[:10])
    with tempfile.TemporaryDirectory() as scratch:
        np.save(f"{scratch}/query.npy", q)
        for budget in budgets:
            some = contestants(budget, x.shape[1], args.slow, scratch)
            some = few(some) if args.set == "tokens" else some
            if args.quality:
                some += old(rows, args.set, budget, {c.name for c in some}, x.shape[1], args.slow, scratch)
            some = [c for c in some if not args.only or args.only in c.name]
            new = (judged if args.quality else measured)(some, x, q, truth, relevant, args)
            new = [{"set": args.set, "budget": budget, **row} for row in new]
            print(table(new), flush=True)
            rows = merged(rows, new)
            save("vectors", rows, sets=SETS, queries=len(q))
            draw(rows)


def measured(some: list, x, q, truth, relevant, args) -> list[dict]:
    """Rows with recall, sizes and speeds; all contestants are kept and timed together."""
    built = {c: ready(c, x, q) for c in some}
    found = [c for c, one in built.items() if one]
    fast = speeds(found, q[:args.timed or (500 if args.set == "tokens" else len(q))], args.rounds, args.seconds)
    for c in found:
        if isinstance(c, Turbovec):
            c.close()
    return [{"name": c.name, **quality(built[c]["hits"], truth, relevant, args.set != "images"),
             **{key: value for key, value in built[c].items() if key != "hits"}, **fast[c.name], "load": round(os.getloadavg()[0], 1)}
            for c in found]


def judged(some: list, x, q, truth, relevant, args) -> list[dict]:
    """Rows with recall, errors and sizes; one contestant at a time is kept."""
    new = []
    while some:
        c = some.pop(0)
        one = ready(c, x, q)
        if one:
            kinds = args.set != "images"
            new.append({"name": c.name, **quality(one["hits"], truth, relevant, kinds), **quality(c.search(q, 2, MANY), truth, None, kinds),
                        "squared error": squared_error(c, x), "bytes": one["bytes"], "code bytes": one["code bytes"]})
            print(table(new[-1:]).splitlines()[-1], flush=True)
    return new


def old(rows: list[dict], kind: str, budget: int, known: set[str], d: int, slow: bool, folder: str) -> list:
    """Contestants of the result file that are not asked for any more, and are not slow."""
    names = [row["name"] for row in rows if (row["set"], row["budget"]) == (kind, budget) and row["name"] not in known]
    found = [c for name in names if (c := named(name, d, folder)) is not None]
    return [c for c in found if slow or not (isinstance(c, Scann | Rabitq | Lvq | UsearchSigns) or c.name.startswith("faiss RQ"))]


def merged(rows: list[dict], new: list[dict]) -> list[dict]:
    """Rows with the columns of new ones in the place of their own, in order."""
    found = {(row["set"], row["budget"], row["name"]): row for row in rows}
    for row in new:
        key = row["set"], row["budget"], row["name"]
        found[key] = {**found.get(key, {}), **row}
    return sorted(found.values(), key=lambda row: (row["set"] != "minilm", row["budget"], not row["name"].startswith("compand")))


if __name__ == "__main__":
    main()
