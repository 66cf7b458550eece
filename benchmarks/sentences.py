"""all-MiniLM-L6-v2 through sentence-transformers: sentences a second on codes beside float32, in the same rounds, and STS of both.

    python benchmarks/sentences.py MODEL DATA [--spec int:4:group=64] [--rounds 9] [--threads 2] [--every 8]

MODEL is a folder of sentence-transformers, or one that `CompandConfig` coded (then --plain names the float32 one); DATA holds
retrieval/sts-semeval2012-2016+sick.tar.xz. One sentence at a time, and batches of 64; medians of rounds in which they take turns. On more
than one thread the codes run twice: on torch's threads, as `import compand.hf` has it, and on a pool of their own. Rows
replace those of the same weights and number of threads; --no-sts times only, in about a minute, and keeps their STS.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import numpy as np
import record
from encoders import pairs

from compand import _native
from compand.integration import encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--plain", type=pathlib.Path)
    parser.add_argument("--spec", default="hadamard,int:4:group=64", help="where MODEL is not coded yet")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=8, help="every n-th pair of STS")
    parser.add_argument("--no-sts", action="store_true")
    args = parser.parse_args()
    import torch
    from sentence_transformers import SentenceTransformer

    from compand.hf import CompandConfig, share_threads

    torch.set_num_threads(args.threads)
    _native.set_threads(args.threads)
    config = None if args.plain else {"quantization_config": CompandConfig(spec=args.spec)}
    models = {"float32": SentenceTransformer(str(args.plain or args.model), device="cpu"),
              "codes": SentenceTransformer(str(args.model), device="cpu", model_kwargs=config)}
    runs = {"float32": "float32", "codes": "codes"} | ({"own pool": "codes"} if args.threads > 1 else {})
    sets = pairs(args.data / "retrieval/sts-semeval2012-2016+sick.tar.xz", args.every)
    texts = [t for rows in sets.values() for p in rows for t in p[1:3]]
    work = {"single": texts[:16], "batch": texts[:256]}
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(args.rounds + 1):
        for kind, some in work.items():
            for name, kind_of in runs.items():
                model = models[kind_of]
                share_threads(name != "own pool")
                begin = time.perf_counter()
                for one in some if kind == "single" else [some]:
                    model.encode(one, batch_size=64)
                if turn:
                    times.setdefault((name, kind), []).append((time.perf_counter() - begin) / len(some))
    share_threads()
    scores: dict[str, float] = {}
    for name, model in {} if args.no_sts else models.items():
        x, at, found = model.encode(texts, batch_size=64, normalize_embeddings=True), 0, []
        for own in sets.values():
            mine = x[at:at + 2 * len(own)]
            at += len(mine)
            found.append(100 * encoder.spearman((mine[::2] * mine[1::2]).sum(axis=1), np.array([float(p[0]) for p in own])))
        scores[name] = round(float(np.mean(found)), 2)
    rows = []
    for name, model_name in runs.items():
        row = {"weights": name if name == "float32" or args.plain else args.spec, "threads": args.threads,
               "pool": "own" if name == "own pool" else "torch"}
        row |= {"sts": scores[model_name]} if scores else {}
        row |= {f"{kind}_sentences_s": round(1 / float(np.median(times[name, kind])), 1) for kind in work}
        if name != "float32":
            ratios = {kind: np.array(times["float32", kind]) / np.array(times[name, kind]) for kind in work}
            row |= {f"{kind}_of_float32": round(float(np.median(r)), 2) for kind, r in ratios.items()}
        rows.append(row)

    def key(row: dict) -> tuple:
        before = "own" if row["weights"] != "float32" and row["threads"] > 1 else "torch"  # of rows that do not say it yet
        return row["weights"], row["threads"], row.get("pool", before)

    known = {key(r): r["sts"] for r in record.rows("sentences") if "sts" in r}
    rows = [{**({"sts": known[key(r)]} if key(r) in known else {}), **r} for r in rows]
    fresh = {key(r) for r in rows}
    others = [r for r in record.rows("sentences") if key(r) not in fresh]
    for row in rows:
        print(row)
    print(record.save("sentences", others + rows, rounds=args.rounds, every=args.every))


if __name__ == "__main__":
    main()
