"""Scales by timestep for a diffusion transformer on few bits: how far its pictures are from those of the model as it is.

    python benchmarks/diffusion.py DATA [--minutes 3] [--keep FOLDER] [--rows NAME ...]

A transformer (49 tokens of 4 x 4 pixels, width 96, 4 blocks, adaptive norms by timestep and digit) is trained on the 20,000 pictures of
DATA/vision/mnist-20k-10k.npz to say the noise in them, and coded with inputs fitted to trajectories of its own. Measured: the noise it
says along trajectories from other seeds, and the pictures (20 steps of DDIM) from the same starting noise, both as relative squared error.
"""

from __future__ import annotations

import argparse
import copy
import math
import pathlib
import time

import numpy as np
import record
import torch

from compand.integration.activation_fit import quantize
from compand.torch.activation import condition

nn = torch.nn
STEPS = 20
ROWS = {  # name: inputs, weights, bins of timesteps
    "W8A8, a scale a token": ("int:8:search=absmax", "int:8", 1),
    "W8A8, a scale a tensor": ("int:8:per=tensor", "int:8", 1),
    "W8A8, a scale a tensor and 4 bins of timesteps": ("int:8:per=tensor", "int:8", 4),
    "W8A6, a scale a tensor": ("int:6:per=tensor", "int:8", 1),
    "W8A6, a scale a tensor and 4 bins of timesteps": ("int:6:per=tensor", "int:8", 4),
    "W8A6, a scale a tensor and step": ("int:6:per=tensor", "int:8", STEPS),
    "W4A6, a scale a tensor": ("int:6:per=tensor", "int:4", 1),
    "W4A6, a scale a tensor and 4 bins of timesteps": ("int:6:per=tensor", "int:4", 4),
    "W8A6, rotated, a scale a tensor": ("hadamard,int:6:per=tensor", "int:8", 1),
    "W8A6, rotated, a scale a tensor and 4 bins of timesteps": ("hadamard,int:6:per=tensor", "int:8", 4),
}


class Block(nn.Module):
    """Attention and two layers, each after a norm that the condition scales and shifts, and gated by it."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads, self.condition = heads, nn.Linear(width, 6 * width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, x, c):
        a, b, g, d, e, f = self.condition(nn.functional.silu(c))[:, None].chunk(6, -1)
        h = nn.functional.layer_norm(x, x.shape[-1:]) * (1 + a) + b
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.mix(h).chunk(3, -1))
        x = x + g * self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = nn.functional.layer_norm(x, x.shape[-1:]) * (1 + d) + e
        return x + f * self.down(nn.functional.gelu(self.up(h)))


class Transformer(nn.Module):
    """The noise in pictures (n, 28, 28) at timesteps (n,) from 0 to 1, of digits (n,)."""

    def __init__(self, width: int = 96, blocks: int = 4):
        super().__init__()
        self.width, self.first, self.place = width, nn.Linear(16, width), nn.Parameter(torch.randn(49, width) * 0.02)
        self.time, self.digit = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)), nn.Embedding(10, width)
        self.blocks, self.last = nn.ModuleList(Block(width) for _ in range(blocks)), nn.Linear(width, 16)

    def forward(self, x, t, digit):
        tokens = x.unflatten(2, (7, 4)).unflatten(1, (7, 4)).transpose(2, 3).reshape(len(x), 49, 16)
        wave = t[:, None] * 1000 * torch.exp(-math.log(1e4) * torch.arange(self.width // 2) / (self.width // 2))
        c = self.time(torch.cat([wave.sin(), wave.cos()], -1)) + self.digit(digit)
        h = self.first(tokens) + self.place
        for block in self.blocks:
            h = block(h, c)
        y = self.last(nn.functional.layer_norm(h, h.shape[-1:]))
        return y.reshape(len(x), 7, 7, 4, 4).transpose(2, 3).reshape(len(x), 28, 28)


def amount(t):
    """Share of the picture and of the noise at timestep t: cosine schedule."""
    return torch.cos(t * math.pi / 2)[:, None, None], torch.sin(t * math.pi / 2)[:, None, None]


def trained(data: pathlib.Path, minutes: float, seed: int = 0) -> Transformer:
    """A transformer trained for so many minutes of CPU."""
    torch.manual_seed(seed)
    with np.load(data / "vision" / "mnist-20k-10k.npz") as file:
        pictures, digits = torch.from_numpy(file["x_train"]).float() / 127.5 - 1, torch.from_numpy(file["y_train"]).long()
    net = Transformer()
    optimizer, start, step = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.01), time.process_time(), 0
    while (spent := (time.process_time() - start) / (60 * minutes)) < 1:
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent)))
        i = torch.randint(len(pictures), (64,))
        t, noise = torch.rand(64) * 0.98 + 0.01, torch.randn(64, 28, 28)
        a, b = amount(t)
        loss = (net(a * pictures[i] + b * noise, t, digits[i]) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step}, loss {float(loss):.3f}", flush=True)
    return net.eval().requires_grad_(False)


def trajectory(net, seed: int, count: int, before=lambda i: None):
    """Inputs of each step of DDIM, and the pictures at its end."""
    made = torch.Generator().manual_seed(seed)
    x, digit = torch.randn(count, 28, 28, generator=made), torch.arange(count) % 10
    times, seen = torch.linspace(0.98, 0.02, STEPS), []
    for i, now in enumerate(times):
        before(i)
        t = now.expand(count)
        seen.append((x, t, digit))
        noise, (a, b) = net(x, t, digit), amount(t)
        picture = ((x - b * noise) / a.clamp(min=0.05)).clamp(-1, 1)
        a, b = amount(times[i + 1].expand(count)) if i + 1 < STEPS else (1.0, 0.0)
        x = a * picture + b * noise
    return seen, x


def relative(x, y) -> float:
    return float((x - y).square().mean() / y.square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=3.0, help="of CPU to train")
    parser.add_argument("--keep", type=pathlib.Path, help="keep the trained weights here")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.keep and args.keep / "diffusion.pt"
    net = Transformer().eval().requires_grad_(False)
    if path and path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        net = trained(args.data, args.minutes)
        if path:
            torch.save(net.state_dict(), path)
    rows = {r["name"]: r for r in record.rows("diffusion")}
    with torch.no_grad():
        fitted, _ = trajectory(net, 1, 20)
        seen, pictures = trajectory(net, 2, 64)
        said = [net(*x) for x in seen]
        for name in args.rows:
            inputs, weights, bins = ROWS[name]
            own, at = copy.deepcopy(net), [i * bins // STEPS for i in range(STEPS)]
            quantize(own, lambda b, own=own: own(*b), fitted, lambda name, m, s=(inputs, weights): s if name.startswith("blocks") else None,
                     conditions=at if bins > 1 else None)

            def before(i, own=own, at=at, bins=bins):
                if bins > 1:
                    condition(own, at[i])

            errors = []
            for i, (x, y) in enumerate(zip(seen, said, strict=True)):
                before(i)
                errors.append(relative(own(*x), y))
            far = relative(trajectory(own, 2, 64, before)[1], pictures)
            rows[name] = {"name": name, "inputs": inputs, "weights": weights, "bins": bins, "noise": float(np.mean(errors)),
                          "noise, last quarter": float(np.mean(errors[-STEPS // 4:])), "pictures": far}
            print(record.table([rows[name]]), flush=True)
            record.save("diffusion", sorted(rows.values(), key=lambda r: list(ROWS).index(r["name"])), about=f"relative squared errors; "
                        f"64 pictures, {STEPS} steps; trained for {args.minutes} minutes of CPU")


if __name__ == "__main__":
    main()
