"""Products with weights that stay codes: weights a second, from L2 and from memory, beside plain reads and torch.

    python benchmarks/matmul.py [--rounds 5] [--threads 1,2] [--specs "trellis:3;int:1"] [--lossless]

It takes one to two minutes on a machine of its own.

`decode` is one line of activations: codes that fit the second-level cache (512 x 2,048 weights; torch float32 has 4 MB there) and
codes that do not fit any cache (128 MB of matrices of 2,048 x 8,192, visited in turn). `prompt` is 64 lines. `read` is one pass over
256 MB by as many threads, at the begin and the end of each round. Codes are random: speed does not depend on their values. Everything is
measured in turn, round after round; medians are reported, and the best; times are of the whole product, with the rounding of activations to
int8.

Two gates are columns of the rows they are for, by the best of the rounds: `l2_gate`, 36 G weights/s a thread from the second-level cache,
of trellis codes of 2, 3 and 4 bits with one multiplier; `read_gate`, 85 % of the quickest read of all CPUs, of codes of 3 and 4 bits on as
many threads.

A run replaces the rows of its specs and threads, and each row has the date and the command of its own run.

`--lossless` measures only the `ranks` rows, and keeps the others: bfloat16 weights (six Gaussian matrices of 8,192 x 2,048), as
they are and as `ranks`, both in the map of one file, six products of the one after six of the other. `of_bfloat16` is the median of the
ratios of a round. The results are checked to be the same bits.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time

import numpy as np
import record

import compand
from compand import _native
from compand.codes import Block, Codes, stored_form
from compand.dtypes import dtype
from compand.op.matmul import matrix
from compand.symbols import pack

SPECS = ["trellis:2", "trellis:3", "trellis:4", "trellis:2:factors=2", "int:1:group=64", "int:2:group=64", "int:3:group=64",
         "int:4:group=64", "int:8:group=64", "table:nf4:group=64", "sign:64", "ternary:64"]
GATED = ("trellis:2", "trellis:3", "trellis:4")  # at 36 G weights/s a thread
L2_GATE, READ_GATE = 36.0, 0.85
FAR = 1 << 27  # bytes of codes that no cache holds
TALL = (8192, 2048)
SMALL, LARGE = (512, 2048), (2048, 8192)
READ = 1 << 28


def coded(spec: str, shape: tuple[int, int], rng) -> Codes:
    """Random codes of such weights, in one block."""
    codec = compand.Codec(spec)
    layout = codec.layout(codec.form(shape, "float32"))
    parts = {}
    for name, part in layout.items():
        kind, size = stored_form(part)
        if part.k is not None and part.k & (part.k - 1):  # not every byte is one of such symbols
            parts[name] = pack(rng.integers(0, part.k, part.shape, dtype=np.uint8), part.k)
            continue
        parts[name] = rng.integers(0, 256, size, dtype=np.uint8) if kind == "uint8" else np.full(size, 0.01, np.float32).astype(dtype(kind))
    return Codes(codec, shape, "float32", (Block(shape[0], parts),))


def seconds_of(fns: dict, rounds: int, least: float = 0.02) -> dict[str, np.ndarray]:
    """Seconds of a call of each round, in turn; a call is repeated until it lasts ``least`` seconds."""
    times: dict[str, list[float]] = {name: [] for name in fns}
    for _ in range(rounds):
        for name, fn in fns.items():
            fn()
            done, begin = 0, time.perf_counter()
            while (spent := time.perf_counter() - begin) < least or not done:
                fn()
                done += 1
            times[name].append(spent / done)
    return {name: np.array(t) for name, t in times.items()}


def lossless(threads: list[int], rounds: int) -> list[dict]:
    """Rows of `ranks` beside the same bfloat16 weights as they are."""
    rng, rows = np.random.default_rng(0), []
    line, prompt = (rng.standard_normal((m, TALL[1])).astype(np.float32) for m in (1, 64))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "w.cpd")
        with compand.Writer(path) as out:
            for i in range(6):
                w = (rng.standard_normal(TALL, dtype=np.float32) * 0.02).astype(dtype("bfloat16"))
                for spec in ("raw", "ranks"):
                    out.write(f"{spec}{i}", w, spec, check=False)
        file = compand.open(path)  # its map stays when the folder is gone
    codes = [file[f"ranks{i}"].codes() for i in range(6)]
    ranks, brain = [matrix(c) for c in codes], [matrix(file[f"raw{i}"].codes()) for i in range(6)]
    nbytes = sum(c.nbytes for c in codes)
    if any(not np.array_equal(a(x), b(x)) for a, b in zip(ranks, brain, strict=True) for x in (line, prompt[:5])):
        raise SystemExit("products of ranks are not those of bfloat16")
    weights = len(ranks) * TALL[0] * TALL[1]

    def seconds(matrices: list, x: np.ndarray) -> float:
        begin = time.perf_counter()
        for m in matrices:
            m(x)
        return time.perf_counter() - begin

    for count in threads:
        _native.set_threads(count)
        seconds(brain + ranks, line)
        pairs = np.array([(seconds(brain, line), seconds(ranks, line)) for _ in range(rounds)])
        long = np.array([(seconds(brain[:1], prompt), seconds(ranks[:1], prompt)) for _ in range(min(rounds, 9))])
        (own, mine), bits = np.median(pairs, axis=0), 8 * nbytes / weights
        quick = pairs.min(axis=0)
        row = {"weights": "ranks", "threads": count, "bits": round(bits, 3), "memory_gweights_s": round(weights / mine / 1e9, 1),
               "memory_gb_s": round(nbytes / mine / 1e9, 1), "bfloat16_gweights_s": round(weights / own / 1e9, 1),
               "of_bfloat16": round(float(np.median(pairs[:, 0] / pairs[:, 1])), 2), "best_of_bfloat16": round(quick[0] / quick[1], 2),
               "prompt_of_bfloat16": round(float(np.median(long[:, 0] / long[:, 1])), 2), "load": record.machine()["load"], **record.when()}
        print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        rows.append(row)
    return rows


def decoding(specs: list[str] | None, threads: list[int], rounds: int) -> list[dict]:
    """Rows of lossy codes, and of torch where no specs are asked for."""
    import torch

    rng, rows = np.random.default_rng(0), []
    far = np.ones(READ, np.uint8)
    line, wide = (rng.standard_normal((1, d)).astype(np.float32) for d in (SMALL[1], LARGE[1]))
    prompt = rng.standard_normal((64, SMALL[1])).astype(np.float32)
    found = {}
    for spec in specs or SPECS:
        first = coded(spec, LARGE, rng)
        many = [matrix(c) for c in (first, *(coded(spec, LARGE, rng) for _ in range(FAR // first.nbytes)))]
        near = matrix(coded(spec, SMALL, rng))
        found[spec] = (lambda c=near: c(line), lambda c=many: [own(wide) for own in c], lambda c=near: c(prompt), len(many),
                       8 * first.nbytes / first.size)
    for kind in () if specs else ("float32", "bfloat16"):
        own = getattr(torch, kind)
        near, many = torch.randn(SMALL, dtype=own), [torch.randn(LARGE).to(own) for _ in range(4)]
        x, y, z = (torch.from_numpy(a).to(own) for a in (line, wide, prompt))
        found[f"torch {kind}"] = (lambda x=x, n=near: torch.nn.functional.linear(x, n),
                                  lambda y=y, w=many: [torch.nn.functional.linear(y, m) for m in w],
                                  lambda z=z, n=near: torch.nn.functional.linear(z, n), len(many), 8.0 * near.element_size())
    cpus = record.machine()["cpus"]
    for count in threads:
        _native.set_threads(count)
        torch.set_num_threads(count)
        fns = {"read": lambda: _native.read(far)}
        for name, (near, many, long, *_) in found.items():
            fns |= {f"{name} L2": near, f"{name} memory": many, f"{name} prompt": long}
        seconds = seconds_of(fns | {"read again": fns["read"]}, rounds)
        reads = READ / np.concatenate([seconds["read"], seconds["read again"]]) / 1e9
        print(f"{count} threads: read {np.median(reads):.1f} GB/s, {reads.max():.1f} at best")
        for name, (*_, matrices, bits) in found.items():
            l2, memory, long = (size / seconds[f"{name} {what}"] / 1e9 for what, size in (
                ("L2", SMALL[0] * SMALL[1]), ("memory", LARGE[0] * LARGE[1] * matrices), ("prompt", 64 * SMALL[0] * SMALL[1])))
            nbytes = memory * bits / 8
            row = {"weights": name, "threads": count, "bits": round(bits, 3), "l2_gweights_s": round(float(np.median(l2)), 1),
                   "l2_best": round(l2.max(), 1), "memory_gweights_s": round(float(np.median(memory)), 1),
                   "memory_gb_s": round(float(np.median(nbytes)), 1), "read_gb_s": round(reads.max(), 1),
                   "of_read": round(float(np.median(nbytes)) / reads.max(), 2), "best_of_read": round(nbytes.max() / reads.max(), 2),
                   "prompt_gmac_s": round(float(np.median(long)), 1)}
            if name in GATED:
                row["l2_gate"] = f"{'met' if l2.max() >= L2_GATE * count else 'missed'}: {L2_GATE * count:g} G/s"
            if 3 <= bits < 5 and count == cpus and not name.startswith("torch"):
                row["read_gate"] = f"{'met' if nbytes.max() >= READ_GATE * reads.max() else 'missed'}: {READ_GATE:.0%} of read"
            rows.append(row | record.when())
            print("  " + "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--specs", help="only these, with ; between them, and not torch")
    parser.add_argument("--lossless", action="store_true")
    args = parser.parse_args()
    threads, specs = list(map(int, args.threads.split(","))), args.specs.split(";") if args.specs else None
    fresh = lossless(threads, 10 * args.rounds) if args.lossless else decoding(specs, threads, args.rounds)
    made = {(row["weights"], row["threads"]) for row in fresh}
    kept = [row for row in record.dated_rows("matmul") if (row["weights"], row["threads"]) not in made]
    print(record.save("matmul", fresh + kept, small=SMALL, large=LARGE, rounds=args.rounds))


if __name__ == "__main__":
    main()
