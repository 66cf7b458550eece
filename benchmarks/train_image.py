"""Train the model of the stage ``image`` from photographs, on CPUs: colours, bases, contexts, rates, filter; codebooks of ``tokens``.

    python benchmarks/train_image.py DATA/images/photos-train photo.cpd        # about 20 minutes of one core; needs torch for the filter
    python benchmarks/train_image.py DATA/images/photos-train tokens3.cpd --tokens                                    # half a minute
    python benchmarks/train_image.py DATA/images/photos-train orders.cpd --orders               # and around.cpd --around, a minute each

The model that ships was made so on two cores shared with other work, from 36 of 41 photographs; every eighth is held out, and the
choices of steps, rates of learning and lambda were made on those. It must never be replaced under its name: files name it. The first
codebooks of tokens (model ``tokens``, 16 bits, which cut off the darkest and brightest squares) were made of one piece of each photograph;
``tokens2`` is what this script makes with ``--shared 0``, ``tokens3`` what it makes without, with the Pillow that their metadata name.
Nothing here runs when pictures are coded.
Floats are used freely: what comes out are integers, and they are the definition of the model.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
import compand
from compand import _native

STEPS = (4, 8, 12, 18, 26, 38, 54, 80, 115)
LAMBDA, SHARE, CLASSES = 0.09, 18, 9
SHAPE = (8, 3, 2, 256, 4)  # of rates: steps, sizes, luma or chroma, place; zero, not zero, goes on, ends
LOW = np.array([0.026748757, -0.016864118, -0.078223266, 0.266864118, 0.602949018, 0.266864118, -0.078223266, -0.016864118, 0.026748757])
SHARED = 10  # photographs that must use each codeword of the first codebook of tokens
SHRINK = (80, 72, 64, 58, 52, 47, 43, 39, 36, 33, 30, 30, 30)  # thresholds of the bases' sparsity, from coarse to fine


def photographs(folder: Path) -> tuple[list[Path], list[Path]]:
    """Paths to learn from, and those held out."""
    every = sorted(folder.glob("*.jpg"))
    held = every[3::8]
    return [p for p in every if p not in held], held


# -- colours and bases -------------------------------------------------------------------------------------------------
def along(x, axis, of):
    return np.moveaxis(of(np.moveaxis(x, axis, 0)), 0, axis)


def down(x):
    p = np.pad(x, [(4, 4)] + [(0, 0)] * (x.ndim - 1), mode="reflect")
    return sum(LOW[k].astype(np.float32) * p[k:k + len(x):2] for k in range(9))


def up(x):
    n = len(x)
    p = np.pad(x, [(1, 2)] + [(0, 0)] * (x.ndim - 1), mode="edge")
    y = np.empty((2 * n, *x.shape[1:]), np.float32)
    y[0::2] = 1.115087052 * p[1:n + 1] - 0.057543526 * (p[:n] + p[2:n + 2])
    y[1::2] = 0.591271763 * (p[1:n + 1] + p[2:n + 2]) - 0.091271763 * (p[:n] + p[3:n + 3])
    return y


def details(plane: np.ndarray) -> np.ndarray:
    """What the coarse picture leaves over of a plane."""
    low = plane
    for _ in range(3):
        low = along(along(low, 0, down), 1, down)
    for _ in range(3):
        low = along(along(low, 0, up), 1, up)
    return plane - low


def colours(paths: list[Path]) -> np.ndarray:
    """Eigenvectors of the covariance of horizontal differences, strongest first."""
    total = np.zeros((3, 3))
    for path in paths:
        d = np.diff(np.asarray(Image.open(path).convert("RGB"), np.float32), axis=1).reshape(-1, 3)
        total += d.T @ d / len(d)
    rows = np.linalg.eigh(total)[1].T[::-1]
    return rows * np.sign(rows[:, :1])


def cosines(side: int) -> np.ndarray:
    k = np.arange(side)[:, None]
    d = np.cos(np.pi * (2 * np.arange(side) + 1) * k / 2 / side) * np.sqrt(2 / side)
    d[0] /= np.sqrt(2)
    order = np.argsort([a * a + b * b for a in range(side) for b in range(side)], kind="stable")
    return np.einsum("ai,bj->abij", d, d).reshape(side * side, -1)[order].astype(np.float32)


def bases(x: np.ndarray, side: int) -> np.ndarray:
    """Sparse orthonormal transforms of blocks (n, side^2): assign each block to the basis that needs least, refit by Procrustes."""
    g = x.reshape(-1, side, side)
    gx, gy = g[:, :-1, 1:] - g[:, :-1, :-1], g[:, 1:, :-1] - g[:, :-1, :-1]
    a, b, e = ((gx * gx - gy * gy).sum((1, 2)), (2 * gx * gy).sum((1, 2)), (gx * gx + gy * gy).sum((1, 2)))
    angle, clear = (np.arctan2(b, a) / 2) % np.pi, np.hypot(a, b) / (e + 1e-9) > 0.3
    bins = ((angle + np.pi / 2 / (CLASSES - 1)) / np.pi * (CLASSES - 1)).astype(int) % (CLASSES - 1)
    found = [cosines(side)]
    for k in range(CLASSES - 1):
        own = x[(bins == k) & clear]
        c = own.T @ own
        found.append(np.linalg.eigh(c + 1e-3 * np.eye(len(c)) * np.trace(c) / len(c))[1].T[::-1].astype(np.float32))
    for t in SHRINK:
        cost = np.stack([np.minimum((x @ basis.T) ** 2, t * t).sum(1) for basis in found], 1)
        cost[:, 1:] += 0.3 * t * t
        pick = cost.argmin(1)
        for k in range(1, CLASSES):
            own = x[pick == k]
            c = own @ found[k].T
            c[np.abs(c) < t] = 0
            u, _, v = np.linalg.svd(c.T @ own)
            found[k] = (u @ v).astype(np.float32)
        print(f"bases of {side}: threshold {t}, cost {cost.min(1).sum() / x.size:.1f}", flush=True)
    for k in range(1, CLASSES):
        c = x[pick == k] @ found[k].T
        found[k] = found[k][np.argsort(-((np.abs(c) > t).mean(0) + 1e-6 * np.abs(c).mean(0)))]
    return np.clip(np.rint(np.stack(found) * 4096), -4096, 4096).astype(np.int16)


def blocks(paths: list[Path], colour: np.ndarray, side: int, each: int, rng) -> np.ndarray:
    """Blocks of details of the first plane that are not nearly flat."""
    out = []
    for path in paths:
        x = np.asarray(Image.open(path).convert("RGB"), np.float32) - 128
        h, w = (v // 16 * 16 for v in x.shape[:2])
        r = details(x[:h, :w] @ colour[0].astype(np.float32))
        r = r.reshape(h // side, side, w // side, side).swapaxes(1, 2).reshape(-1, side * side)
        r = r[(r * r).max(1) > 900]
        out.append(r[rng.permutation(len(r))[:each]])
    return np.concatenate(out)


# -- contexts and rates ------------------------------------------------------------------------------------------------
def fresh(colour, eight, sixteen) -> dict[str, np.ndarray]:
    """A model that has seen nothing."""
    p = 0.4 / (1 + np.arange(256) / 4) ** 1.1
    rates = np.broadcast_to(np.stack([-np.log2(1 - p), -np.log2(p), np.full(256, 0.5), np.full(256, 1.5)], -1), SHAPE)
    return {"color": np.rint(colour * 4096).astype(np.int32).ravel(), "eight": eight, "sixteen": sixteen,
            "p": np.full(_native.IMAGE_CELLS, 32768, np.uint16), "seen": np.zeros(_native.IMAGE_CELLS, np.uint8),
            "weights": np.tile(np.int32([int(65536 * 0.22)] * 8 + [0]), _native.IMAGE_WEIGHTS // 9),
            "rates": np.rint(rates * 64).astype(np.uint16).ravel(),
            "centre": np.uint8([25, 12, 25, 12, 25, 12, 25, 12, 8, 4, 8, 4]), "share": np.int32([SHARE])}


def native(m: dict[str, np.ndarray]):
    from compand.quantizer.image import model_of

    return model_of(m)


def rates_of(counts: np.ndarray) -> np.ndarray:
    """Bits of what was counted, in 1/64, smoothed over neighbouring places and steps."""
    c = counts.reshape(SHAPE).astype(float)
    near = np.apply_along_axis(lambda v: np.convolve(np.pad(v, 2, mode="edge"), [1, 2, 3, 2, 1], "valid"), 3, c)
    c = c + 0.15 * near
    z, n, m, e = np.moveaxis(c + 0.02 * c.sum(0, keepdims=True) + [0.5, 0.05, 0.1, 0.1], -1, 0)
    bits = -np.log2(np.stack([z / (z + n), n / (z + n), m / (m + e), e / (m + e)], -1))
    return np.clip(np.rint(bits * 64), 0, 1024).astype(np.uint16).ravel()


def crop(path: Path, half: bool, rng, h=512, w=768) -> np.ndarray:
    """A piece of a photograph, or of one half as large."""
    picture = Image.open(path).convert("RGB")
    x = np.asarray(picture.resize((picture.width // 2, picture.height // 2), Image.LANCZOS) if half else picture, np.float32)
    y0, x0 = (int(rng.integers(0, max(1, n - m + 1))) for n, m in zip(x.shape, (h, w), strict=False))
    return np.ascontiguousarray(x[y0:y0 + h, x0:x0 + w])


def learn(m: dict, paths: list[Path], per: int, seed: int) -> dict:
    """One pass of coding, from fresh contexts: what they learn is the new start, what was counted the new rates."""
    rng, start, total, pixels = np.random.default_rng(seed), time.time(), 0, 0
    jobs = [(f, half, s) for f in paths for half, k in ((False, 1), (True, per)) for s in rng.choice(STEPS, k, replace=False)]
    blank = fresh(np.eye(3), m["eight"], m["sixteen"])
    model = native({**m, "p": blank["p"], "seen": blank["seen"]})
    for i in rng.permutation(len(jobs)):
        x = crop(*jobs[i][:2], rng)
        total += _native.image_encode(model, x.reshape(len(x), -1), 3, 8, int(64 * jobs[i][2]), 512, LAMBDA, True).size
        pixels += x.shape[0] * x.shape[1]
    p, seen, weights, counts = model.state()
    print(f"contexts: {8 * total / pixels:.4f} bits a pixel, {time.time() - start:.0f} s", flush=True)
    return {**m, "p": p, "seen": np.minimum(seen, 10), "weights": weights, "rates": rates_of(counts)}


# -- filter ------------------------------------------------------------------------------------------------------------
def examples(m: dict, paths: list[Path], colour: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    """Decoded details and what they miss, in steps: pieces (n, 192, 192, 3)."""
    model, got, want = native(m), [], []
    for path in paths:
        for half in (False, True):
            for _ in range(3):
                x = crop(path, half, rng, 192, 192)
                s = float(np.exp(rng.uniform(np.log(14), np.log(110))))
                how = (3, 16, int(64 * s), 512)
                data = _native.image_encode(model, np.ascontiguousarray(x.reshape(192, -1) * 257), *how, LAMBDA)
                y, z = (_native.image_decode(model, data, 192, 192, *how, True, np.uint8(lost), False)[0].reshape(x.shape) / 257
                        for lost in ([], [0, 1]))
                got.append((y - z) @ colour.T / s)
                want.append((x - y) @ colour.T / s)
    return np.stack(got).astype(np.float32), np.stack(want).astype(np.float32)


def filtered(got: np.ndarray, want: np.ndarray, rounds: int = 4000, layers: int = 4) -> dict[str, np.ndarray]:
    """Weights of small convolutions at half the size that foretell what is missing."""
    import torch

    torch.manual_seed(0)

    def folded(a):
        b, h, w, _ = a.shape
        return torch.from_numpy(a).view(b, h // 2, 2, w // 2, 2, 3).permute(0, 5, 2, 4, 1, 3).reshape(b, 12, h // 2, w // 2)

    x, y = folded(got).clamp(-7.996, 7.996), folded(want)
    marks = torch.zeros(1, 4, *x.shape[2:])
    marks[:, 0, :, 0::4], marks[:, 1, :, 3::4], marks[:, 2, 0::4], marks[:, 3, 3::4] = 1, 1, 1, 1
    x = torch.cat([x, marks.expand(len(x), -1, -1, -1)], 1)
    net = torch.nn.ModuleList([torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(layers)])
    torch.nn.init.zeros_(net[-1].weight)
    torch.nn.init.zeros_(net[-1].bias)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, rounds, pct_start=0.15)
    generator = torch.Generator().manual_seed(0)
    for i in range(rounds):
        k = torch.randint(0, len(x), (8,), generator=generator)
        a, b = (8 * int(torch.randint(0, 7, (1,), generator=generator)) for _ in range(2))
        v = x[k][:, :, a:a + 48, b:b + 48]
        for layer in net[:-1]:
            v = layer(v).clamp(0, 7.996)
        loss = ((net[-1](v)[:, :12] - y[k][:, :, a:a + 48, b:b + 48]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
        if i % 500 == 499:
            print(f"filter: round {i + 1}, loss {float(loss.detach()):.5f}", flush=True)
    out = {}
    for i, layer in enumerate(net):
        w = np.rint(layer.weight.detach().numpy().transpose(2, 3, 1, 0).reshape(9, 8, 2, 16).transpose(0, 1, 3, 2) * 1024)
        b = np.rint(layer.bias.detach().numpy() * 1024 * 256)
        if i == layers - 1:  # the third plane gains nothing
            w[:, :, 8:], b[8:] = 0, 0
        out[f"filter.{i}.weights"] = np.ascontiguousarray(w.clip(-32767, 32767).astype(np.int16))
        out[f"filter.{i}.bias"] = b.astype(np.int32)
    return out


# -- tokens ------------------------------------------------------------------------------------------------------------
def shared(x: np.ndarray, book: np.ndarray, source: np.ndarray, least: int, rounds: int = 12) -> np.ndarray:
    """A codebook most of whose codewords are each used by ``least`` photographs or more; ``source`` (n,) of each row of x.

    A codeword that one or two photographs use alone will hardly be used by others. Such ones move to halves of those of largest error
    among the rest, along their widest direction, and three steps of Lloyd's follow; again, so many rounds. On photographs left out
    240 instead of 225 of 256 are used so, at 0.15 dB less error (with 6 photographs 228, with 14 242 at 0.12 dB more error than with 10).
    """
    for _ in range(rounds):
        ids, far = _native.nearest_distances(x, book)
        seen = np.zeros((len(book), source.max() + 1), bool)
        seen[ids, source] = True
        poor = np.flatnonzero(seen.sum(1) < least)
        error = np.bincount(ids, weights=far, minlength=len(book))
        error[poor] = 0
        for own, other in zip(poor, np.argsort(-error)[:len(poor)], strict=True):
            gap = x[ids == other] - book[other]
            widest = np.linalg.svd(gap[:4096], full_matrices=False)[2][0]
            half = 0.5 * np.sqrt(np.square(gap @ widest).mean()) * widest
            book[own], book[other] = book[other] + half, book[other] - half
        for _ in range(3):
            ids, far = _native.nearest_distances(x, book)
            sums, counts, _ = _native.cluster_sums(x, ids, len(book), None, far)
            book[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
    return book


def vectors(m: dict, paths: list[Path], rng, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares of photographs, each photograph also at half the size and all squares in other colours: (n, 64) int64, photographs (n,)."""
    from compand.quantizer.tokens import KEPT, latents

    x, source = [], []
    colour, cosine = m["color"].astype(np.int64).reshape(3, 3), m["sixteen"][0].astype(np.int64)
    for i, path in enumerate(paths):
        for half in (False, True):
            rows = pixels(path, half)
            found = latents(rows.reshape(len(rows), -1), 3, 1, colour, cosine)
            found = found[rng.permutation(len(found))[:each]]
            other, (y, u, _) = found.astype(float), KEPT
            for plane in (slice(y, y + u), slice(y + u, None)):
                other[:, plane] *= rng.uniform(-1, 1, (len(found), 1))
            x += [found, np.rint(other).astype(np.int64)]
            source.append(np.full(2 * len(found), i))
    return np.concatenate(x), np.concatenate(source)


def pixels(path: Path, half: bool) -> np.ndarray:
    picture = Image.open(path).convert("RGB")
    return np.asarray(picture.resize((picture.width // 2, picture.height // 2), Image.LANCZOS) if half else picture)


def codebooks(m: dict, paths: list[Path], rng, least: int = SHARED, each: int = 2000) -> np.ndarray:
    """Codebooks (stages, 256, 64) int32 of the stage ``tokens``: k-means of what the stages before leave over.

    Squares are drawn from all of each photograph, and taken a second time in other colours: each of the planes of colour times a number
    from -1 to 1. Otherwise codewords stand on the tints of single photographs, and others use fewer of them (squares of photographs
    left out used 235 of 256 in the first codebook without, 242 with, at 0.7 dB less error). k-means begins with a plain sample, as
    k-means++ begins with the rarest squares. The first codebook is then `shared`, unless ``least`` is 0.
    """
    from compand.fit.kmeans import kmeans
    from compand.quantizer.tokens import STAGES, K

    x, source = vectors(m, paths, rng, each)
    rest, books = x, []
    for i in range(STAGES):
        rows = np.ascontiguousarray(rest, np.float32)
        book, ids = kmeans(rows, K, seed=i, iterations=20)
        if least and not i:
            book = np.rint(shared(rows, book, source, least))
            ids = _native.nearest(rows, book)
        books.append(np.rint(book).astype(np.int32))
        rest = rest - books[-1].astype(np.int64)[ids]
        print(f"codebook {i}: {np.sqrt(np.square(rest).sum(1).mean() / 768) / 16:.2f} levels left", flush=True)
    return np.stack(books)


def order(x: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Codewords from the last to the first to be left out, when always that one goes whose rows of x lose least by taking others."""
    far = np.square(x).sum(1)[:, None] - 2 * x @ book.T + np.square(book).sum(1)
    rows, out = np.arange(len(x)), []
    while len(out) < len(book):
        own = far.argmin(1)
        least = far[rows, own]
        far[rows, own] = np.inf
        other = far.min(1)
        far[rows, own] = least
        loss = np.bincount(own, weights=np.minimum(other - least, 1e30), minlength=len(book)).astype(np.float64)
        loss[out] = np.inf
        out.append(int(loss.argmin()))
        far[:, out[-1]] = np.inf
    return np.array(out[::-1], np.uint8)


def orders(m: dict, paths: list[Path], rng, name: str, most: int = 12_000) -> np.ndarray:
    """The `order` (stages, 256) uint8 of each codebook of a model that ships, on what the stages before leave over."""
    from compand.quantizer.tokens import tables

    rest, _ = vectors(m, paths, rng, 2000)
    rest, found = rest[rng.permutation(len(rest))[:most]], []
    for book in tables(name)[2]:
        found.append(order(rest.astype(np.float32), book.astype(np.float32)))
        rest = rest - book[_native.nearest(np.ascontiguousarray(rest, np.float32), np.ascontiguousarray(book, np.float32))]
    return np.stack(found)


def neighbours(paths: list[Path], rng, share: float = 0.2, least: int = 12) -> np.ndarray:
    """(4 * 64, 64) int16 in 1/4096: cosines of a square that is missing from those of the squares around it (`squares.filled`).

    Least squares over photographs as tokens of which a share is missing, plane by plane; weights below ``least`` become 0.
    """
    from compand.quantizer import squares, tokens

    gram, cross = np.zeros((256, 256)), np.zeros((256, 64))
    codec = compand.Codec("tokens:4:model=tokens3")
    colour, cosine, books = tokens.tables("tokens3")
    for path in paths:
        for half in (False, True):
            rows = pixels(path, half)
            true = tokens.latents(rows.reshape(len(rows), -1), 3, 1, colour, cosine)
            down, across = -(-rows.shape[0] // tokens.SIDE), -(-rows.shape[1] // tokens.SIDE)
            ids = codec.encode(rows).symbols("ids")
            known = sum(books[i][ids[:, i]] for i in range(4))
            gone = rng.random(len(true)) < share
            near, _ = squares.beside(np.flatnonzero(gone), down, across)
            near = squares.means(known, gone, down, across, tokens.FLAT)[near].reshape(-1, 256).astype(float)
            gram += near.T @ near
            cross += near.T @ true[gone]
    plane = np.repeat(np.arange(3), tokens.KEPT)
    weights = np.zeros((256, 64))
    for p in range(3):
        own, to = np.flatnonzero(np.tile(plane == p, 4)), np.flatnonzero(plane == p)
        some = gram[np.ix_(own, own)]
        weights[np.ix_(own, to)] = np.linalg.solve(some + 1e-4 * np.trace(some) / len(some) * np.eye(len(some)), cross[np.ix_(own, to)])
    found = np.rint(4096 * weights)
    return np.where(np.abs(found) < least, 0, found).astype(np.int16)


def write(path: Path, m: dict[str, np.ndarray]) -> None:
    """The model as a .cpd, each array in the smallest of a few ways."""
    with compand.Writer(path, overwrite=True, meta={"model": path.stem, "pillow": PIL.__version__}) as out:
        for name, x in m.items():
            out.write(name, x, min(("raw", "planes,rans", "bytes,lzma"), key=lambda spec: compand.Codec(spec).encode(x).nbytes))
    print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--shared", type=int, default=SHARED, help="photographs that each of the first tokens must be used by")
    parser.add_argument("--tokens", action="store_true", help="codebooks of tokens only, on the colours and cosines that ship")
    parser.add_argument("--orders", action="store_true", help="orders of the codewords of tokens3 only")
    parser.add_argument("--around", action="store_true", help="what squares say of missing ones between them only")
    args = parser.parse_args()
    paths, _ = photographs(args.photographs)
    if args.around:
        return write(args.out, {"around": neighbours(paths, np.random.default_rng(0))})
    if args.tokens or args.orders:
        with compand.open(Path(compand.__file__).parent / "models" / "photo.cpd") as shipped:
            m = {name: shipped[name].array() for name in ("color", "sixteen")}
        if args.orders:
            return write(args.out, {"tokens3": orders(m, paths, np.random.default_rng(0), "tokens3")})
        return write(args.out, {"codebooks": codebooks(m, paths, np.random.default_rng(0), args.shared)})
    rng = np.random.default_rng(0)
    colour = colours(paths)
    m = fresh(colour, *(bases(blocks(paths, colour, side, each, rng), side) for side, each in ((8, 4000), (16, 1700))))
    for i in range(args.passes):
        m = learn(m, paths, 1 if i == 0 else 2, i)
    write(args.out, {**m, **filtered(*examples(m, paths, colour, rng), rounds=args.rounds)})
    write(args.out.with_name("tokens3.cpd"), {"codebooks": codebooks(m, paths, np.random.default_rng(0), args.shared)})


if __name__ == "__main__":
    main()
