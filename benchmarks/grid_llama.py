"""llama.cpp's types on the subjects of `grid.py`, and what `compand refit` makes of the same files: read back and measured as rows there.

    python benchmarks/grid_llama.py LLAMA_BIN [--model FOLDER] [--types Q2_K ...]

Each type with an importance matrix of the text that the other methods are fitted to. Layers are what the file has, the embedding is as
in `grid.py`; ``bits`` count the matrices of layers as they lie in the file. Rows of stories260K have 64 and 172 columns: types of blocks of
256 do not take them, and 172 columns stay float16, which is counted. What llama.cpp rounds when it computes is not measured here.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time

import numpy as np
import record
import refit
from grid import EMBEDDING, Subject, save

import compand
from compand import modality
from compand.integration import gguf_folder, gguf_model, gguf_refit
from compand.modality import detect
from compand.modality.gguf import Gguf
from compand.modality.gguf_grid import writable

SMALL = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
WHOLE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", *SMALL)


def layers(path: pathlib.Path) -> tuple[dict[str, str], float]:
    """The types of the matrices of layers, and their bits a weight."""
    with Gguf(path) as file:
        own = [t for t in file.tensors if t.name.startswith("blk.") and len(t.shape) == 2]
    names = [t.type.name for t in own]
    return {t: names.count(t) for t in dict.fromkeys(names)}, 8 * sum(t.nbytes for t in own) / sum(int(np.prod(t.shape)) for t in own)


def as_cpd(path: pathlib.Path, model: pathlib.Path, room: pathlib.Path) -> pathlib.Path:
    """The model with the layers of a GGUF file, its embedding as in `grid.py`."""
    gguf_folder.to_folder(path, room / "read", dtype="float32", overwrite=True)
    with detect(room / "read") as read, detect(model) as source:
        found = {item.name: np.asarray(item.load()) for item in read.items()}

        def choose(name: str, shape, kind):
            if len(shape) < 2:
                return None
            return compand.Codec(EMBEDDING) if "embed" in name else compand.Codec("raw").encode(found[name])

        modality.pack(source, room / "read.cpd", spec=choose, overwrite=True, check=False)
    return room / "read.cpd"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--model", type=pathlib.Path, help="a folder made by train_language.py; by default stories260K")
    parser.add_argument("--types", nargs="+")
    args = parser.parse_args()
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        room = pathlib.Path(folder)
        subject = Subject(args.data, args.model, room)
        full, calibration = room / "full.gguf", room / "calib.txt"
        if args.model:
            gguf_model.from_folder(args.model, full, kind="F32")
        else:
            refit.stories_gguf(args.data / "lm", full)
        calibration.write_text(subject.calibration)
        refit.tool(args.llama, "imatrix", "-m", full, "-f", calibration, "-o", room / "imatrix.gguf", "-c", 256, "--chunks", 32, "-t", 1)
        for kind in args.types or (WHOLE if args.model else SMALL):
            plain, better, start = room / "plain.gguf", room / "better.gguf", time.process_time()
            refit.tool(args.llama, "quantize", "--imatrix", room / "imatrix.gguf", full, plain, kind, 1)
            types, bits = layers(plain)
            for how, path in (("llama.cpp", plain), ("llama.cpp, refit", better)):
                if path == better:
                    if not set(types) & (set(writable()) - set(gguf_refit.KEPT)):
                        continue
                    gguf_refit.refit(plain, subject.model, better, calibration=subject.calibration, sequences=32, length=256,
                                     overwrite=True)
                rows.append({**subject.words, "how": how, "spec": kind, "bits": round(bits, 3), "free": round(bits, 3), "types": types,
                             **subject.measured(as_cpd(path, subject.model, room)), "file bits": None,
                             "cpu_s": round(time.process_time() - start, 1)})
                print(json.dumps(rows[-1]), flush=True)
            save(rows)
    print(record.table(rows))


if __name__ == "__main__":
    np.seterr(all="ignore")
    import torch

    torch.set_num_threads(1)
    main()
