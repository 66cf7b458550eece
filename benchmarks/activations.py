"""Weights and activations on few bits, as integer kernels compute: MiniLM-L6 by Spearman and cosine, stories260K by KL divergence.

    python benchmarks/activations.py MINILM STORIES DATA [--subjects stories minilm] [--rows NAME ...] [--every 40]

MINILM and STORIES are model folders (`stories.py` makes the second), DATA holds retrieval/, text/. Inputs are fitted to
text/train-brown.txt.xz and the first part of text/calib-tiny.txt.xz; measured on the STS sets of 2013-2016 (every n-th pair) and the last
part of calib-tiny. Rows "in a file" are written to a .cpd file and measured from it, with embeddings and head coded as weights are, and
every byte counted. What the JSON says of other rows and subjects is kept.
"""

from __future__ import annotations

import argparse
import json
import lzma
import pathlib
import tempfile

import numpy as np
import record
import torch
from encoders import pairs

from compand.integration import activation_file, encoder, language_eval
from compand.integration.activation_fit import quantize
from compand.integration.attention_codes import CodedAttention
from compand.integration.language import as_folder

KV = "int:4:sym=false"
ROWS = {  # name: (inputs, weights, places of the attention)
    "W8A8, a scale a token": ("int:8:search=absmax", "int:8", {}),
    "W8A8, a scale a tensor": ("int:8:per=tensor", "int:8", {}),
    "W8A8, a scale a tensor, smooth": ("smooth:0.5,int:8:per=tensor", "int:8", {}),
    "W4A8": ("int:8:search=absmax", "int:4", {}),
    "W4A4": ("int:4", "int:4", {}),
    "W4A4, smooth": ("smooth:0.5,int:4", "int:4", {}),
    "W4A4, rotated": ("hadamard,int:4", "int:4", {}),
    "W4A4, re-arranged groups": ("permute,int:4:group=32", "int:4:group=32", {}),
    "W8A4, a scale a tensor": ("int:4:per=tensor", "int:8", {}),
    "W8A4, a scale a tensor, channels' scales in the weights": ("scale:absmax:column,int:4:per=tensor", "int:8", {}),
    "W8A4, a scale a tensor, noisy": ("int:4:per=tensor:noise=1", "int:8", {}),
    "KV4": (None, None, {"keys": KV, "values": KV}),
    "KV4, rotated": (None, None, {"keys": f"hadamard,{KV}", "values": f"hadamard,{KV}"}),
    "softmax 4 bits": (None, None, {"probabilities": "int:4:per=tensor:sym=false"}),
    "softmax 4 bits, log √2": (None, None, {"probabilities": "compand:log-sqrt2,int:4:per=tensor:sym=false"}),
    "softmax 4 bits, tan": (None, None, {"probabilities": "compand:tan,int:4:per=tensor:sym=false"}),
    "W8A8, in a file": ("int:8:search=absmax", "int:8", {"file": ""}),
    "W4A8, in a file": ("int:8:search=absmax", "int:4", {"file": ""}),
    "W4A4, rotated, in a file": ("hadamard,int:4", "int:4", {"file": ""}),
    "W4A4KV4, rotated": ("hadamard,int:4", "int:4", {"keys": f"hadamard,{KV}", "values": f"hadamard,{KV}"}),
}


def text(path: pathlib.Path) -> str:
    return lzma.open(path, "rt", errors="replace").read()


def put(net, run, batches, inputs, weights, places) -> None:
    """Put a model on codes."""
    if inputs:
        quantize(net, run, batches, lambda name, m: (inputs, weights) if "lm_head" not in name else None)
    if places:
        CodedAttention(net, **places).fit(run, batches)


class Stories:
    """KL divergence of a small decoder."""

    def __init__(self, folder: pathlib.Path, data: pathlib.Path):
        from transformers import AutoTokenizer

        self.folder = folder
        words = text(data / "text/calib-tiny.txt.xz")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = [torch.tensor([1, *tokenizer(part, add_special_tokens=False)["input_ids"]]) for part in (words[:12000], words[-30000:])]
        self.batches, self.test = (list(x[:len(x) // 256 * 256].reshape(-1, 256).split(4)) for x in ids)
        self.before = self.logits(self.net())
        self.about = {"stories260K": f"{sum(x.numel() for x in self.test):,} tokens"}

    def net(self):
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    def logits(self, net):
        with torch.no_grad():
            return torch.cat([net(x, use_cache=False).logits.log_softmax(-1) for x in self.test])

    def row(self, settings) -> dict[str, float]:
        if "file" in settings[2]:
            with tempfile.TemporaryDirectory() as work:
                out = pathlib.Path(work, "model.cpd")
                result = activation_file.compress(self.folder, out, settings[1], torch.cat(self.batches), inputs=settings[0], length=256)
                found = language_eval.evaluate(out, self.folder, torch.cat(self.test), length=256, sequences=1000)
            return {"stories260K KLD": found["kld"], "stories260K bits": result["bits"]}
        net = self.net()
        put(net, lambda x: net(x, use_cache=False), self.batches, *settings)
        after = self.logits(net)
        return {"stories260K KLD": float((self.before.exp() * (self.before - after)).sum(-1).mean())}


class MiniLM:
    """Spearman and cosine of an encoder."""

    def __init__(self, folder: pathlib.Path, data: pathlib.Path, every: int):
        self.folder = folder
        self.sets = pairs(data / "retrieval/sts-semeval2012-2016+sick.tar.xz", every)
        self.texts = [t for rows in self.sets.values() for p in rows for t in p[1:3]]
        net, tokenizer = encoder.open_encoder(folder)
        self.words = text(data / "text/train-brown.txt.xz")
        words = encoder.sentences(self.words, 128)
        ids = sorted((tokenizer(s, truncation=True, max_length=64)["input_ids"] for s in words), key=len)
        self.batches = [torch.tensor([r[:len(ids[at]) - 1] + r[-1:] for r in ids[at:at + 32]]) for at in range(0, len(ids), 32)]
        self.before = encoder.embed(net, tokenizer, self.texts, length=128)
        self.base = self.spearman(self.before)
        self.about = {"MiniLM": f"{sum(map(len, self.sets.values())):,} pairs of sentences"}

    def spearman(self, x) -> float:
        """Over all pairs together: each set has few of them."""
        return 100 * encoder.spearman((x[::2] * x[1::2]).sum(axis=1), np.array([float(p[0]) for rows in self.sets.values() for p in rows]))

    def row(self, settings) -> dict[str, float]:
        bits = {}
        if "file" in settings[2]:
            with tempfile.TemporaryDirectory() as work:
                out = pathlib.Path(work, "model.cpd")
                result = activation_file.compress(self.folder, out, settings[1], self.words, inputs=settings[0], sequences=128, length=64)
                bits = {"MiniLM bits": result["bits"]}
                with as_folder(out) as folder:
                    after = encoder.embed(*encoder.open_encoder(folder, out), self.texts, length=128)
        else:
            net, tokenizer = encoder.open_encoder(self.folder)
            put(net, lambda x: net(input_ids=x), self.batches, *settings)
            after = encoder.embed(net, tokenizer, self.texts, length=128)
        return {**bits, "MiniLM Spearman": self.spearman(after), "points lost": self.base - self.spearman(after),
                "MiniLM 1 - cosine": float(1 - (after * self.before).sum(1).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minilm", type=pathlib.Path)
    parser.add_argument("stories", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--subjects", nargs="+", default=["stories", "minilm"], choices=["stories", "minilm"])
    parser.add_argument("--every", type=int, default=40)
    args = parser.parse_args()
    rows = {r["name"]: r for r in record.rows("activations")}
    about = json.loads((record.RESULTS / "activations.json").read_text())["measured"] if rows else {}
    for subject in args.subjects:
        tried = Stories(args.stories, args.data) if subject == "stories" else MiniLM(args.minilm, args.data, args.every)
        about |= tried.about
        for name in ("float32", *args.rows):
            inputs, weights, places = ROWS.get(name, (None, None, {}))
            attention = "; ".join(f"{place} {spec}" for place, spec in places.items() if place != "file") or "-"
            settings = {"name": name, "inputs": inputs or "-", "weights": weights or "-", "attention": attention}
            rows[name] = {**rows.get(name, {}), **settings, **tried.row((inputs, weights, places))}
            print(record.table([rows[name]]), flush=True)
            record.save("activations", sorted(rows.values(), key=lambda r: ["float32", *ROWS].index(r["name"])), measured=about)


if __name__ == "__main__":
    main()
