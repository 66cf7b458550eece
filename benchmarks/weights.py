"""Weights of a language model at 1 to 4 bits: what each method does to the next-token distributions of the model.

    python benchmarks/weights.py MODEL [--text FILE --calib FILE] [--only SPEC]
    python benchmarks/stories.py ../shared/data/lm STORIES
    python benchmarks/weights.py STORIES --name weights-stories --tests 16 [--text FILE --calib FILE]

MODEL is a Hugging Face folder of a decoder model. Every linear layer is coded by each method; embedding and head (one matrix, 63 % of
the parameters) by EMBEDDING, the same for all, so that rows differ in the body only. Hessians are gathered once, from the
original model.
`bits` are of the body with scales and state; `kld` is KL(original || coded) in nats a token on held-out text. Numbers of llama.cpp types
(Gemma 3 270M requantized with an importance matrix, on WikiText-2 test) are in LLAMA_CPP with their bits, the embedding at 8.5 bits.
"""

from __future__ import annotations

import argparse
import lzma
import pathlib
import time

import numpy as np
import record

import compand
from compand.fit import feedback
from compand.integration.language import Language
from compand.integration.language_eval import CHUNK
from compand.integration.language_fit import gather

EMBEDDING = "hadamard,int:4:group=64"
LLAMA_CPP = {"Q2_K": (2.625, 0.235), "IQ3_XXS": (3.0625, 0.164), "IQ2_XXS": (2.0625, 0.640)}  # bits, KLD
METHODS = [  # spec, second order
    ("hadamard,trellis:3", True), ("int:3:group=64", True), ("hadamard,trellis:2", True), ("int:3:group=64", False),
    ("hadamard,trellis:4", True), ("hadamard,trellis:3", False), ("hadamard,lattice:e8:group=64", True), ("int:4:group=64", True),
    ("hadamard,vq:256:dim=4", True), ("hadamard,int:2:mid=true", True), ("int:2:group=64", True), ("hadamard,table:gauss3", True),
    ("hadamard,trellis:2", False), ("hadamard,trellis:4", False), ("int:4:group=64", False), ("int:2:group=64", False),
    ("hadamard,trellis:2:factors=2", True), ("hadamard,trellis:3:factors=2", True), ("hadamard,trellis:4:factors=2", True),
    ("hadamard,trellis:1", True),
]


def read(path: str) -> str:
    data = pathlib.Path(path).read_bytes()
    return (lzma.decompress(data) if path.endswith(".xz") else data).decode("utf-8", "replace")


class Study:
    """The original's hidden states on the test text, its Hessians, and the coded embedding."""

    def __init__(self, args):
        import torch

        self.torch = torch
        torch.set_grad_enabled(False)
        self.model = language = Language(args.model)
        language.load(language.embedding)
        language.load(language.body.norm)
        for layer in language.layers:
            language.load(layer)
        self.calib = language.tokens(read(args.calib), 512, args.sequences)
        self.test = language.tokens(read(args.text), 512, args.tests)
        arguments = language.arguments(self.test[:1])
        self.arguments = arguments
        start = time.perf_counter()
        self.hessians = {}
        hidden = [language.embedding(row[None]) for row in self.calib]
        for layer, more in zip(language.layers, arguments, strict=True):
            self.hessians |= {n: h.matrix.astype(np.float32) for n, h in gather(layer, hidden, more, language.names[id(layer)]).items()}
            hidden = [layer(h, **more) for h in hidden]
        self.seconds = time.perf_counter() - start
        language.head.weight = language.embedding.weight
        self.reference = [language.logits(h).log_softmax(-1) for h in self._hidden()]
        name = f"{language.names[id(language.embedding)]}.weight"
        codes = compand.Codec(EMBEDDING).encode(language.weight(name))
        self.embedding_bits = 8 * codes.nbytes / codes.size
        self.original = language.embedding.weight
        self.coded = torch.nn.Parameter(torch.from_numpy(codes.codec.decode(codes)), requires_grad=False)
        self.weights = {n: language.weight(f"{n}.weight") for n in self.hessians}

    def _hidden(self):
        language = self.model
        hidden = [language.embedding(row[None]) for row in self.test]
        for layer, more in zip(language.layers, self.arguments, strict=True):
            hidden = [layer(h, **more) for h in hidden]
        return [language.body.norm(h)[0] for h in hidden]

    def run(self, spec: str | None, second: bool) -> dict:
        """Code the body, measure; None measures the coded embedding alone."""
        language, torch, start = self.model, self.torch, time.perf_counter()
        nbytes = values = 0
        modules = dict(language.model.named_modules())
        for name, w in self.weights.items():
            y = w
            if spec is not None:
                codec = compand.Codec(spec)
                codes = feedback.encode(codec, w, self.hessians[name], damping=0.02) if second else codec.fit(w).encode(w)
                y = codes.codec.decode(codes)
                nbytes += codes.nbytes + codes.codec.nbytes
            values += w.size
            modules[name].weight.copy_(torch.from_numpy(np.ascontiguousarray(y)))
        seconds = time.perf_counter() - start
        language.embedding.weight = self.coded
        hidden = self._hidden()
        language.embedding.weight = self.original
        kld, same, loss = [], [], []
        language.head.weight = self.coded
        for row, reference, h in zip(self.test, self.reference, hidden, strict=True):
            for at in range(0, len(row) - 1, CHUNK):
                to = min(at + CHUNK, len(row) - 1)
                p, q = reference[at:to], language.logits(h[at:to]).log_softmax(-1)
                kld.append((p.exp() * (p - q)).sum(-1).numpy())
                same.append((p.argmax(-1) == q.argmax(-1)).numpy())
                loss.append(np.stack([-x.gather(1, row[at + 1:to + 1, None])[:, 0].numpy() for x in (p, q)]))
        language.head.weight = self.original
        ppl = np.exp(np.concatenate(loss, axis=1).astype(np.float64).mean(1))
        each = np.concatenate(kld).astype(np.float64)
        return {"spec": spec or "original body", "second_order": second, "bits": round(8 * nbytes / values, 3) or 32,
                "kld": round(float(each.mean()), 4), "kld_99": round(float(np.quantile(each, 0.99)), 3),
                "perplexity": round(float(ppl[1]), 3), "perplexity_original": round(float(ppl[0]), 3),
                "top1": round(float(np.concatenate(same).mean()), 4), "encode_s": round(seconds, 1)}


def main() -> None:
    data = "../shared/data/text/"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", default=data + "wikitext2-test.txt.xz")
    parser.add_argument("--calib", default=data + "calib-wiki.txt.xz")
    parser.add_argument("--sequences", type=int, default=32, help="of 512 tokens, for the Hessians")
    parser.add_argument("--tests", type=int, default=2, help="sequences of 512 tokens to measure on")
    parser.add_argument("--skip", type=int, default=0, help="methods to leave out, from the first")
    parser.add_argument("--only", help="one spec")
    parser.add_argument("--name", default="weights", help="of the JSON file")
    parser.add_argument("--memory", type=int, default=14, help="of trellises")
    args = parser.parse_args()
    study = Study(args)
    print(f"Hessians of {args.sequences * 512} tokens in {study.seconds:.0f} s", flush=True)
    rows = []
    for spec, second in [*METHODS[args.skip:], (None, False)] if not args.only else [(args.only, True)]:
        spec = spec.replace(":factors", f":memory={args.memory}:factors") if spec and "trellis" in spec and ":factors" in spec else \
            f"{spec}:memory={args.memory}" if spec and "trellis" in spec and "memory" not in spec else spec
        rows.append(study.run(spec, second))
        print(rows[-1], flush=True)
        if not args.only:
            record.save(args.name, rows, embedding=EMBEDDING, embedding_bits=study.embedding_bits, tokens_calibration=args.sequences * 512,
                        tokens_test=args.tests * 511, llama_cpp=LLAMA_CPP)
    print(record.table(rows))


if __name__ == "__main__":
    main()
