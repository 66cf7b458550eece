"""Claim: training through the quantizer keeps accuracy at 1 and 2 bits where rounding afterwards does not.

A small network on 20,000 handwritten digits (MNIST; 784-64-64-10) or on 10,000 CIFAR pictures (three convolutions), all weights
quantized, the same schedule for all: fp32, rounded afterwards, naive straight-through with the scale of the largest
magnitude, LSQ, QuEST (Hadamard, least-squares scale, trust), BitNet b1.58 (mean and median scale, 8-bit inputs) and double
rounding (one set of weights for all bits). Accuracy on the 10,000 (2,000) test pictures, median of several seeds.

    python benchmarks/qat.py [mnist cifar] [--data DIR] [--seeds 3] [--epochs 3] [--bits 1 2 3 4]
"""

from __future__ import annotations

import argparse
import io
import os
import pathlib
import time
import zipfile

import numpy as np
import torch
from record import rows as saved
from record import save, table
from torch import nn

from compand.torch import QueryKey, Recipe, convert, prepare, switch

STRAIGHT = Recipe(estimator="straight", update="gradient", commit=0.0, codebook=0.0)
LSQ = Recipe(estimator="lsq", update="gradient", commit=0.0, codebook=0.0)
TRUST = Recipe(estimator="trust", update="gradient", commit=0.0, codebook=0.0)
ALL = Recipe(estimator="straight", update="gradient", commit=0.0, codebook=0.0, prefix=True)


def mnist(root: pathlib.Path):
    with np.load(root / "vision" / "mnist-20k-10k.npz") as f:
        return [torch.from_numpy(np.array(f[f"{part}_{split}"])) for split in ("train", "test") for part in ("x", "y")]


def cifar(root: pathlib.Path):
    from PIL import Image

    found: dict[str, list] = {"train": [], "test": []}
    with zipfile.ZipFile(root / "vision" / "cifar10-jpeg-12k.zip") as z:
        names = [n for n in z.namelist() if n.endswith(".jpg")]
        classes = sorted({n.split("/")[-2] for n in names})
        for name in names:
            split, label = name.split("/")[-3:-1]
            found[split].append((np.asarray(Image.open(io.BytesIO(z.read(name)))), classes.index(label)))
    return [torch.from_numpy(np.stack([row[i] for row in found[split]])) for split in ("train", "test") for i in (0, 1)]


class Attention(nn.Module):
    """One layer of attention, of two heads, over the 28 rows of a digit."""

    heads, width = 2, 16

    def __init__(self):
        super().__init__()
        d = self.heads * self.width
        self.embed, self.place = nn.Linear(28, d), nn.Parameter(0.1 * torch.randn(28, d))
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))
        self.head = nn.Linear(d, 10)

    def joined(self, spec: str) -> nn.Module:
        """Query and key as one product, quantized so."""
        self.product = QueryKey(self.query, self.key, self.heads, spec, STRAIGHT)
        del self.query, self.key
        return self

    def forward(self, x):
        h = self.embed(x) + self.place
        if hasattr(self, "product"):
            scores = self.product(h)
        else:
            q, k = (self._cut(f(h)) for f in (self.query, self.key))
            scores = q @ k.mT / self.width**0.5
        h = h + self.out((scores.softmax(-1) @ self._cut(self.value(h))).transpose(1, 2).flatten(2))
        return self.head(h.relu().mean(1))

    def _cut(self, a):
        return a.unflatten(-1, (self.heads, self.width)).transpose(1, 2)


def network(kind: str) -> nn.Module:
    if kind == "rows":
        return Attention()
    if kind == "mnist":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    layers: list[nn.Module] = []
    for i, o in ((3, 24), (24, 48), (48, 96)):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 10))


def values(kind: str, x: torch.Tensor) -> torch.Tensor:
    x = x.float() / 127.5 - 1
    return x.permute(0, 3, 1, 2) if kind == "cifar" else x


def train(net, kind, x, y, seed, epochs, batch=128):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.0)
    steps = epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for step in range(steps):
        if step % (len(x) // batch) == 0:
            order = torch.randperm(len(x), generator=generator)
        at = order[step % (len(x) // batch) * batch:][:batch]
        loss = nn.functional.cross_entropy(net(values(kind, x[at])), y[at].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def accuracy(net, kind, x, y) -> float:
    net.eval()
    hits = sum(int((net(values(kind, x[i:i + 2000])).argmax(1) == y[i:i + 2000]).sum()) for i in range(0, len(x), 2000))
    return 100 * hits / len(x)


def contestants(kind, widths) -> list[tuple[str, str, dict]]:
    """Name, bits, how the network is prepared."""
    found = []
    if kind == "rows":
        for b in widths:
            how = {"weights": f"int:{b}:search=absmax", "recipe": STRAIGHT}
            found += [("query and key apart", str(b), how), ("query and key as one", str(b), {**how, "joint": True})]
        return found
    for b in widths:
        found.append(("naive straight-through", str(b), {"weights": f"int:{b}:search=absmax", "recipe": STRAIGHT}))
        if b > 1:
            found.append(("LSQ", str(b), {"weights": f"int:{b}:per=tensor", "recipe": LSQ}))
        found.append(("QuEST", str(b), {"weights": f"hadamard,int:{b}:mid=true" if b > 1 else "hadamard,int:1", "recipe": TRUST}))
    for rule in ("absmean", "median"):
        found.append((f"BitNet b1.58, {rule}, inputs of 8 bits", "1.58",
                      {"weights": f"ternary:rule={rule}", "activations": "int:8:search=absmax", "recipe": STRAIGHT}))
    return found


def prepared(net: nn.Module, weights: str, joint: bool = False, **how) -> nn.Module:
    return prepare(net.joined(weights) if joint else net, weights, **how)


def study(kind: str, root: pathlib.Path, seeds: int, epochs: int, widths, done) -> list[dict]:
    x, y, x_test, y_test = {"mnist": mnist, "cifar": cifar, "rows": mnist}[kind](root)
    scores: dict[tuple[str, str], list[float]] = {}
    rows: list[dict] = []
    for seed in range(seeds):
        def note(name, bits, net):
            scores.setdefault((name, bits), []).append(accuracy(net, kind, x_test, y_test))
            rows[:] = [{"data": kind, "training": name, "bits": bits, "accuracy %": round(float(np.median(s)), 2),
                        "least %": round(min(s), 2), "seeds": len(s), "epochs": epochs} for (name, bits), s in scores.items()]
            done(rows)

        torch.manual_seed(seed)
        start = network(kind)
        plain = train(copied(start, kind), kind, x, y, seed, epochs)
        note("fp32", "32", plain)
        for b in widths:
            note("rounded afterwards", str(b), convert(prepare(copied(plain, kind), f"int:{b}", recipe=STRAIGHT)))
        for name, bits, how in contestants(kind, widths):
            note(name, bits, convert(train(prepared(copied(start, kind), **how), kind, x, y, seed, epochs)))
        if kind == "rows":
            continue
        net = convert(train(prepare(copied(start, kind), "nested:" + "x".join(map(str, widths)), recipe=ALL), kind, x, y, seed, epochs))
        for terms, b in enumerate(widths, 1):
            note("double rounding, one model", str(b), switch(net, terms))
        print(table(rows), flush=True)
    return rows


def copied(net: nn.Module, kind: str) -> nn.Module:
    other = network(kind)
    other.load_state_dict(net.state_dict())
    return other


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="*", default=["mnist", "cifar"])
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 3, 4])
    args = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.time()
    for kind in args.sets:
        others = [row for row in saved("qat") if (row["data"], row["epochs"]) != (kind, args.epochs)]  # stay in the JSON

        def done(rows, others=tuple(others)):
            save("qat", [*others, *rows], minutes=round((time.time() - begin) / 60, 1))

        study(kind, pathlib.Path(args.data), args.seeds, args.epochs, sorted(args.bits), done)


if __name__ == "__main__":
    main()
