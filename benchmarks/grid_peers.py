"""Other programs on the subject of `grid.py`: HQQ, GPTQModel and GLQ, each layer by their own function, on CPU.

    pip install --no-deps --target PEERS hqq termcolor einops glq logbar device-smi tokenicer defuser pypcre threadpoolctl
    pip download --no-deps --no-build-isolation gptqmodel && tar xzf gptqmodel-*.tar.gz      # it is run from source
    PYTHONPATH=PEERS:gptqmodel-7.7.0 python benchmarks/grid_peers.py [--only HQQ]

Layers are coded one after the other, fitted to what the coded layers before them give for the same text (HQQ: to nothing); the
embedding as in `grid.py`. ``bits`` count ids, scales, zero points and signs as each program stores them. Rows are merged into grid.json
with ``how`` = the program.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time
from dataclasses import replace
from functools import cache
from importlib import metadata

import numpy as np
import record
import torch
from grid import EMBEDDING, Subject, save

import compand
from compand import modality
from compand.integration.language import Language
from compand.integration.language_fit import gather

GROUP = 64


def hqq(w: torch.Tensor, h: torch.Tensor, bits: int) -> tuple[torch.Tensor, float]:
    from hqq.core.quantize import Quantizer

    q, meta = Quantizer.quantize(w, nbits=bits, channel_wise=True, group_size=GROUP, optimize=True, axis=1,
                                 device="cpu", compute_dtype=torch.float32)
    return Quantizer.dequantize(q, meta), w.numel() * bits / 8 + 4 * meta["scale"].numel()  # scale and zero: 16 bits each


def gptqmodel(w: torch.Tensor, h: torch.Tensor, bits: int) -> tuple[torch.Tensor, float]:
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    group = GROUP if w.shape[1] % GROUP == 0 else -1
    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data = w.clone()
    x = torch.linalg.cholesky(h + 1e-6 * h.diagonal().mean() * torch.eye(len(h))).T.repeat(64, 1)  # inputs of this second moment
    task = GPTQ(layer, QuantizeConfig(bits=bits, group_size=group, sym=True, desc_act=False, act_group_aware=group > 0))
    task.quantizer.configure(perchannel=True)
    task.add_batch(x[None], layer(x)[None])
    found, scale = task.quantize()[:2]
    return found, w.numel() * bits / 8 + scale.numel() * (2 + bits / 8)  # its files hold a zero of the ids' bits with each scale


@cache
def shell():
    from glq.codebook import E8ShellCodebook

    return E8ShellCodebook.build(verbose=False)


def glq(w: torch.Tensor, h: torch.Tensor, bits: int) -> tuple[torch.Tensor, float]:
    from glq.quantize_model import quantize_layer_e8_shell_rht

    found, stored, _ = quantize_layer_e8_shell_rht(w, h.clone(), shell(), bpw=bits)
    nbytes = 0.0
    for name, a in stored.items():  # ids of the 256 first words are a byte in its packed files
        nbytes += a.numel() * (1 if name == "Qidxs2" and bits == 3 else a.element_size())
    return found, nbytes


PROGRAMS = {"HQQ": (hqq, "hqq", (2, 3, 4, 8)), "GPTQModel": (gptqmodel, "gptqmodel", (2, 3, 4, 8)), "GLQ": (glq, "glq", (2, 3, 4))}


def compress(model: pathlib.Path, out: pathlib.Path, text: str, quantize, bits: int) -> float:
    """Write the model with weights as a program leaves them; bits of a weight of the layers."""
    language = Language(model)
    language.whole()
    ids, done, nbytes, values = language.tokens(text, 256, 32), {}, 0.0, 0
    hidden, arguments = [language.embedding(row[None]) for row in ids], language.arguments(ids[:1])
    for layer, more in zip(language.layers, arguments, strict=True):
        for name, inputs in gather(layer, hidden, more, language.names[id(layer)]).items():
            weight = language.model.get_submodule(name).weight
            found, size = quantize(weight.data.clone(), torch.from_numpy(inputs.matrix.astype(np.float32)), bits)
            weight.data = found.detach().float().reshape(weight.shape)
            nbytes, values = nbytes + size, values + weight.numel()
            done[f"{name}.weight"] = compand.Codec("raw").encode(weight.numpy().astype(np.float32))
        hidden = [layer(h, **more) for h in hidden]
    full = f"{language.names[id(language.embedding)]}.weight"
    codes = compand.Codec(EMBEDDING).encode(language.weight(full))
    done[full] = replace(codes, dtype=language.items[full].dtype)
    modality.pack(language.source, out, spec=lambda name, shape, kind: done.get(name), overwrite=True, check=False)
    language.close()
    return 8 * nbytes / values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--only", choices=tuple(PROGRAMS))
    parser.add_argument("--model", type=pathlib.Path, help="a folder made by train_language.py; by default stories260K")
    args = parser.parse_args()
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        subject, out = Subject(args.data, args.model, pathlib.Path(folder)), pathlib.Path(folder, "out.cpd")
        for program, (quantize, package, rates) in PROGRAMS.items():
            if args.only not in (None, program):
                continue
            for bits in rates:
                start = time.process_time()
                try:
                    found = compress(subject.model, out, subject.calibration, quantize, bits)
                except ImportError as e:
                    print(f"{program} is not installed: {e}")
                    break
                seconds = time.process_time() - start
                try:
                    version = metadata.version(package)
                except metadata.PackageNotFoundError:  # run from source
                    version = "source"
                rows.append({**subject.words, "how": program, "spec": f"{program} {version}, {bits} bits", "bits": round(found, 3),
                             "free": round(found, 3), **subject.measured(out), "file bits": None, "cpu_s": round(seconds, 1)})
                print(json.dumps(rows[-1]), flush=True)
                save(rows)
    print(record.table(rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    main()
