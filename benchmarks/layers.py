"""Claim: the quantizer as a layer is far faster than the usual library, in a hundredth of the memory, and uses its codebook.

Peer: vector-quantize-pytorch. Parts: `speed` (vectors/s of encoding and of a training step with its backward pass, extra memory,
16,384 vectors of unit normal values), `photographs` and `sentences` (a small autoencoder on 8x8 patches of photographs, or on MiniLM
embeddings, 300 steps, several seeds: quality on held-out photographs or sentences, codewords used, perplexity; k-means on the
same latents beside it; rows that the JSON has stay) and `large` (the use of 65,536 codewords against balanced k-means on fixed latents).

    python benchmarks/layers.py [speed photographs sentences large] [--data DIR] [--seeds 5] [--again]
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
from record import rows as saved
from torch import nn  # noqa: E402

from compand import Codec, _native  # noqa: E402
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
         "FSQ 8,8,4,4": (4, lambda: Ours("fsq:8x8x4x4", 4), lambda: Peer("FSQ", levels=[8, 8, 4, 4])),
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
    for _ in range(2 if peer else 20):  # ours keeps recent rows: until they are all there
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

            begin = time.perf_counter()
            for _ in range(64):  # ours refits scales and grids at each of the first steps, then at every 32nd
                if time.perf_counter() - begin > 1:
                    break
                step()
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


STEPS, BATCH, HIDDEN = 300, 512, 128


def learn(make, seed: int, train, test, weight: float = 0.05) -> dict:
    """A small autoencoder trained with a layer on its 8 latents, and what held-out rows make of it."""
    torch.manual_seed(seed)
    generator, width, d = torch.Generator().manual_seed(seed), train.shape[1], 8
    encode = nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, d))
    decode = nn.Sequential(nn.Linear(d, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, width))
    layer = make(d)
    net = nn.ModuleList([encode, layer, decode])
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    unit = 1 / float(train[:65_536].var(0).mean())  # all losses in units of the variance
    for _ in range(STEPS):
        x = train[torch.randint(len(train), (BATCH,), generator=generator)]
        y, _, loss = layer(encode(x))
        optimizer.zero_grad()
        ((decode(y) - x).square().mean() * unit + weight * loss).backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.no_grad():
        z = encode(test)
        y, ids, _ = layer(z)
        error = float((decode(y) - test).square().mean())
        pool = encode(train[torch.randint(len(train), (32_768,), generator=generator)]).numpy()
        words, _ = kmeans(pool, 1024, seed=seed)
        nearest = _native.nearest(np.ascontiguousarray(z.numpy()), np.ascontiguousarray(words))
    used, perplexity = spread(ids.numpy())
    k_used, k_perplexity = spread(nearest[:, None])
    return {"quality dB": -10 * np.log10(error / (1 if width == 64 else float(test.square().mean()))), "used": used,
            "perplexity": perplexity,
            "k-means used": k_used, "k-means perplexity": k_perplexity,
            "latent error / k-means": float((z - y).square().mean()) / float(np.square(z.numpy() - words[nearest]).mean())}


def spread(ids: np.ndarray) -> tuple[int, float]:
    """Distinct rows of ids, and exp of the entropy of their use."""
    p = np.unique(ids, axis=0, return_counts=True)[1] / len(ids)
    return len(p), float(np.exp(-(p * np.log(p)).sum()))


def narrow(make, d: int, inner: int) -> nn.Module:
    """A layer of other dimensions between two linear maps."""
    return nn.Sequential(nn.Linear(d, inner), Tail(make(inner), nn.Linear(inner, d)))


def even(d: int) -> nn.Module:
    """Features of mean 0 and variance 1."""
    return nn.BatchNorm1d(d, affine=False)


def library(kind="VectorQuantize", **options):
    return lambda d: Peer(kind, dim=d, codebook_size=1024, **options)


def ours(spec="vq:1024", **recipe):
    return lambda d: Ours(spec, d, **recipe)


BITS = "center,scale:std:column,sign"
USE = {"compand vq:1024 (default)": ours(),
       "library VectorQuantize, defaults": library(),
       "library, decay .9, k-means, revival": library(decay=0.9, kmeans_init=True, threshold_ema_dead_code=0.1),
       "compand, no revival": ours(revive=0.0), "compand, gradient codebook": ours(update="gradient"),
       "compand, through a linear map (SimVQ)": ours(update="gradient", through="linear"),
       "library SimVQ": library("SimVQ"),
       "compand fsq 8 x 8 x 4 x 4": lambda d: narrow(ours("fsq:8x8x4x4"), d, 4),
       "library FSQ": lambda d: Peer("FSQ", levels=[8, 8, 4, 4], dim=d),
       "compand fsq 8 x 8 x 4 x 4, after batch norm": lambda d: narrow(lambda i: nn.Sequential(even(i), Ours("fsq:8x8x4x4", i)), d, 4),
       "library FSQ, after batch norm": lambda d: nn.Sequential(even(d), Peer("FSQ", levels=[8, 8, 4, 4], dim=d)),
       "compand 10 bits (LFQ)": lambda d: narrow(ours(BITS, entropy=0.1), d, 10), "library LFQ": library("LFQ"),
       "compand, balance=4": ours(balance=4.0), "compand, straight-through": ours(estimator="straight"),
       "compand vq:32+vq:32": ours("vq:32+vq:32"), "compand pq:2x5": ours("pq:2x5"),
       "compand pq:2x5, disentangled (FQGAN)": ours("pq:2x5", disentangle=0.1),
       "compand 10 bits, Bernoulli": lambda d: narrow(ours(BITS, estimator="bernoulli"), d, 10),
       "compand, noise (NSVQ)": ours(estimator="noise"), "compand, DiVeQ": ours(estimator="diveq"),
       "compand, Gumbel": ours(estimator="gumbel", update="gradient"), "compand, entropy=.05": ours(entropy=0.05),
       "compand, through an MLP (VQGAN-LC)": ours(update="gradient", through="mlp"), "compand, balance=1": ours(balance=1.0)}


class Tail(nn.Module):
    """A layer whose output goes through a map back to the width of the latents."""

    def __init__(self, layer, back):
        super().__init__()
        self.layer, self.back = layer, back

    def forward(self, x):
        y, ids, loss = self.layer(x)
        return self.back(y), ids, loss


def use(kind: str, root: pathlib.Path, seeds: int, done, again: bool) -> list[dict]:
    torch.set_num_threads(1)  # batches of 512 are too small for more
    rows = [] if again else [row for row in saved(f"layers-{kind}") if row["seeds"] >= seeds and row["layer"] in USE]
    train, test = data(kind, root)
    for name, make in USE.items():
        if any(row["layer"] == name and "note" not in row for row in rows):  # a note: measured before the layer was changed
            continue
        found = [learn(make, seed, train, test) for seed in range(seeds)]
        row = {"data": kind, "layer": name, "seeds": seeds}
        row |= {key: round(float(np.median([f[key] for f in found])), 3) for key in found[0]}
        row |= {"least used": min(f["used"] for f in found), "worst quality dB": round(min(f["quality dB"] for f in found), 3),
                "worst latent error / k-means": round(max(f["latent error / k-means"] for f in found), 3)}
        rows = [*(other for other in rows if other["layer"] != name), row]
        print(table([row]).splitlines()[-1], flush=True)
        done(rows)
    return rows


def large(kind: str, root: pathlib.Path, seeds: int, k: int = 65_536) -> list[dict]:
    """Codewords of 65,536 that held-out rows use: the layer, trained by batches, and balanced k-means, on the same 8 coordinates of the
    same rows."""
    train, test = data(kind, root)
    if kind == "sentences":  # the queries are too few to use so many codewords
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        train, test = train[order[20_000:]], train[order[:20_000]]
    codec, rows = Codec("pca:8,int:16").fit(train[:: max(1, len(train) // 50_000)].numpy()), []
    project = codec.stage.transforms[0]
    latents, held = (np.ascontiguousarray(project.forward(x.numpy())[0], np.float32) for x in (train, test))
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        pool = latents[rng.permutation(len(latents))[:2 * k]]
        layer = Quantize(f"vq:{k}", 8, seed=seed)
        layer.fit(torch.from_numpy(pool[:k]))
        for _ in range(60):
            layer(torch.from_numpy(pool[rng.integers(len(pool), size=8192)]))
        layer.eval()
        words, _ = kmeans(pool, k, seed=seed, balanced=True, iterations=2)
        for who, codebook in (("compand vq:65536 (default)", layer.export().state()["codebook_"]), ("balanced k-means", words)):
            own = _native.nearest(held, np.ascontiguousarray(codebook))
            used, perplexity = spread(own[:, None])
            rows.append({"data": kind, "layer": who, "seed": seed, "used": used, "perplexity": round(perplexity),
                         "of rows": len(held), "trained on rows": len(pool),
                         "latent error / variance": round(float(np.square(held - codebook[own]).mean() / held.var(0).mean()), 4)})
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["speed", "photographs", "sentences", "large"])
    parser.add_argument("--data", default=os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--again", action="store_true", help="measure rows of photographs and sentences that are there already, too")
    args = parser.parse_args()
    torch.set_num_threads(2)
    begin, root = time.time(), pathlib.Path(args.data)
    for part in args.parts:
        def done(rows, part=part):
            save(f"layers-{part}", rows, minutes=round((time.time() - begin) / 60, 1))

        if part == "speed":
            rows = speed()
        elif part == "large":
            rows = []
            for kind in ("photographs", "sentences"):
                rows += large(kind, root, 1)
                done(rows)
        else:
            rows = use(part, root, args.seeds, done, args.again)
        print(table(rows))
        done(rows)


if __name__ == "__main__":
    main()
