"""Claim: a neural residual code (QINCo-like) gives less error than residual k-means; what it costs, and whether it beats other codes.

The embeddings, queries and recall of benchmarks/vectors.py; trained on the base vectors, one thread. The same bytes by residual k-means
(the code before training, with the same beam), by the default of these bytes and by trellis-coded steps. ``error``: squared, over that
of the rows less their mean, in klt's coordinates, on 5,000 rows. Bytes with the codec's fitted state, shared by all vectors, and without.

    python benchmarks/neural.py [--data DIR] [--budgets 24,48] [--epochs 6]     (six minutes for 24, ten for 48, one thread)
"""

from __future__ import annotations

import argparse
import os
import pathlib
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from nearest import load  # noqa: E402
from record import rows as earlier  # noqa: E402
from record import save, table  # noqa: E402
from vectors import K, nearest, recall  # noqa: E402

import compand  # noqa: E402
from compand.fit.vectors import preset  # noqa: E402
from compand.torch import train_neural  # noqa: E402

SPECS = {24: "klt:192,neural:24:hidden=128:beam=2", 48: "klt:256,neural:48:hidden=96:beam=1"}


def measured(name: str, codec, train: float, x, q, truth) -> dict:
    start = time.process_time()
    codes = codec.encode(x)
    encoded = time.process_time()
    near = codec.decode(codes).astype(np.float32, copy=False)
    decoded = time.process_time()
    hits = np.concatenate([np.argsort(-(q[i:i + 250] @ near.T), axis=1)[:, :K] for i in range(0, len(q), 250)])
    turn = codec.stage.transforms[0]
    y, z = (turn.forward(np.ascontiguousarray(a[:5000]))[0] for a in (x, near))
    return {"name": name, "spec": codec.spec, "recall@10 sym": recall(hits[:1000], truth[:1000]),
            "recall@10 asym": recall(hits[1000:], truth[1000:]), "error": float(np.square(y - z).sum() / np.square(y).sum()),
            "code bytes": codes.nbytes / len(x), "bytes": len(codes.to_bytes()) / len(x), "train s": train,
            "encode/s": len(x) / (encoded - start), "decode/s": len(x) / (decoded - encoded)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--budgets", default="24,48")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--no-start", action="store_true", help="leave out the code before training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    compand._native.set_threads(1)
    folder = pathlib.Path(args.data) / "vectors"
    x, q = load(folder / "minilm-base.i16.xz"), load(folder / "minilm-query.i16.xz")
    truth = np.concatenate([nearest(x, q[i:i + 500]) for i in range(0, len(q), 500)])
    rows = earlier("neural")
    for budget in map(int, args.budgets.split(",")):
        new: list[dict] = []
        kept = SPECS[budget].split(",")[0]
        for name, spec in (("default", preset(budget, x.shape[1])[0]), ("trellis", f"{kept},ecsq:{budget}:trellis=true,rans")):
            start = time.process_time()
            codec = compand.Codec(spec).fit(x)
            new.append(measured(name, codec, time.process_time() - start, x, q, truth))
            print(table(new[-1:]), flush=True)
        start = time.process_time()
        codec = compand.Codec(SPECS[budget]).fit(x)
        before = time.process_time() - start
        trained = train_neural(codec, x, epochs=args.epochs, tell=lambda i, error: i % 100 or print(i, round(error, 4), flush=True))
        took = time.process_time() - start
        for name, own, train in (("neural", trained, took), *(() if args.no_start else (("residual k-means", codec, before),))):
            new.append(measured(name, own, train, x, q, truth))
            print(table(new[-1:]), flush=True)
        again = {(row["name"], row["spec"]) for row in new}
        rows = sorted([row for row in rows if (row["name"], row["spec"]) not in again] + new, key=lambda row: round(row["code bytes"]))
        save("neural", rows, vectors=list(x.shape), queries=len(q), epochs=args.epochs)


if __name__ == "__main__":
    main()
