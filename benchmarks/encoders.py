"""all-MiniLM-L6-v2 at a few bits: Spearman on SemEval STS 2013-2016 and nDCG@10 on Vaswani and Cranfield, every byte of the file counted.

    python benchmarks/encoders.py MODEL DATA [--what sts retrieval] [--specs SPEC ...] [--tuned SPEC ...] [--every 4]

Rows of other specs in the JSON are kept where they were measured against the same base, and so is what --what leaves out. MODEL is the
model's folder, DATA holds retrieval/ (sts-semeval2012-2016+sick.tar.xz, vaswani, cranfield: the collections as texts.py reads them, their
first 128 tokens) and text/train-brown.txt.xz (calibration).
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
import texts

from compand.integration import encoder, retrieval
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


def similarity(folder, sets) -> float:
    """Mean Spearman over the sets, in points."""
    net, tokenizer = encoder.open_encoder(folder)
    sentences = [t for rows in sets.values() for p in rows for t in p[1:3]]
    each, at, scores = encoder.embed(net, tokenizer, sentences, length=128), 0, []
    for rows in sets.values():
        x = each[at:at + 2 * len(rows)]
        at += len(x)
        scores.append(100 * encoder.spearman((x[::2] * x[1::2]).sum(axis=1), np.array([float(p[0]) for p in rows])))
    return float(np.mean(scores))


def ranked(folder, collections) -> dict[str, float]:
    """nDCG@10 of each collection, in points."""
    net, tokenizer = encoder.open_encoder(folder)
    found = {}
    for name, (documents, queries, grades) in collections.items():
        x = encoder.embed(net, tokenizer, queries + documents, length=128)
        near = retrieval.nearest({f"q{i}": x[i] for i in grades}, x[len(queries):], [str(i) for i in range(len(documents))])
        judged = {f"q{i}": {str(d): float(g) for d, g in own.items()} for i, own in grades.items()}
        found[f"nDCG@10 {name}"] = 100 * retrieval.ndcg(near, judged)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--specs", nargs="*", default=["hadamard,int:8", "hadamard,int:4:group=64",
                                                              *(f"hadamard,trellis:{b}" for b in (4, 3, 2))])
    parser.add_argument("--tuned", nargs="*", default=[], help="specs whose norms, biases and scales are tuned too")
    parser.add_argument("--what", nargs="+", default=["sts", "retrieval"], choices=["sts", "retrieval"])
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=512)
    args = parser.parse_args()
    sets = pairs(args.data / "retrieval/sts-semeval2012-2016+sick.tar.xz", args.every)
    collections = {name: texts.collection(args.data, name) for name in ("vaswani", "cranfield")}
    text = lzma.open(args.data / "text/train-brown.txt.xz", "rt", errors="replace").read()
    rows = {r["spec"]: r for r in record.rows("encoders")}

    def measured(folder) -> dict[str, float]:
        found = {"spearman": similarity(folder, sets)} if "sts" in args.what else {}
        return found | (ranked(folder, collections) if "retrieval" in args.what else {})

    def put(spec: str, **found) -> None:
        rows[spec] = {**rows.get(spec, {}), "spec": spec, **found}
        every = sorted(rows.values(), key=lambda r: -r["bits"])
        print(record.table([rows[spec]]), flush=True)
        record.save("encoders", every, subject="all-MiniLM-L6-v2", pairs=sum(map(len, sets.values())), sentences=args.sequences,
                    retrieval={name: {"documents": len(d), "queries": len(g)} for name, (d, _, g) in collections.items()})

    own = measured(args.model)
    before = rows.get("float32", {})
    gone = [name for name, value in own.items() if abs(before.get(name, value) - value) > 1e-6]  # another base: its rows mean nothing now
    rows = {} if gone else rows
    put("float32", bits=32.0, seconds=0.0, **own, **({"points lost": 0.0} if "sts" in args.what else {}))
    for spec, tune in [*((s, False) for s in args.specs), *((s, True) for s in args.tuned)]:
        with tempfile.TemporaryDirectory() as work:
            out = pathlib.Path(work, "model.cpd")
            result = encoder.compress(args.model, out, spec, text, sequences=args.sequences, tune=tune)
            with as_folder(out) as folder:
                found = measured(folder)
        lost = {"points lost": own["spearman"] - found["spearman"]} if "sts" in args.what else {}
        put(f"{spec}, tuned" if tune else spec, bits=result["bits"], seconds=result["seconds"], **found, **lost)


if __name__ == "__main__":
    main()
