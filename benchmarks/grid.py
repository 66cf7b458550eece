"""Methods times bits on two models: what each does to the next-token distributions, everything counted but the embedding the same for all.

    python benchmarks/grid.py [--data DIR] [--only tuned] [--specs SPEC ...]      stories260K
    python benchmarks/grid.py --model FOLDER                                      what train_language.py made, whose rows are longer

Layers are coded by each method, embedding and head (one matrix) by EMBEDDING. Fitted to, and tuned by, the first half of a text of stories;
KL divergence is measured on the second half (the trained model: fitted to Wikipedia and C4 in turn, measured on another part of C4).
``bits`` are of the layers with scales, codebooks and all; ``free`` without codebooks, which a larger model would share among more weights.
A few minutes on one core.
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
import train_language

import compand
from compand import modality
from compand.integration import language_distil, language_eval, language_fit
from compand.integration.language import Language

EMBEDDING = "int:8:group=64"
VECTORS = [*(f"hadamard,vq:{k}" for k in ("256:dim=8", "256:dim=4", "64:dim=2", "16:dim=2")), "hadamard,vq:256:dim=8+vq:256:dim=8"]
FIT = [  # 1 to 8 bits
    *(f"int:{b}:group=64" for b in (2, 3, 4, 6, 8)), *(f"hadamard,int:{b}:mid=true" for b in (2, 3)),
    *(f"hadamard,int:{b}" for b in (4, 6, 8)), "hadamard,sign", "hadamard,sign+sign", "hadamard,sign+sign+sign",
    *(f"hadamard,table:gauss{b}" for b in (2, 3, 4)), *VECTORS,
    *(f"hadamard,trellis:{b}:memory=12" for b in (1, 2, 3, 4)),
    *(f"hadamard,trellis:{b}:memory=14:factors=2" for b in (1, 2, 3, 4)), "hadamard,table:gauss5", "hadamard,int:7",
    *(f"hadamard,(trellis:4:memory=14:factors=2+trellis:{b}:memory=14:factors=2)" for b in (1, 2)),
]
FIT += ["lowrank:4+int:3:group=64", "(int:3:group=64)+lowrank:4", "(hadamard,trellis:2:memory=12)+lowrank:4",  # SVDQuant, EoRA
        "sparse:0.1+sign:group=64", "sparse:0.01+int:3:group=16", "ternary", "hadamard,ternary",  # PB-LLM, SpQR
        "hadamard,sign:complex=true", "hadamard,sign:complex=true+sign:complex=true", "hadamard,nested:2x4", "nested:2x4x8"]
ORDERED = [*(f"int:{b}:group=64" for b in (2, 3, 4)), "hadamard,int:3"]
DATA_FREE = ["nested:2x4x8",
             "int:2:group=64:sym=false:search=hqq", "int:3:group=64:sym=false:search=hqq", "int:4:group=64:sym=false:search=hqq",
             "int:3:group=64", "int:4:group=64", "hadamard,trellis:2:memory=12", "hadamard,trellis:3:memory=12"]
TUNED = [*(f"hadamard,trellis:{b}:memory=12" for b in (1, 2, 3, 4)), *(f"int:{b}:group=64" for b in (2, 3, 4))]
SWEPT = [*(f"hadamard,trellis:{b}:memory=14:factors=2" for b in (1, 2, 3, 4)), *(f"int:{b}:group=64" for b in (2, 3, 4)),
         *(f"hadamard,table:gauss{b}" for b in (2, 3, 4)), "hadamard,sign", "hadamard,sign+sign",
         *VECTORS]
KRONECKER = [f"hadamard,trellis:{b}:memory=12" for b in (1, 2, 3, 4)]
ATTENTION = ["hadamard,trellis:2:memory=12", "hadamard,trellis:3:memory=12", "int:3:group=64"]
LONGER = [f"hadamard,trellis:{b}:memory=14:factors=2" for b in (1, 2, 3, 4)]
PYRAMID = ["hadamard,pyramid:8:dim=16", "hadamard,pyramid:19:dim=16", "hadamard,pyramid:40:dim=16"]  # 2.05, 3.03, 3.99 bits
LATTICE = ["hadamard,lattice:e8:bits=1", "hadamard,lattice:e8", "hadamard,lattice:e8:bits=3", "hadamard,lattice:e8:bits=4"]
TRAINED = {  # of the model that train_language.py makes
    "rounded": ["int:3:group=64", "int:4:group=64", "hadamard,trellis:3:memory=12"],
    "fit": [*(f"int:{b}:group=64" for b in (2, 3, 4, 6, 8)), *(f"hadamard,int:{b}" for b in (2, 3, 4)),
            *(f"hadamard,table:gauss{b}" for b in (2, 3, 4)), "hadamard,sign", "hadamard,sign+sign", "hadamard,sign+sign+sign",
            *LATTICE, "hadamard,vq:256:dim=8", "hadamard,vq:256:dim=4", "hadamard,vq:64:dim=2", "hadamard,vq:256:dim=2", *PYRAMID,
            *(f"hadamard,scale:rms:per=row,vq:{k}:dim={dim}" for k, dim in ((256, 4), (64, 2), (256, 2))),
            *(f"hadamard,trellis:{b}:memory=12" for b in (1, 2, 3, 4)),
            *(f"hadamard,trellis:{b}:memory=14:factors=2" for b in (1, 2, 3, 4))],
    "tuned, low": [*(f"hadamard,trellis:{b}:memory=12" for b in (2, 3, 4)), *(f"int:{b}:group=64" for b in (2, 3, 4))]}


class Subject:
    """A model, the text that methods are fitted to, and what it is measured with."""

    def __init__(self, data: pathlib.Path, model: pathlib.Path | None, room: pathlib.Path):
        self.words = {"subject": f"trained, {sum(i.size for i in modality.detect(model).items()) / 1e6:.1f} M"} if model else {}
        if model:
            self.model, (self.calibration, tests) = model, train_language.apart(data / "text")
            self.test = tests["C4"]
        else:
            self.model, text = room / "stories", lzma.open(data / "text" / "calib-tiny.txt.xz", "rt").read()
            stories.main(str(data / "lm"), str(self.model))
            self.calibration, self.test = text[:len(text) // 2], text[len(text) // 2:]

    def measured(self, path: pathlib.Path) -> dict:
        """What is left of the model."""
        found = language_eval.evaluate(path, self.model, self.test, length=256, sequences=16)
        return {k: round(found[k], 4 if found[k] > 0.05 else 5) for k in ("kld", "kld_99", "top1", "perplexity", "perplexity_reference")} \
            | {"file bits": round(found["bits"], 3)}


def save(rows: list[dict]) -> None:
    """Put the rows in the place of older ones of the same subject, way and spec."""
    def key(r: dict) -> tuple:
        return r.get("subject"), r["how"], r["spec"]

    mine = {key(r) for r in rows}
    record.save("grid", [r for r in record.rows("grid") if key(r) not in mine] + rows, embedding=EMBEDDING,
                about="stories260K, and where it is said, a trained model; KLD in nats a token of 16 x 255")


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
                                           "fit, kronecker", "fit, attention", "tuned", "tuned, low, kronecker"),
                        help="one way; other rows stay as they are")
    parser.add_argument("--specs", nargs="+", default=[], help="these only, as well")
    parser.add_argument("--model", type=pathlib.Path, help="a folder made by train_language.py; by default stories260K")
    args = parser.parse_args()
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        subject, out = Subject(args.data, args.model, pathlib.Path(folder)), pathlib.Path(folder, "out.cpd")
        todo = TRAINED if args.model else {
            "rounded": DATA_FREE, "fit": FIT + LATTICE + PYRAMID, "fit, 2 sweeps": SWEPT, "fit, act-order": ORDERED,
            "fit, kronecker": KRONECKER, "fit, attention": ATTENTION, "tuned, low": TUNED, "tuned, medium": LONGER,
            "tuned, low, kronecker": KRONECKER}
        for how, spec in [(how, spec) for how, specs in todo.items() if how.startswith(args.only or "") for spec in specs
                          if not args.specs or spec in args.specs]:
            start, fit = time.process_time(), next((f for f in ("kronecker", "attention") if f in how), "layer")
            model, text = subject.model, subject.calibration
            if how == "rounded":
                rounded(model, out, spec)
            elif how.startswith("fit"):
                language_fit.compress(model, out, spec, text, embedding=EMBEDDING, sequences=32, length=256, overwrite=True,
                                      sweeps=2 if "sweeps" in how else 0, order="activity" if "order" in how else "natural", fit=fit)
            else:
                language_distil.compress(model, out, spec, text, embedding=EMBEDDING, effort=how.split(", ")[1], fit=fit, overwrite=True)
            seconds = time.process_time() - start
            bits, free = sizes(out)
            found = subject.measured(out)
            rows.append({**subject.words, "how": how, "spec": spec, "bits": round(bits, 3), "free": round(free, 3), **found,
                         "cpu_s": round(seconds, 1)})
            print(json.dumps(rows[-1]), flush=True)
            save(rows)
    print(record.table(sorted(rows, key=lambda r: (round(r["free"]), r["kld"]))))


if __name__ == "__main__":
    np.seterr(all="ignore")
    import torch

    torch.set_num_threads(1)
    main()
