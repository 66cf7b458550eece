"""What each phase of fitting is worth on stories260K: layers fitted, layers tuned one by one, the whole tuned, codes moved by gradients.

    python benchmarks/phases.py [--data DIR] [--specs SPEC ...] [--only 'fit;blocks'] [--planned 3.29]

Fitted to, and tuned by, the first half of a text of stories; KL divergence on the second half; embedding and head in EMBEDDING.
``blocks``: `language_blocks`; ``low``, ``medium``: `language_distil` of that effort; ``moved``: two rounds of `language_codes` after
medium; ``steps``: as many steps on scales and norms without moving codes. ``held back`` is the loss before and after of the sequences
of the first half that judge. ``--planned``: bits of all weights shared, tried (15 generations) and tuned as `compand compress --effort
high` does it, embedding too.
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

from compand.integration import language_codes, language_distil, language_eval, language_fit, language_plan, language_tune

EMBEDDING = "int:8:group=64"
SPECS = ("hadamard,trellis:2:memory=12", "hadamard,trellis:3:memory=12")
WAYS = ("medium", "moved", "steps", "fit", "blocks", "low", "low, blocks", "medium, blocks")
ROUNDS, STEPS, GENERATIONS = 2, 48, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--specs", nargs="*", default=list(SPECS))
    parser.add_argument("--only", default=";".join(WAYS), help="of these, apart by semicolons")
    parser.add_argument("--planned", type=float, help="so many bits of all weights, with --effort high")
    args = parser.parse_args()
    text = lzma.open(args.data / "text" / "calib-tiny.txt.xz", "rt").read()
    cut, rows = len(text) // 2, []
    ways = args.only.split(";") if args.only else []
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder, "stories")
        stories.main(str(args.data / "lm"), str(model))

        def tuned(spec, out, effort: str, **more) -> dict:
            return language_distil.compress(model, out, spec, text[:cut], effort=effort, overwrite=True, **more)

        def made(spec: str, way: str) -> tuple[pathlib.Path, dict]:
            out, before = (pathlib.Path(folder, f"{SPECS.index(spec) if spec in SPECS else spec}-{w}.cpd") for w in (way, "medium"))
            if way in ("moved", "steps") and not before.exists():
                tuned(spec, before, "medium", embedding=EMBEDDING)
            if way == "moved":
                found = language_codes.tune(model, before, out, text[:cut], rounds=ROUNDS, steps=STEPS, overwrite=True)
                return out, {"held back": [round(found["losses"][0], 4), round(found["losses"][-1], 4)],
                             "losses": [round(x, 4) for x in found["losses"]], "moved": [round(x, 4) for x in found["moved"]]}
            if way == "steps":
                language_tune.tune(model, before, out, text[:cut], steps=ROUNDS * STEPS, overwrite=True)
            elif way in ("fit", "blocks"):
                language_fit.compress(model, out, spec, text[:cut], embedding=EMBEDDING, sequences=64, length=256, overwrite=True,
                                      blocks="low" if way == "blocks" else None)
            else:
                tuned(spec, out, way.partition(",")[0], embedding=EMBEDDING, blocks=way.endswith("blocks"))
            return out, {}

        def planned() -> tuple[pathlib.Path, dict]:
            out = pathlib.Path(folder, "planned.cpd")
            plan = language_plan.plan(model, args.planned, text[:cut], effort="high", generations=GENERATIONS)
            tuned(plan.spec, out, "high")
            return out, {"expected": round(plan.kld, 4), "embedding": plan.specs["model.embed_tokens.weight"]}

        todo = [(spec, way) for spec in args.specs for way in ways] + ([(f"planned {args.planned}", "high, tried")] if args.planned else [])
        for spec, way in todo:
            start = time.process_time()
            out, more = planned() if way == "high, tried" else made(spec, way)
            seconds = time.process_time() - start
            score = language_eval.evaluate(out, model, text[cut:], length=256, sequences=16)
            rows.append({"spec": spec, "how": way, "file bits": round(score["bits"], 3), "kld": round(score["kld"], 4),
                         "top1": round(score["top1"], 4), "perplexity": round(score["perplexity"], 3), "cpu_s": round(seconds, 1), **more})
            print(json.dumps(rows[-1]), flush=True)
            mine = {(r["spec"], r["how"]) for r in rows}
            record.save("phases", [r for r in record.rows("phases") if (r["spec"], r["how"]) not in mine] + rows,
                        about="stories260K; KLD in nats a token of 16 x 255")
    print(record.table(rows))


if __name__ == "__main__":
    np.seterr(all="ignore")
    import torch

    torch.set_num_threads(1)
    main()
