"""Methods times bits on stories260K: what each does to the next-token distributions, everything counted but the embedding the same for all.

    python benchmarks/grid.py [--data DIR] [--only tuned] [--specs SPEC ...]

Layers are coded by each method, embedding and head (one matrix) by EMBEDDING. Fitted to, and tuned by, the first half of a text of stories;
KL divergence is measured on the second half. ``bits`` are of the layers with scales, codebooks and all; ``free`` without codebooks, which a
larger model would share among more weights. A few minutes on one core.
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
from compand.integration import language_distil, language_eval, language_fit
from compand.integration.language import Language

EMBEDDING = "int:8:group=64"
FIT = [  # 1 to 8 bits
    *(f"int:{b}:group=64" for b in (2, 3, 4, 6, 8)), *(f"hadamard,int:{b}:mid=true" for b in (2, 3)),
    *(f"hadamard,int:{b}" for b in (4, 6, 8)), "hadamard,sign", "hadamard,sign+sign", "hadamard,sign+sign+sign",
    *(f"hadamard,table:gauss{b}" for b in (2, 3, 4)), "hadamard,lattice:e8:group=64", "hadamard,vq:256:dim=8", "hadamard,vq:256:dim=4",
    "hadamard,vq:64:dim=2", *(f"hadamard,trellis:{b}:memory=12" for b in (1, 2, 3, 4)),
    *(f"hadamard,trellis:{b}:memory=14:factors=2" for b in (1, 2, 3, 4)), "hadamard,table:gauss5", "hadamard,int:7",
    *(f"hadamard,(trellis:4:memory=14:factors=2+trellis:{b}:memory=14:factors=2)" for b in (1, 2)),
]
FIT += ["lowrank:4+int:3:group=64", "(int:3:group=64)+lowrank:4", "(hadamard,trellis:2:memory=12)+lowrank:4",  # SVDQuant, EoRA
        "sparse:0.1+sign:group=64", "sparse:0.01+int:3:group=16", "ternary", "hadamard,ternary"]  # PB-LLM, SpQR
ORDERED = [*(f"int:{b}:group=64" for b in (2, 3, 4)), "hadamard,int:3"]
DATA_FREE = ["nested:2x4x8",
             "int:2:group=64:sym=false:search=hqq", "int:3:group=64:sym=false:search=hqq", "int:4:group=64:sym=false:search=hqq",
             "int:3:group=64", "int:4:group=64", "hadamard,trellis:2:memory=12", "hadamard,trellis:3:memory=12"]
TUNED = [*(f"hadamard,trellis:{b}:memory=12" for b in (1, 2, 3, 4)), *(f"int:{b}:group=64" for b in (2, 3, 4))]
SWEPT = [*(f"hadamard,trellis:{b}:memory=14:factors=2" for b in (1, 2, 3, 4)), *(f"int:{b}:group=64" for b in (2, 3, 4)),
         *(f"hadamard,table:gauss{b}" for b in (2, 3, 4)), "hadamard,sign", "hadamard,sign+sign"]
KRONECKER = [f"hadamard,trellis:{b}:memory=12" for b in (1, 2, 3, 4)]
LONGER = [f"hadamard,trellis:{b}:memory=14:factors=2" for b in (1, 2, 3, 4)]


def rounded(model: pathlib.Path, out: pathlib.Path, spec: str) -> None:
    """Every layer by itself, fitted to nothing."""
    language = Language(model)

    def choose(name: str, shape, kind):
        return compand.Codec(EMBEDDING if "embed" in name else spec) if len(shape) == 2 else None

    modality.pack(language.source, out, spec=choose, overwrite=True, check=False)
    language.close()


def sizes(path: pathlib.Path) -> tuple[float, float]:
    """Bits of a weight of the layers, with and without fitted state."""
    total = values = state = 0
    with compand.open(path) as file:
        for name in file.names:
            if name.endswith("proj.weight"):
                codes = file[name].codes()
                total, state, values = total + codes.nbytes, state + codes.codec.nbytes, values + codes.size
    return 8 * (total + state) / values, 8 * total / values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--only", choices=("rounded", "fit", "fit, 2 sweeps", "fit, act-order",
                                           "fit, kronecker", "tuned", "tuned, low, kronecker"),
                        help="one way; other rows stay as they are")
    parser.add_argument("--specs", nargs="+", default=[], help="these only, as well")
    args = parser.parse_args()
    text = lzma.open(args.data / "text" / "calib-tiny.txt.xz", "rt").read()
    cut, rows = len(text) // 2, []
    with tempfile.TemporaryDirectory() as folder:
        model, out = pathlib.Path(folder, "stories"), pathlib.Path(folder, "out.cpd")
        stories.main(str(args.data / "lm"), str(model))
        todo = {"rounded": DATA_FREE, "fit": FIT, "fit, 2 sweeps": SWEPT, "fit, act-order": ORDERED,
                "fit, kronecker": KRONECKER, "tuned, low": TUNED, "tuned, medium": LONGER, "tuned, low, kronecker": KRONECKER}
        for how, spec in [(how, spec) for how, specs in todo.items() if how.startswith(args.only or "") for spec in specs
                          if not args.specs or spec in args.specs]:
            start, fit = time.process_time(), "kronecker" if "kronecker" in how else "layer"
            if how == "rounded":
                rounded(model, out, spec)
            elif how.startswith("fit"):
                language_fit.compress(model, out, spec, text[:cut], embedding=EMBEDDING, sequences=32, length=256, overwrite=True,
                                      sweeps=2 if "sweeps" in how else 0, order="activity" if "order" in how else "natural", fit=fit)
            else:
                language_distil.compress(model, out, spec, text[:cut], embedding=EMBEDDING, effort=how.split(", ")[1], fit=fit,
                                         overwrite=True)
            seconds = time.process_time() - start
            bits, free = sizes(out)
            found = language_eval.evaluate(out, model, text[cut:], length=256, sequences=16)
            rows.append({"how": how, "spec": spec, "bits": round(bits, 3), "free": round(free, 3), "file bits": round(found["bits"], 3),
                         **{k: round(found[k], 4) for k in ("kld", "kld_99", "top1", "perplexity", "perplexity_reference")},
                         "cpu_s": round(seconds, 1)})
            print(json.dumps(rows[-1]), flush=True)
    ways = [args.only] if args.only else ["rounded", "fit", "tuned"]  # rows of other programs stay (grid_peers.py)
    mine = {(r["how"], r["spec"]) for r in rows}
    kept = [r for r in record.rows("grid") if not r["how"].startswith(tuple(ways)) or (args.specs and (r["how"], r["spec"]) not in mine)]
    rows = kept + rows
    record.save("grid", rows, embedding=EMBEDDING, about="stories260K; KLD in nats a token of 16 x 255")
    print(record.table(sorted(rows, key=lambda r: (round(r["free"]), r["kld"]))))


if __name__ == "__main__":
    np.seterr(all="ignore")
    import torch

    torch.set_num_threads(1)
    main()
