"""The default recipe keeps its codebook in use on real data, and its codewords are no worse than k-means: half a minute's version."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import compand  # noqa: E402
from compand import _native  # noqa: E402
from compand.fit.kmeans import kmeans  # noqa: E402
from compand.torch import Quantize  # noqa: E402

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "images" / "photos-train"
K = 512


def embeddings():
    x = compand.open(Path(compand.__file__).parent / "demo" / "embeddings.cpd")["array"].array().astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(x), 6.0  # too few to hold some out


def patches():
    image = pytest.importorskip("PIL.Image")
    if not PHOTOS.exists():
        pytest.skip("the photographs are not beside the repository")
    found = []
    for path in sorted(PHOTOS.iterdir())[:12]:
        a = np.asarray(image.open(path).convert("L"), np.float32)[:640, :640] / 255 - 0.5
        h, w = (v // 8 for v in a.shape)
        found.append(a[:8 * h, :8 * w].reshape(h, 8, w, 8).swapaxes(1, 2).reshape(-1, 64))
    x = np.concatenate(found)
    return torch.from_numpy(x[::5].copy()), torch.from_numpy(np.delete(x, np.s_[::5], 0)), 1.0


def learnt(test, train, unit, seed, **recipe):
    torch.manual_seed(seed)
    encode = nn.Sequential(nn.Linear(train.shape[1], 96), nn.GELU(), nn.Linear(96, 8))
    decode = nn.Sequential(nn.Linear(8, 96), nn.GELU(), nn.Linear(96, train.shape[1]))
    q = Quantize(f"vq:{K}", 8, **recipe)
    optimizer = torch.optim.AdamW([*encode.parameters(), *decode.parameters()], 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(250):
        x = train[torch.randint(len(train), (512,), generator=generator)]
        out = q(encode(x))
        optimizer.zero_grad()
        (unit * (decode(out.y) - x).square().mean() + 0.05 * out.loss).backward()
        optimizer.step()
        schedule.step()
    q.eval()
    with torch.no_grad():
        z = encode(test)
        out = q(z)
        words, _ = kmeans(encode(train).numpy(), K, seed=seed)
    nearest = words[_native.nearest(np.ascontiguousarray(z.numpy()), words)]
    return len(out.ids.unique()) / K, float((out.y - z).square().mean()) / float(np.square(nearest - z.numpy()).mean())


@pytest.mark.parametrize("data", [embeddings, patches])
def test_the_default_uses_its_codebook_and_matches_kmeans(data):
    for seed in range(2):
        used, ratio = learnt(*data(), seed)
        assert used >= 0.8 and ratio <= 1.35


def test_without_revival_it_would_not():
    assert learnt(*patches(), 0, revive=0.0)[0] < 0.7


def test_a_large_codebook_trains_in_little_memory():
    """262,144 codewords in less than 100 MB beside what torch itself holds, by the peak of a process of its own."""
    code = """
import torch
from compand.torch import Quantize
def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
torch.set_num_threads(1)
def step(q, x):
    out = q(x.requires_grad_())
    (out.y.sum() + out.loss).backward()
step(Quantize("vq:4", 2), torch.randn(64, 2))
before, q = peak(), Quantize("vq:262144", 8)
for _ in range(4):
    step(q, torch.randn(16384, 8))
print(peak() - before)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from /proc")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 90
