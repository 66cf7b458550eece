"""What a model loses where its user has no text: grids with each search of the scale, and codes fitted to text that the model wrote itself.

    python benchmarks/stories.py ../shared/data/lm STORIES
    python benchmarks/datafree.py STORIES [--text FILE]

Every row is the whole model, embedding and head included, as `compand compress` writes it and `compand eval` measures it: KL divergence of
next-token distributions from the original's, in nats a token, on the second half of --text; its first half is what codes fitted
to text have seen. Self-written text is the mean of --seeds seeds.
"""

from __future__ import annotations

import argparse
import lzma
import pathlib
import tempfile
import time

import numpy as np
import record

from compand.integration import language_eval, language_fit
from compand.integration.language_generate import generate
from compand.modality import pack

KEYS = ("kld", "kld_99", "top1", "perplexity")
GRIDS = ("int:2:group=64:sym=false", "int:3:group=64:sym=false", "int:4:group=64:sym=false", "int:3:group=64", "int:4:group=64")
FITTED = ("int:3:group=64", "hadamard,trellis:2:memory=14", "hadamard,trellis:3:memory=14")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", default="../shared/data/text/calib-tiny.txt.xz", help="first half fitted to, second measured on")
    parser.add_argument("--tests", type=int, default=8, help="sequences of 512 tokens to measure on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--name", default="datafree")
    args = parser.parse_args()
    words = lzma.decompress(pathlib.Path(args.text).read_bytes()).decode("utf-8", "replace")
    seen, test = words[:len(words) // 2], words[len(words) // 2:]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "m.cpd")

        def plain(spec: str) -> None:
            pack(args.model, out, spec=lambda name, shape, dtype: spec if len(shape) == 2 else None, overwrite=True)

        def measured(**row) -> None:
            got = language_eval.evaluate(out, args.model, test, sequences=args.tests)
            rows.append({**row, "bits": round(got["bits"], 3), **{k: round(got[k], 4) for k in KEYS}})
            print(rows[-1], flush=True)

        for spec in GRIDS:
            for search in ("absmax", "mse", "hqq"):
                start = time.process_time()
                plain(f"{spec}:search={search}")
                measured(spec=f"{spec}:search={search}", fitted_to="nothing", cpu_s=round(time.process_time() - start, 2))
        own = [generate(args.model, seed=seed) for seed in range(args.seeds)]
        for spec in FITTED:
            if "trellis" in spec:
                plain(spec)
                measured(spec=spec, fitted_to="nothing")
            for name, text in (("its own text", own), ("text", [seen])):
                each = len(rows)
                for one in text:
                    language_fit.compress(args.model, out, spec, one, sequences=16, overwrite=True)
                    measured(spec=spec, fitted_to=f"{name}, 16 x 512 tokens")
                if len(text) > 1:
                    found = rows[each:]
                    rows[each:] = [{**found[0], "seeds": len(found), "kld_each": [r["kld"] for r in found],
                                    **{k: round(float(np.mean([r[k] for r in found])), 4) for k in KEYS}}]
    record.save(args.name, rows, subject=pathlib.Path(args.model).resolve().name, tokens_test=args.tests * 511)
    print(record.table(rows))


if __name__ == "__main__":
    main()
