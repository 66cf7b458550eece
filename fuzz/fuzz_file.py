"""Coverage-guided fuzzing of everything that reads bytes: `python fuzz/fuzz_file.py -max_total_time=60 [corpus folder]`.

The mutator knows the format: half of its mutants repair checksums, so that index rules and decoders are reached. The first byte of
an input that is no .cpd file chooses what else to feed: a spec, an index, a coder.
"""

import gc
import io
import sys
import tempfile
import types
from pathlib import Path

import atheris
import numpy as np

import compand
from compand import entropy, index
from compand.registry import builtin
from compand.testing import mutate

SPECS = ("raw", "bytes", "bytes,lzma", "bytes,rans", "planes,rans", "int:3:group=16", "center,int:4:group=16", "hadamard,int:2:group=16",
         "scale,rotate,int:4", "int:2:group=16+int:3", "sign:group=16+sign:group=16", "ternary", "float:e4m3", "sparse:0.05+int:3",
         "lowrank:2+int:4",
         "int:3+salient:0.2:4", "table:4", "vq:16", "pq:4x4", "pca:8,int:4", "delta,planes,rans", "compand:power,int:4",
         "reshape:8,int:4,rans")


def seeds() -> list[bytes]:
    """One small file for each of SPECS and of the examples of every stage; those that do not fit such values are left out."""
    x = np.random.default_rng(0).standard_normal((48, 48)).astype(np.float32)
    found = []
    for spec in dict.fromkeys([*SPECS, *(spec for cls in builtin().values() for spec in cls.examples)]):
        out = io.BytesIO()
        try:
            with compand.Writer(out, meta={"a": 1}) as file:
                file.write("x", x, spec, attrs={"é": 1}, check=False)
                file.write_file("config.json", b'{"a": 1}')
        except compand.CompandError as e:
            print(f"no seed for {spec}: {str(e).splitlines()[0]}")
            continue
        found.append(out.getvalue())
    return found


def mutator(data: bytes, most: int, seed: int) -> bytes:
    """Structure-aware mutants of files, plain ones of the rest."""
    if seed % 4:
        try:
            (_, data), = mutate.mutants(data, seed, 1)
            return data[:most]
        except (compand.CompandError, ValueError, LookupError, TypeError, AttributeError):
            pass  # not a good file: mutate its bytes
    return atheris.Mutate(data, min(most, len(data) + 64))


@atheris.instrument_func
def one_input(data: bytes) -> None:
    mutate.check_contract(data)
    if not data or data[:4] == b"\x89CPD":
        return
    try:
        match data[0] % 4:
            case 0:
                stage = compand.parse(data[1:].decode("utf-8", "replace"))
                assert str(compand.parse(str(stage))) == str(stage)
            case 1:
                index.loads(data[1:], compand.Limits())
            case 2:
                entropy.coder_of("lzma").decode(np.frombuffer(data[1:], np.uint8), (5, 7), 256)
            case 3:
                k = (2, 16, 256, 1000, 65536)[data[1] % 5] if len(data) > 1 else 2
                entropy.coder_of("rans").decode(np.frombuffer(data[2:], np.uint8), (17, 19), k)
    except compand.CompandError:
        pass


def main() -> None:
    """Fuzz from seed files made now, and any corpus folder given."""
    compand.stage_names()  # loads them
    for f in [f for f in gc.get_objects() if isinstance(f, types.FunctionType) and (f.__module__ or "").startswith("compand")]:
        atheris.instrument_func(f)  # import hooks do not see an editable install
    folder = Path(tempfile.mkdtemp(prefix="compand-fuzz-"))
    for i, data in enumerate(seeds()):
        (folder / f"seed{i}").write_bytes(data)
    for i, text in enumerate(SPECS):
        (folder / f"spec{i}").write_bytes(b"\0" + text.encode())
    atheris.Setup([*sys.argv, "-max_len=32768", "-timeout=10", "-rss_limit_mb=2048", str(folder)], one_input, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
