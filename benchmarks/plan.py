"""Bits shared among the weights of stories260K against the same bits for all, at the same bytes: what planning and trying are worth.

    python benchmarks/plan.py [--data DIR] [--bits 2,3,4] [--generations 0,40] [--ways kl,fisher,rows]        # --ways uniform: no plans

Uniform: `hadamard,trellis:B` for every layer and the embedding. Planned: `compand.integration.language_plan` at the bytes that uniform
codes take, by the divergence that noise causes, or by gradients (Fisher information, relevance); with generations, bettered by
`language_evolve`; with rows, the outputs of layers that the model minds most may get more bits than the others (``salient``: in how many
weights). ``expected`` is what was said before anything was coded, ``sum`` the same without what weights do to each other.
All are fitted to, and planned by, the first half of a text of stories, and measured on the second. Rows are merged into plan.json.
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
from compand.integration import language_eval, language_expect, language_fit, language_plan
from compand.integration.language import Language


def stored(path: pathlib.Path) -> int:
    """Bytes of the codes of all weights."""
    with compand.open(path) as file:
        return sum(file[n].codes().nbytes for n in file.names if file[n].kind == "array")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--bits", default="2,3,4")
    parser.add_argument("--generations", default="0,40")
    parser.add_argument("--ways", default="kl,fisher,relevance,rows,fisher-rows")
    args = parser.parse_args()
    text = lzma.open(args.data / "text" / "calib-tiny.txt.xz", "rt").read()
    cut, rows = len(text) // 2, []
    with tempfile.TemporaryDirectory() as folder:
        model, out = pathlib.Path(folder, "stories"), pathlib.Path(folder, "out.cpd")
        stories.main(str(args.data / "lm"), str(model))
        values = sum(i.size for i in Language(model).items.values())
        for b in map(int, args.bits.split(",")):
            spec, most = f"hadamard,trellis:{b}:memory=12", 0
            ways = [("uniform", "", 0), *(("planned", "kl", int(g)) for g in args.generations.split(",") if "kl" in args.ways),
                    *(("planned", way, 0) for way in args.ways.split(",") if way not in ("kl", "uniform"))]
            for what, way, generations in ways:
                how = what if what == "uniform" else f"planned, {generations} generations" if way == "kl" else f"planned by {way}"
                how = how.replace("by rows", "with rows").replace("-rows", ", with rows")
                start, plan, expected = time.process_time(), None, None
                if what != "uniform":
                    plan = language_plan.plan(model, 8 * most / values, text[:cut], effort="low", generations=generations,
                                              rows="rows" in way, sensitivity="kl" if way == "rows" else way.removesuffix("-rows"))
                else:
                    expected = language_expect.expected(model, spec, text[:cut])
                language_fit.compress(model, out, plan.spec if plan else spec, text[:cut], sequences=32, length=256, overwrite=True)
                seconds = time.process_time() - start
                most = most or stored(out)
                score = language_eval.evaluate(out, model, text[cut:], length=256, sequences=16)
                rows.append({"bits": b, "how": how, "stored bits": round(8 * stored(out) / values, 3),
                             "salient": plan and sum("salient" in s for n, s in plan.specs.items() if "layers." in n),
                             "expected": round(plan.kld if plan else expected, 4), "sum": plan and round(plan.kld / plan.factor, 4),
                             **{k: round(score[k], 4) for k in ("kld", "top1", "perplexity")}, "cpu_s": round(seconds, 1),
                             "embedding": plan.specs["model.embed_tokens.weight"] if plan else spec})
                print(json.dumps(rows[-1]), flush=True)
                mine = {(r["bits"], r["how"]) for r in rows}
                kept = [r for r in record.rows("plan") if (r["bits"], r["how"]) not in mine]
                record.save("plan", kept + rows, about="stories260K; KLD in nats a token of 16 x 255; stored bits of all weights")
    print(record.table(rows))


if __name__ == "__main__":
    np.seterr(all="ignore")
    import torch

    torch.set_num_threads(1)
    main()
