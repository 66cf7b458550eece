"""Several rates from one model, against a model trained for each rate: pictures coded by small learned autoencoders, on Kodak.

Four ways to have several rates in one model: residual terms left out (``prefix=True``), parts of a product left out (``columns=True``),
fewer codewords chosen by k-means of the codewords (`compand.fit.fewer`, Extreme VQGAN coding), and several codebooks whose codewords are
drawn by distance in training (McQuic: ``pq`` with ``estimator="gumbel"``). All models have the same convolutions, data, steps and
seed; a vector stands for 16 x 16 pixels. Bits: the symbols of a picture coded by `mixed`, and plain. Nothing is chosen on Kodak.

    python benchmarks/rates.py DATA/images [--steps 600]          # about 40 seconds of one core a model
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import time
import warnings

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from record import save, table  # noqa: E402
from torch import nn  # noqa: E402

from compand import Codec  # noqa: E402
from compand.entropy.mixed import Mixed  # noqa: E402
from compand.fit.fewer import fewer  # noqa: E402
from compand.metric import psnr  # noqa: E402
from compand.torch import Quantize  # noqa: E402

D, CROP, BATCH = 16, 64, 32


def crops(folder: pathlib.Path, each: int = 160) -> torch.Tensor:
    """(n, 3, 64, 64) in [-0.5, 0.5]: crops of the photographs to train on, at half their size."""
    rng, found = np.random.default_rng(0), []
    every = sorted(folder.glob("*.jpg"))
    for path in [p for p in every if p not in every[3::8]]:
        picture = Image.open(path).convert("RGB")
        x = np.asarray(picture.resize((picture.width // 2, picture.height // 2), Image.LANCZOS))
        for _ in range(each):
            a, b = (int(rng.integers(0, side - CROP + 1)) for side in x.shape[:2])
            found.append(x[a:a + CROP, b:b + CROP])
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255 - 0.5


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.f = nn.Sequential(nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 1))

    def forward(self, x):
        return x + self.f(x)


def network() -> tuple[nn.Module, nn.Module]:
    encode = nn.Sequential(nn.Conv2d(3, 32, 4, 4), Block(32), nn.Conv2d(32, 64, 4, 4), Block(64), nn.Conv2d(64, D, 1))
    decode = nn.Sequential(nn.Conv2d(D, 64, 1), Block(64), nn.ConvTranspose2d(64, 32, 4, 4), Block(32), nn.ConvTranspose2d(32, 3, 4, 4))
    return encode, decode


def trained(spec: str, x: torch.Tensor, steps: int, **recipe) -> tuple[nn.Module, Quantize, nn.Module]:
    torch.manual_seed(0)
    (encode, decode), layer = network(), Quantize(spec, D, axis=1, **recipe)
    net = nn.ModuleList([encode, layer, decode])
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    generator, unit = torch.Generator().manual_seed(0), 1 / float(x[:1024].var())
    for _ in range(steps):
        some = x[torch.randint(len(x), (BATCH,), generator=generator)]
        y, _, loss = layer(encode(some))
        optimizer.zero_grad()
        ((decode(y) - some).square().mean() * unit + 0.05 * loss).backward()
        optimizer.step()
        plan.step()
    net.eval()
    return encode, layer, decode


@torch.no_grad()
def measured(encode, codec: Codec, decode, pictures, terms: int | None = None, parts: int | None = None) -> dict:
    """Mean bits a pixel (coded, plain) and PSNR; ``terms`` of a sum, or ``parts`` of a product, the rest 0."""
    rows, mixed = [], Mixed()
    for x in pictures:
        z = encode(torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 - 0.5)
        flat = z.movedim(1, -1).reshape(-1, D).numpy()
        codes = codec.encode(flat)
        paths = [p for p in codec.layout(codes.form) if p.rpartition(".")[2] == "ids"]
        symbols = [(codes.symbols(p), codec.layout(codes.form)[p].k) for p in paths[:terms]]
        y = codec.decode(codes, terms=terms) if terms else codec.decode(codes)
        if parts:
            symbols = [(ids[:, :parts], k) for ids, k in symbols]
            y[:, parts * D // len(codec.stage.codebook_):] = 0
        bits = sum(8 * mixed.encode(ids, k).size for ids, k in symbols)
        plain = sum(ids.size * math.log2(k) for ids, k in symbols)
        shape = z.shape[2], z.shape[3], D
        back = decode(torch.from_numpy(y).reshape(shape).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        back = np.clip(np.rint((back + 0.5) * 255), 0, 255).astype(np.uint8)
        pixels = x.shape[0] * x.shape[1]
        rows.append((bits / pixels, plain / pixels, psnr(x, back, peak=255.0)))
    bpp, plain, quality = np.mean(rows, 0)
    return {"bpp": round(float(bpp), 4), "bpp of plain indexes": round(float(plain), 4), "psnr": round(float(quality), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--pictures", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    x, rows, begin = crops(args.images / "photos-train"), [], time.time()
    kodak = [np.asarray(Image.open(p).convert("RGB")) for p in sorted((args.images / "kodak").glob("*.png"))[:args.pictures]]

    def tell(way, models, rate, found):
        rows.append({"way": way, "models": models, "rate": rate, **found})
        print(table(rows[-1:]).splitlines()[-1], flush=True)
        save("rates", rows, minutes=round((time.time() - begin) / 60, 1), steps=args.steps)

    def sums(n):
        return "+".join(["vq:256"] * n)

    def one(way, spec, **recipe):
        encode, layer, decode = trained(spec, x, args.steps, **recipe)
        return encode, layer.export(), decode

    net = one("", sums(4), prefix=True)
    for n in (1, 2, 3, 4):
        tell("residual terms left out (prefix=True)", "one", f"{n} x 8 bits", measured(*net, kodak, terms=n))
    for n in (1, 2, 3):
        tell("residual, trained for this rate", "each", f"{n} x 8 bits", measured(*one("", sums(n)), kodak))
    net = one("", sums(4))
    for n in (1, 2, 3, 4):
        tell("residual terms left out of what was trained for the highest rate", "one", f"{n} x 8 bits", measured(*net, kodak, terms=n))
    net = one("", "pq:4x8", columns=True)
    for n in (1, 2, 3, 4):
        tell("parts of a product left out (columns=True)", "one", f"{n} x 8 bits", measured(*net, kodak, parts=n))
    tell("several codebooks, nearest codewords", "each", "4 x 8 bits", measured(*one("", "pq:4x8"), kodak))
    tell("several codebooks, drawn by distance (McQuic)", "each", "4 x 8 bits",
         measured(*one("", "pq:4x8", estimator="gumbel", update="gradient"), kodak))
    encode, codec, decode = one("", "vq:1024")
    for k in (1024, 256, 64, 16):
        found = measured(encode, fewer(codec, k), decode, kodak)
        tell("fewer codewords (k-means of the codewords)", "one", f"{math.log2(k):g} bits", found)
    for k in (256, 64, 16):
        tell("one codebook, trained for this rate", "each", f"{math.log2(k):g} bits", measured(*one("", f"vq:{k}"), kodak))


if __name__ == "__main__":
    main()
