"""One file of stacked terms read within many memories, beside models compressed for each of these sizes.

    python benchmarks/stack.py [--data DIR]                       # stories260K, half a minute
    python benchmarks/stack.py --gemma gemma-3-270m/ [--data DIR]     # Gemma-3-270M, a few minutes

A stack is fitted once (`language_stack.compress`) and cut to a share of its bytes (`modality.stack.cut`: what
`compand.lm.load(..., memory=)` reads); its peers are fitted for that size (``alone``: the same bits for all weights). ``together``: the
same stack whose terms make up for the error of all of them. ``bits``: of the codes of all weights. Fitted to the first half of a text of
stories, measured on the second; Gemma is rounded without text, run natively within each memory, and measured at every fourth position of
512 tokens of WikiText-2. Rows are merged into stack.json.
"""

from __future__ import annotations

import argparse
import json
import lzma
import pathlib
import tempfile
import time

import numpy as np
import record
import stories

import compand
from compand import modality
from compand.integration import language_eval, language_fit, language_stack
from compand.lm import load
from compand.modality import stack

FORM = "memory=12"
STACKS = [f"hadamard,(trellis:2:{FORM}+trellis:1:{FORM}+trellis:1:{FORM})", f"hadamard,(trellis:2:{FORM}+trellis:2:{FORM})"]
ALONE = [f"hadamard,trellis:{b}:{FORM}" for b in (2, 3, 4)]
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.53)  # of the bytes of all terms
GEMMA, GEMMA_ALONE = "hadamard,(int:3:mid=true+int:2:mid=true)", ["hadamard,int:3:mid=true", "hadamard,int:4", "hadamard,int:5"]


def coded(path: pathlib.Path) -> tuple[int, int]:
    """Bytes of the codes of all matrices, and their values."""
    with compand.open(path) as file:
        codes = [file[n].codes() for n in file.names if file[n].kind == "array" and len(file[n].shape) > 1]
    return sum(c.nbytes for c in codes), sum(c.size for c in codes)


def small(args, put) -> None:
    """Rows of stories260K."""
    text = lzma.open(args.data / "text" / "calib-tiny.txt.xz", "rt").read()
    half = len(text) // 2
    with tempfile.TemporaryDirectory() as folder:
        model, out, few = (pathlib.Path(folder, n) for n in ("stories", "out.cpd", "few.cpd"))
        stories.main(str(args.data / "lm"), str(model))

        def measure(path: pathlib.Path, **words) -> None:
            nbytes, values = coded(path)
            score = language_eval.evaluate(path, model, text[half:], length=256, sequences=16)
            put({"model": "stories260K", **words, "bits": round(8 * nbytes / values, 3),
                 **{k: round(score[k], 4) for k in ("kld", "top1", "perplexity")}})

        how = {"sequences": 32, "length": 256, "overwrite": True}
        for spec in ALONE:
            language_fit.compress(model, out, spec, text[:half], **how)
            measure(out, how="alone", spec=spec, share=None)
        for what, spec in [("stack", s) for s in STACKS] + [("together", STACKS[0])]:
            start = time.process_time()
            if what == "stack":
                language_stack.compress(model, out, spec, text[:half], **how)
            else:
                language_fit.compress(model, out, spec, text[:half], **how)
                language_stack.order(model, out, text[:half])
            seconds = time.process_time() - start
            with compand.open(out) as file:
                full = sum(stack.sizes(e)[-1] if stack.stacked(e) > 1 else 4 * int(np.prod(e.shape)) for e in file.values()
                           if e.kind == "array")
            for share in SHARES:
                stack.cut(out, few, int(share * full), overwrite=True)
                measure(few, how=what, spec=spec, share=share, cpu_s=round(seconds, 1))


def gemma(args, put) -> None:
    """Rows of Gemma-3-270M, rounded without text, run natively within each memory."""
    model = args.gemma
    text = lzma.open(args.data / "text" / "wikitext2-test.txt.xz", "rt").read()[:6000]
    original = load(model)
    ids = original.tokens(text)
    lines = [ids[:256], [ids[0], *ids[256:511]]]

    def said(opened) -> np.ndarray:
        found = []
        for line in lines:
            opened.reset()
            y = opened.logits(line, every=True)[::4]
            y = y - y.max(1, keepdims=True)
            found.append(y - np.log(np.exp(y).sum(1, keepdims=True)))
        return np.concatenate(found)

    wanted = said(original)
    weight = np.exp(wanted)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "gemma.cpd")
        for how, spec, shares in [*(("rounded, alone", s, ()) for s in GEMMA_ALONE), ("rounded, stack", GEMMA, (0.8, 0.7, 0.61))]:
            modality.pack(model, path, spec=spec, overwrite=True, check=False)
            whole = load(path).bytes
            for share in (1.0, *shares):
                opened = load(path, memory=int(share * whole) if shares else None)
                now = said(opened)
                put({"model": "gemma-3-270m", "how": how, "spec": spec, "share": share if shares else None,
                     "megabytes": round(opened.bytes / 1e6, 1), "bits": round(opened.bits, 3),
                     "kld": round(float((weight * (wanted - now)).sum(1).mean()), 4),
                     "top1": round(float((wanted.argmax(1) == now.argmax(1)).mean()), 4)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--gemma", type=pathlib.Path, help="a folder of Gemma-3-270M: its rows instead of those of stories260K")
    args, rows = parser.parse_args(), []

    def put(row: dict) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        keys = ("model", "how", "spec", "share", "text")
        mine = {tuple(r.get(k) for k in keys) for r in rows}
        record.save("stack", [r for r in record.rows("stack") if tuple(r.get(k) for k in keys) not in mine] + rows,
                    about="KLD in nats a token; bits of the codes of all matrices")

    (gemma if args.gemma else small)(args, put)
    print(record.table(rows))


if __name__ == "__main__":
    np.seterr(all="ignore")
    import torch

    torch.set_num_threads(1)
    main()
