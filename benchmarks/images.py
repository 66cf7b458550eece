"""Pictures: error at equal bits against JPEG, WebP, AVIF and JPEG XL; seconds; what is left when tiles are lost.

    python benchmarks/images.py --data FOLDER                   # FOLDER holds kodak/ and photos-test/
    python benchmarks/images.py --data FOLDER --only times      # under a minute, on an idle machine; also kodak, photos,
                                                                # loss, tokens, damage, seams, words: merged into one JSON
    pip install pillow imagecodecs                              # the peers (AVIF is part of Pillow)

Rates count every byte of each file (of compand: the .cpd file, index included). PSNR is over all values of RGB, MS-SSIM the mean over
channels, of every fourth picture of Kodak. BD-rate: for each picture, bits at equal quality, as a monotone cubic through (quality, log
bits), averaged over the common range of quality; then the mean over pictures; against WebP. "below 0.3": only up to the quality that
WebP has at 0.3 bits a pixel. One thread each. Nothing here was used to choose or train anything.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import pathlib
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import record
from PIL import Image

import compand
from compand import Codec, _native
from compand.metric import ms_ssim, psnr
from compand.modality import pack
from compand.modality.image import conceal
from compand.report.plot import Series, line_plot

ANCHOR = "webp"
STEPS = (12, 20, 34, 60, 105, 190)


def pillow(kind: str, **options):
    """(encode, decode) of a format of Pillow: picture → bytes, bytes → picture."""
    def encode(x, quality):
        out = io.BytesIO()
        Image.fromarray(x).save(out, kind, quality=quality, **options)
        return out.getvalue()

    return encode, lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def jpegxl():
    import imagecodecs

    return (lambda x, distance: imagecodecs.jpegxl_encode(x, distance=distance, effort=7, numthreads=1),
            lambda data: imagecodecs.jpegxl_decode(data, numthreads=1)[..., :3])


def packed(x, spec):
    """The bytes of the .cpd that the command line writes; a number is the step of ``image``."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = pathlib.Path(folder, "x.ppm"), pathlib.Path(folder, "x.cpd")
        source.write_bytes(b"P6\n%d %d\n255\n" % (x.shape[1], x.shape[0]) + x.tobytes())
        pack(source, out, spec=spec if isinstance(spec, str) else f"image:{spec:g}", check=False)
        return out.read_bytes()


def unpacked(data):
    with compand.open(data) as file:
        return file["image"].array()


def codecs() -> dict:
    """name → (encode, decode, qualities)."""
    aom = {"codec": "aom", "speed": 6, "subsampling": "4:4:4", "max_threads": 1}
    found = {"jpeg": (*pillow("JPEG", optimize=True, progressive=True), (4, 10, 25, 50, 80)),
             "webp": (*pillow("WEBP", method=6), (0, 4, 12, 25, 45, 70, 88)),
             "avif": (*pillow("AVIF", **aom), (8, 24, 42, 66)),
             "avif tune=psnr": (*pillow("AVIF", **aom, advanced={"tune": "psnr"}), (8, 24, 42, 66)),
             "compand": (packed, unpacked, STEPS)}
    try:
        found["jpeg xl"] = (*jpegxl(), (1, 3, 7, 15))
    except ImportError:
        print("no imagecodecs: JPEG XL is left out")
    return found


def curve(points, qualities):
    """log bits at qualities, by a monotone cubic through points (bits, quality)."""
    from scipy.interpolate import PchipInterpolator

    rising = []
    for bits, quality in sorted(points, key=lambda p: p[1]):
        if not rising or quality > rising[-1][1] + 1e-6:
            rising.append((bits, quality))
    bits, quality = np.array(rising).T
    return PchipInterpolator(quality, np.log(bits)), quality[0], quality[-1]


def bd_rate(anchor, points, most_bits: float | None = None) -> float | None:
    """Percent more bits than the anchor at equal quality; None if the curves hardly meet."""
    a, a0, a1 = curve(anchor, None)
    b, b0, b1 = curve(points, None)
    low, high = max(a0, b0), min(a1, b1)
    if most_bits is not None:
        grid = np.linspace(a0, a1, 2000)
        within = grid[np.exp(a(grid)) <= most_bits]
        if not within.size:
            return None
        high = min(high, within[-1])
    if high - low < (0.5 if low > 2 else 0.002):
        return None
    return 100 * (math.exp((b.integrate(low, high) - a.integrate(low, high)) / (high - low)) - 1)


def picture(path: pathlib.Path) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(Image.open(path).convert("RGB")))


def measured(path: pathlib.Path, only, structure: bool) -> list[dict]:
    """A row for each codec and quality of one picture."""
    x, rows = picture(path), []
    _native.set_threads(1)
    for name, (encode, decode, qualities) in codecs().items():
        for quality in qualities if not only or name in only else ():
            data = encode(x, quality)
            y = decode(data)
            row = {"picture": path.stem, "codec": name, "quality": quality, "bpp": round(8 * len(data) / (x.shape[0] * x.shape[1]), 5),
                   "psnr": round(psnr(x, y, peak=255.0), 4)}
            if structure:
                row["ms_ssim_db"] = round(-10 * math.log10(max(1 - ms_ssim(x, y, peak=255.0), 1e-9)), 4)
            rows.append(row)
    return rows


def measure(paths, only=None, structure: int = 0, jobs: int = 1, seconds: float = 1e9) -> list[dict]:
    """A row for each picture, codec and quality; MS-SSIM for every ``structure``-th picture. Pictures not done in time are left out."""
    rows, end = [], time.monotonic() + seconds
    with ProcessPoolExecutor(jobs) as pool:
        todo = [pool.submit(measured, path, only, bool(structure) and i % structure == 0) for i, path in enumerate(paths)]
        for path, done in zip(paths, todo, strict=True):
            try:
                rows += done.result(max(0.0, end - time.monotonic()))
            except TimeoutError:
                done.cancel()
                continue
            print(path.stem, flush=True)
    return rows


def summary(points: list[dict]) -> list[dict]:
    """BD-rates of each codec against the anchor, mean and range over pictures."""
    def of(codec, name, key):
        return [(r["bpp"], r[key]) for r in points if r["codec"] == codec and r["picture"] == name and key in r]

    names, out = list(dict.fromkeys(r["picture"] for r in points)), []
    for codec in dict.fromkeys(r["codec"] for r in points):
        row = {"codec": codec}
        for label, key, most in (("BD-rate PSNR %", "psnr", None), ("below 0.3 bpp %", "psnr", 0.3),
                                 ("BD-rate MS-SSIM %", "ms_ssim_db", None)):
            rates = [bd_rate(of(ANCHOR, n, key), of(codec, n, key), most) for n in names if of(codec, n, key)]
            found = [v for v in rates if v is not None]
            row[label] = round(statistics.mean(found), 1) if found else None
            if key == "psnr" and found:
                row[label.removesuffix(" %") + " from..to, pictures"] = f"{min(found):.0f}..{max(found):.0f}, {len(found)}"
        out.append(row)
    return sorted(out, key=lambda r: r["BD-rate PSNR %"] if r["BD-rate PSNR %"] is not None else 0)


def times(path: pathlib.Path) -> list[dict]:
    """Seconds to encode and decode one picture at about 0.25 and 0.8 bits a pixel, interleaved medians, one thread."""
    x, rows = picture(path), []
    _native.set_threads(1)
    levels = {"jpeg": (15, 65), "webp": (12, 70), "avif": (35, 68), "jpeg xl": (4, 1), "compand": (40, 14)}
    every = codecs()
    for at in (0, 1):
        runs, facts = {}, {}
        for name, pair in levels.items():
            if name not in every:
                continue
            encode, decode, _ = every[name]
            if name == "compand":
                codec = Codec(f"image:{pair[at]}")
                codes = codec.encode(x)
                runs[name, "encode"], runs[name, "decode"] = lambda c=codec: c.encode(x), lambda c=codec, d=codes: c.decode(d)
                facts[name] = 8 * codes.nbytes
            else:
                data = encode(x, pair[at])
                runs[name, "encode"], runs[name, "decode"] = lambda e=encode, q=pair[at]: e(x, q), lambda d=decode, b=data: d(b)
                facts[name] = 8 * len(data)
        found = record.interleave(runs, 9, 12)
        rows += [{"codec": name, "bpp": round(bits / (x.shape[0] * x.shape[1]), 3), "encode s": round(found[name, "encode"], 4),
                  "decode s": round(found[name, "decode"], 4)} for name, bits in facts.items()]
    _native.set_threads(0)
    return rows


PARTS = ("kodak", "photos", "times", "loss", "tokens", "damage", "seams", "words")
SHARES = (0.05, 0.1, 0.2)


def loss(paths, step: int = 24) -> list[dict]:
    """PSNR with a share of the tiles lost, chosen at random: details only, or all of a tile; and what small tiles cost."""
    rows = []
    for tile in (64, 128, 512):
        got: dict = {"bpp": [], "psnr, nothing lost": []}
        for i, path in enumerate(paths):
            x = picture(path)
            codec = Codec(f"image:{step}:tile={tile}")
            codes = codec.encode(x)
            parts, form, stage = codes.blocks[0].parts, codes.form, codec.stage
            n = stage.tiles(form)
            order = np.random.default_rng(i).permutation(n)
            got["bpp"].append(8 * codes.nbytes / (x.shape[0] * x.shape[1]))
            cases = [("psnr, nothing lost", 0, [])] + [(f"{what} of {share:.0%} lost", round(share * n), columns) for share in SHARES
                                                       for what, columns in (("details", [1]), ("tiles", [0, 1]))]
            for label, count, columns in cases if n >= 20 else cases[:1]:
                lost = np.zeros((n, 2), bool)
                lost[np.ix_(order[:count], columns)] = True
                y, _ = stage.restored(parts, form, lost=lost)
                got.setdefault(label, []).append(psnr(x, np.rint(y).reshape(x.shape).astype(np.uint8), peak=255.0))
        rows.append({"tile": tile, **{k: round(statistics.mean(v), 3) for k, v in got.items()}})
    return rows


def tokens(paths) -> list[dict]:
    """The stage ``tokens``: bits, PSNR and use of the codebook for each number of stages, and with a share of all indexes missing."""
    table = []
    for model in ("tokens3", "tokens2", "tokens"):
        found: dict[int, list] = {stages: [] for stages in (1, 2, 4, 8)}
        used: list[set] = [set() for _ in range(8)]
        for i, path in enumerate(paths):
            x = picture(path)
            for stages, rows in found.items():
                codec = Codec(f"tokens:{stages}:model={model}")
                codes = codec.encode(x)
                ids = codes.symbols("ids")
                for k in range(stages):
                    used[k].update(ids[:, k].tolist())
                chance = np.random.default_rng(i).random(ids.shape)
                got = [codec.stage.restored({"ids": ids}, codes.form, lost=chance < share)
                       for share in ((0, *SHARES) if model == "tokens3" else (0,))]
                rows.append((8 * codes.nbytes / (x.shape[0] * x.shape[1]), 8 * ids.size / (x.shape[0] * x.shape[1]),
                             *(psnr(x, y.reshape(x.shape).astype(np.uint8), peak=255.0) for y in got)))
        labels = ("bpp", "bpp of plain indexes", "psnr", *(f"psnr, {share:.0%} missing" for share in SHARES))
        for stages, rows in found.items():
            means = {k: round(statistics.mean(v), 4) for k, v in zip(labels, zip(*rows, strict=True), strict=False)}
            least = round(100 * min(map(len, used[:stages])) / 256, 1)
            table.append({"model": model, "stages": stages, **means, "least use of a codebook %": least})
    return table


def damage(paths, spread: int = 20) -> list[dict]:
    """Tokens dealt out to 20 chunks of a file: bytes of a share of the chunks, chosen at random, are changed, and `conceal` reads it."""
    rows = []
    for stages in (1, 2, 4, 8):
        found = []
        for i, path in enumerate(paths):
            x = picture(path)
            pixels = x.shape[0] * x.shape[1]
            plain, data = (packed(x, f"tokens:{stages}{more}:model=tokens3") for more in ("", f":spread={spread}"))
            with compand.open(data) as file:
                spots = [file._container.offset(c) for c in file["image"]._record["parts"].values() for c in c]
            order, got = np.random.default_rng(i).permutation(spread), []
            for share in (0, *SHARES):
                hurt = bytearray(data)
                for part in order[:round(share * spread)]:
                    hurt[spots[part]] ^= 255
                with compand.open(bytes(hurt)) as file:
                    restored, gone = conceal(file)
                got += [psnr(x, restored.color, peak=255.0), 100 * gone.mean()]
            found.append([8 * len(plain) / pixels, 8 * len(data) / pixels, *got])
        labels = ["bpp of the file", f"with spread={spread}"]
        for share in (0, *SHARES):
            labels += [f"psnr, {share:.0%} of chunks damaged", f"indexes lost % at {share:.0%}"]
        rows.append({"stages": stages, **{k: round(statistics.mean(v), 4) for k, v in zip(labels, zip(*found, strict=True), strict=True)}})
    return rows


def seams(paths) -> list[dict]:
    """What tiles change: bits, and pixels that differ from those of a picture of one tile (none, as only bits are coded apart)."""
    tiles, rows = (64, 128, 512, 4096), []
    for step in (24, 60):
        found: dict[int, list] = {tile: [] for tile in tiles}
        for path in paths:
            x, whole = picture(path), None
            for tile in reversed(tiles):
                codec = Codec(f"image:{step}:tile={tile}")
                codes = codec.encode(x)
                y = codec.decode(codes)
                whole = y if whole is None else whole
                found[tile].append((8 * codes.nbytes / (x.shape[0] * x.shape[1]), 100 * (y != whole).mean()))
        for tile, own in found.items():
            bpp, differ = (round(statistics.mean(v), 4) for v in zip(*own, strict=True))
            rows.append({"step": step, "tile": tile, "bpp": bpp, "pixels that differ %": differ})
    return rows


def words(paths) -> list[dict]:
    """Several rates from the codebooks that ship: stages, and the most needed codewords of each."""
    table = []
    for stages in (1, 2, 3, 4, 6, 8):
        for n in (16, 64, 256):
            codec = Codec(f"tokens:{stages}:words={n}:model=tokens3")
            rows = []
            for path in paths:
                x = picture(path)
                codes = codec.encode(x)
                rows.append((8 * codes.nbytes / (x.shape[0] * x.shape[1]), psnr(x, codec.decode(codes), peak=255.0)))
            bpp, quality = (round(statistics.mean(v), 4) for v in zip(*rows, strict=True))
            table.append({"stages": stages, "words": n, "bpp": bpp, "bpp of plain indexes": stages * math.log2(n) / 256, "psnr": quality})
    return table


ON_KODAK = {"loss": loss, "tokens": tokens, "damage": damage, "seams": seams, "words": words}


def plot(points: list[dict], path: pathlib.Path, title: str) -> None:
    """PSNR over bits a pixel, both means over the pictures at each quality, as an SVG of its own."""
    series = []
    for codec in dict.fromkeys(r["codec"] for r in points):
        own = [r for r in points if r["codec"] == codec]
        at = [[r for r in own if r["quality"] == q] for q in dict.fromkeys(r["quality"] for r in own)]
        means = [(statistics.mean(r["bpp"] for r in g), statistics.mean(r["psnr"] for r in g)) for g in at]
        means = sorted(m for m in means if m[0] < 1.3)
        series.append(Series(codec, [(*m, codec if i == len(means) - 1 else "") for i, m in enumerate(means)]))
    svg = line_plot(series, "bits per pixel", f"PSNR dB, {title}").partition("</svg>")[0] + "</svg>"
    for i, colour in enumerate(("#2f6fde", "#d9822b", "#1f9d61", "#b0439e", "#7a6ff0", "#c03a2b")):
        svg = svg.replace(f"var(--c{i})", colour)
    style = ("<style>text{font:13px sans-serif;fill:#444}.grid{stroke:#ddd}.axis{stroke:#666}</style>"
             '<rect width="100%" height="100%" fill="#fff"/>')
    svg = svg.replace("var(--card)", "#fff").replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    path.write_text(svg.replace(">", ">" + style, 1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with kodak/ and photos-test/")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seconds", type=float, default=1e9, help="leave out the pictures of Kodak or photos that are not done by then")
    parser.add_argument("--pictures", type=int, help="only so many")
    args = parser.parse_args()
    kodak = sorted((args.data / "kodak").glob("*.png"))[:args.pictures]
    photos = sorted((args.data / "photos-test").glob("*.jpg"))[:args.pictures]
    old = record.RESULTS / "images.json"
    kept = {r["part"]: r for r in json.loads(old.read_text())["rows"]} if old.exists() else {}
    start = time.time()
    for part in args.only or PARTS:
        points: list[dict] = []
        if part == "kodak":
            points = measure(kodak, structure=4, jobs=args.jobs, seconds=args.seconds)
        elif part == "photos":
            points = measure(photos, only={"jpeg", "webp", "avif tune=psnr", "jpeg xl", "compand"}, jobs=args.jobs, seconds=args.seconds)
        if part in ("kodak", "photos"):
            kept[part] = {"part": part, "pictures": len({r["picture"] for r in points}), "against": ANCHOR, "summary": summary(points),
                          "points": points}
            plot(points, record.RESULTS / f"images-{part}.svg", "Kodak" if part == "kodak" else "photos-test")
        else:
            rows = times(args.data / "kodak" / "kodim23.png") if part == "times" else ON_KODAK[part](kodak)
            kept[part] = {"part": part, "pictures": 1 if part == "times" else len(kodak), "summary": rows, "machine": record.machine()}
        print(f"\n{part}\n" + record.table(kept[part]["summary"]), flush=True)
        if old.exists():  # another part may have been written meanwhile
            kept = {**{r["part"]: r for r in json.loads(old.read_text())["rows"]}, part: kept[part]}
        peers = {"pillow": Image.__version__, "jpeg": "optimized, progressive, 4:2:0", "webp": "method 6", "avif": "aom, speed 6, 4:4:4",
                 "jpeg xl": "libjxl by imagecodecs, effort 7"}
        record.save("images", list(kept.values()), peers=peers, seconds=round(time.time() - start))


if __name__ == "__main__":
    main()
