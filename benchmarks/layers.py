"""Claim: the quantizer as a layer is far faster than the usual library, in a hundredth of the memory, and uses its codebook.

Peer: vector-quantize-pytorch. Parts: `speed` (vectors/s of encoding and of a training step with its backward pass, extra memory,
16,384 vectors of unit normal values) and `use` (a small autoencoder on 8x8 patches of photographs, or a pair of maps on MiniLM
embeddings, 700 steps, several seeds: quality on held-out photographs or sentences, codewords used, perplexity; k-means on the
same latents beside it).

    python benchmarks/layers.py [speed use] [--data DIR] [--seeds 5]
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "2")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from record import interleave, save, table  # noqa: E402
from torch import nn  # noqa: E402

from compand.fit.kmeans import kmeans  # noqa: E402
from compand.torch import Quantize  # noqa: E402

N = 16_384


class Peer(nn.Module):
    """A layer of vector-quantize-pytorch that answers as ours does."""

    def __init__(self, kind: str, **options):
        super().__init__()
        import vector_quantize_pytorch as library

        self.layer = getattr(library, kind)(**options)

    def forward(self, x):
        y, ids, *loss = self.layer(x[None])
        loss = [a for a in loss if isinstance(a, torch.Tensor)]
        return y[0], ids.reshape(len(x), -1), sum((a.sum() for a in loss), y.new_zeros(()))


class Ours(nn.Module):
    def __init__(self, spec: str, dim: int, **recipe):
        super().__init__()
        self.layer = Quantize(spec, dim, **recipe)

    def forward(self, x):
        out = self.layer(x)
        return out.y, out.ids, out.loss


SPEED = {"VQ 1024, d=8": (8, lambda: Ours("vq:1024", 8), lambda: Peer("VectorQuantize", dim=8, codebook_size=1024)),
         "VQ 8192, d=16": (16, lambda: Ours("vq:8192", 16), lambda: Peer("VectorQuantize", dim=16, codebook_size=8192)),
         "residual VQ 4 x 1024, d=8": (8, lambda: Ours("+".join(["vq:1024"] * 4), 8),
                                       lambda: Peer("ResidualVQ", dim=8, codebook_size=1024, num_quantizers=4)),
         "FSQ 8,8,4,4": (4, lambda: Ours("center,scale:std:column,fsq:8x8x4x4", 4), lambda: Peer("FSQ", levels=[8, 8, 4, 4])),
         "LFQ 13 bits": (13, lambda: Ours("sign", 13, entropy=0.1), lambda: Peer("LFQ", dim=13, codebook_size=8192)),
         "VQ 262144, d=8": (8, lambda: Ours("vq:262144", 8), None)}


def memory(name: str, peer: bool) -> float:
    """MB that a training step adds to a process of its own."""
    code = f"import layers; print(layers.grown({name!r}, {peer}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(__file__).parent, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")


def grown(name: str, peer: bool) -> float:
    torch.set_num_threads(2)
    d, *make = SPEED[name]
    x = torch.randn(N, d, requires_grad=True)
    for warm in (nn.Linear(2, 2), Peer("VectorQuantize", dim=2, codebook_size=4) if peer else Ours("vq:4", 2)):  # loads the code
        y = warm(torch.randn(64, 2, requires_grad=True))
        (y if isinstance(y, torch.Tensor) else y[0]).sum().backward()
    before = peak()
    layer = make[peer]()
    for _ in range(2):
        y, _, loss = layer(x)
        (y.sum() + loss).backward()
    return peak() - before


def peak() -> float:
    """The most memory this process has held, in MB."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def speed() -> list[dict]:
    rows = []
    for name, (d, *makes) in SPEED.items():
        makes = {who: make for who, make in zip(("compand", "peer"), makes, strict=True) if make}
        x = torch.randn(N, d, requires_grad=True)
        runs = {}
        for who, make in makes.items():
            train, still = make(), make()

            def step(layer=train, x=x):
                y, _, loss = layer(x)
                (y.sum() + loss).backward()

            for layer in (train, still):
                layer(x)
            still.eval()

            def encode(layer=still, x=x):
                with torch.no_grad():
                    return layer.layer.encode(x) if isinstance(layer, Ours) else layer(x)

            runs[who + " train"], runs[who + " encode"] = step, encode
        times = interleave(runs, 7, seconds=8)
        row: dict = {"layer": name}
        for run, seconds in times.items():
            row[run + " vec/s"] = N / seconds
        for who in makes:
            row[who + " MB"] = memory(name, who == "peer")
        rows.append(row)
        print(table([row]), flush=True)
    return rows


def patches(folder: pathlib.Path) -> torch.Tensor:
    from PIL import Image

    found = []
    for path in sorted(folder.iterdir()):
        a = np.asarray(Image.open(path).convert("L"), np.float32) / 255
        h, w = a.shape[0] // 8 * 8, a.shape[1] // 8 * 8
        found.append(a[:h, :w].reshape(h // 8, 8, w // 8, 8).swapaxes(1, 2).reshape(-1, 64))
    return torch.from_numpy(np.concatenate(found)) - 0.5


def data(kind: str, root: pathlib.Path) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if kind == "photographs":
        train, test = patches(root / "images" / "photos-train"), patches(root / "images" / "photos-test")
    else:
        from nearest import load

        train, test = (torch.from_numpy(load(root / "vectors" / f"minilm-{part}.i16.xz")) for part in ("base", "query"))
    return train, test[torch.randperm(len(test), generator=generator)[:16_000]]


def learn(make, seed: int, train, test, steps: int = 700, batch: int = 512, weight: float = 0.05) -> dict:
    torch.manual_seed(seed)
    generator, width, d = torch.Generator().manual_seed(seed), train.shape[1], 8
    encode = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, d))
    decode = nn.Sequential(nn.Linear(d, 256), nn.GELU(), nn.Linear(256, width))
    layer = make(d)
    net = nn.ModuleList([encode, layer, decode])
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    unit = 1 if width == 64 else width / 64
    for _ in range(steps):
        x = train[torch.randint(len(train), (batch,), generator=generator)]
        y, _, loss = layer(encode(x))
        optimizer.zero_grad()
        ((decode(y) - x).square().mean() * unit + weight * loss).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        z = encode(test)
        y, ids, _ = layer(z)
        error = float((decode(y) - test).square().mean())
        count = np.unique(ids.numpy(), axis=0, return_counts=True)[1]
        p = count / count.sum()
        pool = encode(train[torch.randint(len(train), (65_536,), generator=generator)]).numpy()
        words, _ = kmeans(pool, 1024, seed=seed)
        from compand import _native

        nearest = _native.nearest(np.ascontiguousarray(z.numpy()), np.ascontiguousarray(words))
        share = np.bincount(nearest, minlength=1024) / len(z)
        bound = float(np.square(z.numpy() - words[nearest]).mean())
    share = share[share > 0]
    return {"quality": -10 * np.log10(error / (1 if width == 64 else float(test.square().mean()))), "used": len(count),
            "perplexity": float(np.exp(-(p * np.log(p)).sum())), "k-means used": len(share),
            "k-means perplexity": float(np.exp(-(share * np.log(share)).sum())),
            "latent error / k-means": float((z - y).square().mean()) / bound}


def fsq(d: int) -> nn.Module:
    return nn.Sequential(nn.Linear(d, 4), Tail(Ours("center,scale:std:column,fsq:8x8x4x4", 4), nn.Linear(4, d)))


def library(**options):
    return lambda d: Peer("VectorQuantize", dim=d, codebook_size=1024, **options)


USE = {"compand vq:1024 (default)": lambda d: Ours("vq:1024", d),
       "compand, straight-through": lambda d: Ours("vq:1024", d, estimator="straight"),
       "compand, no revival": lambda d: Ours("vq:1024", d, revive=0.0),
       "compand, gradient codebook": lambda d: Ours("vq:1024", d, update="gradient"),
       "compand, through a linear map (SimVQ)": lambda d: Ours("vq:1024", d, update="gradient", through="linear"),
       "compand vq:32+vq:32": lambda d: Ours("vq:32+vq:32", d), "compand pq:2x5": lambda d: Ours("pq:2x5", d),
       "compand fsq (8 x 8 x 4 x 4)": fsq,
       "library VectorQuantize, defaults": library(),
       "library, decay .99, k-means, revival": library(decay=0.99, kmeans_init=True, threshold_ema_dead_code=0.1),
       "library, decay .9, k-means, revival": library(decay=0.9, kmeans_init=True, threshold_ema_dead_code=0.1),
       "library SimVQ": lambda d: Peer("SimVQ", dim=d, codebook_size=1024),
       "library FSQ": lambda d: Peer("FSQ", levels=[8, 8, 4, 4], dim=d)}


class Tail(nn.Module):
    """A layer whose output goes through a map back to the width of the latents."""

    def __init__(self, layer, back):
        super().__init__()
        self.layer, self.back = layer, back

    def forward(self, x):
        y, ids, loss = self.layer(x)
        return self.back(y), ids, loss


def use(root: pathlib.Path, seeds: int) -> list[dict]:
    rows, torch_threads = [], torch.get_num_threads()
    for kind in ("photographs", "MiniLM embeddings"):
        train, test = data(kind, root)
        for name, make in USE.items():
            found = [learn(make, seed, train, test) for seed in range(seeds)]
            row = {"data": kind, "layer": name, "seeds": seeds}
            for key in found[0]:
                row[key] = float(np.median([f[key] for f in found]))
            row["worst quality"], row["least used"] = min(f["quality"] for f in found), min(f["used"] for f in found)
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
    torch.set_num_threads(torch_threads)
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["speed", "use"])
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(2)
    begin = time.time()
    for part in args.parts:
        rows = speed() if part == "speed" else use(pathlib.Path(args.data), args.seeds)
        print(table(rows))
        save(f"layers-{part}", rows, minutes=round((time.time() - begin) / 60, 1))


if __name__ == "__main__":
    main()
