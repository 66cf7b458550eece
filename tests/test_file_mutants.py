"""More than a hundred thousand mutants of small files: each ends in a result or a CompandError, and nothing damaged passes for good."""

import functools
import io
import pathlib

import numpy as np
import pytest

import compand
from compand.container import TRAILER
from compand.testing import mutate

RNG = np.random.default_rng(11)
X = RNG.standard_normal((70, 32)).astype(np.float32)
ENTRIES = {
    "raw": {"x": (X, "raw"), "y": (X[:3].astype(np.float16), "raw"), "e": (X[:0], "raw"), "b": (X[:9] > 0, "raw")},
    "bytes": {"x": ((X * 4).astype(np.int8), "bytes,lzma"), "y": (X[:9], "bytes"), "s": (np.float64(2), "bytes,lzma")},
    "fitted": {"x": (X, "center,int:4:group=16"), "y": (X[:7], "center,int:4:group=16"), "v": (X[0], "int:3")},
    "rotated": {"x": (X, "hadamard,int:3:group=16"), "y": (X, "scale,rotate,int:2")},
    "sum": {"x": (X, "int:2:group=16+int:3"), "y": (X[:40], "center,(int:2+int:2),lzma")},
    "entropy": {"x": (X, "planes,rans"), "y": (X, "center,int:4:group=16,rans"), "z": ((X * 9).astype(np.int16), "delta,planes,rans")},
    "vectors": {"x": (X, "pq:4x4"), "y": (X, "sparse:0.05+int:3"), "z": (X, "lowrank:2+table:3"), "w": (X, "sign+ternary:group=16"),
                "v": (X, "int:3+salient:0.2:4")},
}
SAMPLES = 800  # random mutants of each file
GOLDEN = sorted((pathlib.Path(__file__).parent / "golden").glob("*.cpd"))


@functools.cache
def example(kind):
    out = io.BytesIO()
    with compand.Writer(out, meta={"modality": "test"}) as file:
        for name, (x, spec) in ENTRIES[kind].items():
            file.write(name, x, spec, attrs={"a": [1, "é"]}, sha256=kind in ("raw", "bytes"))
        if kind == "bytes":
            codec = compand.Codec("bytes,lzma")
            rows = RNG.integers(0, 9, (300, 64), np.uint8)
            blocks = tuple(codec.encode(rows[i:i + 64]).blocks[0] for i in range(0, 300, 64))
            file.write_codes("blocks", compand.Codes(codec, rows.shape, "uint8", blocks))
            file.write_file("config.json", b'{"model_type": "bert"}')
    return out.getvalue()


@pytest.mark.parametrize("kind", ENTRIES)
def test_the_good_files_are_good(kind):
    data = example(kind)
    assert mutate.check_contract(data) == "ok"
    assert mutate.with_chunks(data, mutate.chunks_of(data)) == mutate.with_index(data, mutate.index_of(data))
    assert mutate.check_contract(mutate.with_index(data, mutate.index_of(data))) == "ok"


@pytest.mark.parametrize("kind", ENTRIES)
def test_every_bit_of_index_and_trailer_is_guarded(kind):
    data = example(kind)
    at = TRAILER.unpack(data[-TRAILER.size:])[0]
    for i, mutant in enumerate(mutate.flips(data, at, len(data))):
        assert mutate.check_contract(mutant) != "ok", f"bit {i % 8} of byte {at + i // 8}"


@pytest.mark.parametrize("kind", ENTRIES)
def test_every_byte_of_header_chunks_and_padding_is_guarded(kind):
    data = example(kind)
    at = TRAILER.unpack(data[-TRAILER.size:])[0]
    for i in [*range(64), *RNG.integers(64, at, 300)]:
        mutant = bytearray(data)
        mutant[i] ^= 1 << int(RNG.integers(8))
        try:
            with pytest.raises(compand.CompandError):
                compand.open(bytes(mutant)).verify("checksums")
        except BaseException:
            print(f"byte {i}")
            raise


@pytest.mark.parametrize("kind", ENTRIES)
def test_every_truncation_is_found(kind):
    data = example(kind)
    for size in range(len(data)):
        with pytest.raises(compand.CompandError):
            compand.open(data[:size])


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_mutants_of_every_stage_keep_the_contract(path):
    outcomes = {}
    for what, mutant in mutate.mutants(path.read_bytes(), seed=7, n=150):
        outcomes.setdefault(what, set()).add(mutate.check_contract(mutant))
    assert outcomes["any_flip"] <= {"FormatError", "CorruptError"} and outcomes["chunk_bytes"]


@pytest.mark.parametrize("kind", ENTRIES)
def test_random_mutants_keep_the_contract(kind):
    outcomes = {}
    for i, (what, mutant) in enumerate(mutate.mutants(example(kind), seed=23, n=SAMPLES)):
        try:
            outcome = mutate.check_contract(mutant)
        except BaseException:
            print(f"mutant {i}: {what}")
            raise
        outcomes.setdefault(what, set()).add(outcome)
    assert outcomes["any_flip"] <= {"FormatError", "CorruptError"}  # checksums see what is not repaired
    assert "ok" in outcomes["chunk_bytes"] or kind in ("raw", "bytes")  # repaired ones reach the decoders, a SHA-256 sees them
