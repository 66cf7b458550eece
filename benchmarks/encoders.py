"""all-MiniLM-L6-v2 at a few bits: Spearman on SemEval STS 2013-2016, against float32, with every byte of the file counted.

    python benchmarks/encoders.py MODEL DATA [--specs SPEC ...] [--every 4]

Rows of other specs in the JSON are kept where they were measured against the same base. MODEL is the model's folder, DATA holds
retrieval/sts-semeval2012-2016+sick.tar.xz and text/train-brown.txt.xz (calibration).
"""

from __future__ import annotations

import argparse
import lzma
import pathlib
import re
import tarfile
import tempfile

import numpy as np
import record

from compand.integration import encoder
from compand.integration.language import as_folder


def pairs(path: pathlib.Path, every: int) -> dict[str, list[list[str]]]:
    """Score, sentence, sentence of each test set; every n-th pair."""
    found = {}
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            name = re.search(r"semeval-sts/(201[3-6])/([\w-]+)\.test\.tsv$", member.name)
            if name:
                lines = [line.split("\t") for line in tar.extractfile(member).read().decode().splitlines()]
                found[f"{name[1]} {name[2]}"] = [p for p in lines if len(p) >= 3 and p[0].strip()][::every]
    return found


def score(folder, sets) -> float:
    """Mean Spearman over the sets, in points."""
    net, tokenizer = encoder.open_encoder(folder)
    texts = [t for rows in sets.values() for p in rows for t in p[1:3]]
    each, at, scores = encoder.embed(net, tokenizer, texts, length=128), 0, []
    for rows in sets.values():
        x = each[at:at + 2 * len(rows)]
        at += len(x)
        scores.append(100 * encoder.spearman((x[::2] * x[1::2]).sum(axis=1), np.array([float(p[0]) for p in rows])))
    return float(np.mean(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--specs", nargs="+", default=["hadamard,int:8", "hadamard,int:4:group=64",
                                                              *(f"hadamard,trellis:{b}" for b in (4, 3, 2))])
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=512)
    args = parser.parse_args()
    sets = pairs(args.data / "retrieval/sts-semeval2012-2016+sick.tar.xz", args.every)
    text = lzma.open(args.data / "text/train-brown.txt.xz", "rt", errors="replace").read()
    base = score(args.model, sets)
    rows = [{"spec": "float32", "bits": 32.0, "spearman": base, "points lost": 0.0, "seconds": 0.0},
            *(r for r in record.rows("encoders") if r["spec"] not in ("float32", *args.specs)
              and abs(r["points lost"] + r["spearman"] - base) < 1e-6)]
    print(record.table(rows), flush=True)
    for spec in args.specs:
        with tempfile.TemporaryDirectory() as work:
            out = pathlib.Path(work, "model.cpd")
            result = encoder.compress(args.model, out, spec, text, sequences=args.sequences)
            with as_folder(out) as folder:
                found = score(folder, sets)
        rows.append({"spec": spec, "bits": result["bits"], "spearman": found, "points lost": base - found, "seconds": result["seconds"]})
        rows.sort(key=lambda r: -r["bits"])
        print(record.table(rows), flush=True)
        record.save("encoders", rows, subject="all-MiniLM-L6-v2", pairs=sum(map(len, sets.values())), sentences=args.sequences)


if __name__ == "__main__":
    main()
