"""Products with weights that stay codes: weights a second, from L2 and from memory, beside plain reads and torch.

    python benchmarks/matmul.py [--rounds 5] [--threads 1,2] [--lossless]

`decode` is one line of activations: codes that fit the second-level cache (512 x 2,048 weights; torch float32 has 4 MB there) and
codes that do not fit any cache (12 or 24 matrices of 2,048 x 8,192, visited in turn). `prompt` is 64 lines. `read` sums the same bytes of a
large array with NumPy on as many threads. Codes are random: speed does not depend on their values. Everything is measured in turn, rounds
after rounds, and medians are reported; times are of the whole call, with the rounding of activations to int8.

`--lossless` measures only the `ranks` rows, and keeps the others: bfloat16 weights (six Gaussian matrices of 8,192 x 2,048), as
they are and as `ranks`, both in the map of one file, six products of the one after six of the other. `of_bfloat16` is the median of the
ratios of a round. The results are checked to be the same bits.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import record

import compand
from compand import _native
from compand.codes import Block, Codes, stored_form
from compand.dtypes import dtype
from compand.op.matmul import matrix

SPECS = ["trellis:2", "trellis:3", "trellis:4", "trellis:2:factors=2", "int:4:group=64", "int:8:group=64", "table:nf4:group=64"]
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
        parts[name] = rng.integers(0, 256, size, dtype=np.uint8) if kind == "uint8" else np.full(size, 0.01, np.float32).astype(dtype(kind))
    return Codes(codec, shape, "float32", (Block(shape[0], parts),))


def median(fns: dict, rounds: int, least: float = 0.02) -> dict[str, float]:
    """Median seconds of a call, in turn; a call is repeated until it lasts ``least`` seconds."""
    times: dict[str, list[float]] = {name: [] for name in fns}
    for _ in range(rounds):
        for name, fn in fns.items():
            fn()
            done, begin = 0, time.perf_counter()
            while (spent := time.perf_counter() - begin) < least or not done:
                fn()
                done += 1
            times[name].append(spent / done)
    return {name: float(np.median(t)) for name, t in times.items()}


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
               "prompt_of_bfloat16": round(float(np.median(long[:, 0] / long[:, 1])), 2), "load": record.machine()["load"]}
        print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--matrices", type=int, default=24)
    parser.add_argument("--lossless", action="store_true")
    args = parser.parse_args()
    others = [row for row in record.rows("matmul") if (row["weights"] == "ranks") != args.lossless]
    if args.lossless:
        found = others + lossless(list(map(int, args.threads.split(","))), 10 * args.rounds)
        print(record.save("matmul", found, small=SMALL, large=LARGE, rounds=args.rounds))
        return
    import torch

    rng, rows = np.random.default_rng(0), []
    far = np.ones(READ // 8, np.int64)
    line, wide = (rng.standard_normal((1, d)).astype(np.float32) for d in (SMALL[1], LARGE[1]))
    prompt = rng.standard_normal((64, SMALL[1])).astype(np.float32)
    peers = {}
    for kind in ("float32", "bfloat16"):
        own = getattr(torch, kind)
        near, many = torch.randn(SMALL, dtype=own), [torch.randn(LARGE).to(own) for _ in range(4)]
        x, y, z = (torch.from_numpy(a).to(own) for a in (line, wide, prompt))
        peers[f"torch {kind}"] = (lambda x=x, n=near: torch.nn.functional.linear(x, n),
                                  lambda y=y, w=many: [torch.nn.functional.linear(y, m) for m in w],
                                  lambda z=z, n=near: torch.nn.functional.linear(z, n), len(many), 8.0 * near.element_size())
    ours = {}
    for spec in SPECS:
        near = coded(spec, SMALL, rng)
        many = [coded(spec, LARGE, rng) for _ in range(args.matrices if spec.startswith(("trellis:3", "trellis:4", "int:4")) else 12)]
        bits = 8 * many[0].nbytes / many[0].size
        ours[spec] = (lambda c=near: compand.matmul(line, c), lambda c=many: [compand.matmul(wide, own) for own in c],
                      lambda c=near: compand.matmul(prompt, c), len(many), bits)
    for threads in map(int, args.threads.split(",")):
        _native.set_threads(threads)
        torch.set_num_threads(threads)
        with ThreadPoolExecutor(threads) as pool:
            fns = {"read": lambda: list(pool.map(np.sum, np.array_split(far, threads)))}  # noqa: B023
            for name, (near, many, long, *_) in (ours | peers).items():
                fns |= {f"{name} L2": near, f"{name} memory": many, f"{name} prompt": long}
            seconds = median(fns, args.rounds)
        read = READ / seconds["read"] / 1e9
        print(f"{threads} threads: read {read:.1f} GB/s")
        for name, (*_, count, bits) in (ours | peers).items():
            small, large = SMALL[0] * SMALL[1], LARGE[0] * LARGE[1] * count
            memory = large / seconds[f"{name} memory"] / 1e9
            row = {"weights": name, "threads": threads, "bits": round(bits, 3),
                   "l2_gweights_s": round(small / seconds[f"{name} L2"] / 1e9, 1),
                   "memory_gweights_s": round(memory, 1), "memory_gb_s": round(memory * bits / 8, 1), "read_gb_s": round(read, 1),
                   "of_read": round(memory * bits / 8 / read, 2), "prompt_gmac_s": round(64 * small / seconds[f"{name} prompt"] / 1e9, 1)}
            rows.append(row)
            print(f"  {name:22} {bits:6.2f} b  L2 {row['l2_gweights_s']:6.1f} G/s  memory {memory:6.1f} G/s = "
                  f"{row['memory_gb_s']:5.1f} GB/s ({row['of_read']:.0%} of read)  prompt {row['prompt_gmac_s']:6.1f} GMAC/s", flush=True)
    print(record.save("matmul", rows + others, small=SMALL, large=LARGE, rounds=args.rounds))


if __name__ == "__main__":
    main()
