"""Coverage-guided fuzzing of the readers of splats: `python fuzz/fuzz_splats.py FORMAT -max_total_time=60 [corpus folder]`.

FORMAT is ply, compressed, spz, spz4, sog, splat, ksplat, cpd or streams (those of a block of the stage ``splat``, which checksums of a
file would else protect): a target each. Anything but a scene or a CompandError is a fault.
"""

import gc
import io
import json
import struct
import sys
import tempfile
import types
import zipfile
from pathlib import Path

import atheris
import numpy as np

import compand
from compand.modality.splats import Splats, antimatter, compressed, ksplat, matrix, ply, read, sog, write_to  # noqa: F401  read by name
from compand.modality.splats import spz as spz_format
from compand.quantizer.splat import PARTS

SUFFIX = {"ply": ".ply", "compressed": ".ply", "spz": ".spz", "spz4": ".spz", "sog": ".sog", "splat": ".splat", "ksplat": ".ksplat",
          "cpd": ".cpd", "streams": ""}
CODEC = compand.Codec("splat")


def seed(kind: str) -> bytes:
    """A small good file."""
    rng = np.random.default_rng(0)
    s = Splats(rng.standard_normal((20, 3)), rng.standard_normal((20, 3)) - 4, rng.standard_normal((20, 4)), rng.standard_normal(20),
               rng.standard_normal((20, 3)) * 0.3, rng.standard_normal((20, 9)) * 0.1)
    out = io.BytesIO()
    if kind == "cpd":
        x = matrix(s)
        with compand.Writer(out, meta={"modality": "splats"}) as f:
            f.write("splats", x, compand.Codec("splat").fit(x))
    elif kind == "spz":
        spz_format.write(out, s, version=3)
    elif kind == "compressed":
        names = [f"{e}_{w}" for e in ("min", "max") for w in ("x", "y", "z", "scale_x", "scale_y", "scale_z")]
        out.write(("ply\nformat binary_little_endian 1.0\nelement chunk 1\n" + "".join(f"property float {n}\n" for n in names) +
                   "element vertex 3\n" + "".join(f"property uint packed_{n}\n" for n in ("position", "rotation", "scale", "color")) +
                   "end_header\n").encode() + np.arange(12, dtype="<f4").tobytes() + rng.bytes(48))
    elif kind == "ksplat":
        head, section = bytearray(4096), bytearray(1024)
        struct.pack_into("<BBxxIIIIH", head, 0, 0, 1, 1, 1, 3, 3, 0)
        struct.pack_into("<II", section, 0, 3, 3)
        out.write(bytes(head) + bytes(section) + np.ones(3 * 11, "<f4").tobytes())
    elif kind == "streams":
        return streams(s)
    else:
        write_to(out, s, kind.removesuffix("4"))
    return out.getvalue()


def streams(s: Splats) -> bytes:
    """Sizes of the streams, 16 bits each, and the streams."""
    x = matrix(s)
    global CODEC
    CODEC = CODEC.fit(x)
    parts = [part.tobytes() for part in CODEC.encode(x).blocks[0].parts.values()]
    return struct.pack("<8H", *map(len, parts)) + b"".join(parts)


def decode_streams(data: bytes) -> None:
    """A block of 20 splats from such bytes, whatever they are."""
    sizes, parts = struct.unpack("<8H", data[:16].ljust(16, b"\0")), {}
    at = 16
    for name, size in zip(PARTS, sizes, strict=True):
        parts[name] = np.frombuffer(data[at:at + size], np.uint8)
        at += size
    try:
        assert CODEC.stage.decode(parts, CODEC.form((20, 23), "float32")).shape == (20, 23)
    except compand.CompandError:
        pass


def main() -> None:
    """Fuzz one format."""
    kind = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in SUFFIX else "ply"
    folder = Path(tempfile.mkdtemp(prefix="compand-fuzz-"))
    (folder / "corpus").mkdir()
    (folder / "corpus" / "seed").write_bytes(seed(kind))
    path = folder / f"case{SUFFIX[kind]}"

    for f in [f for f in gc.get_objects() if isinstance(f, types.FunctionType) and (f.__module__ or "").startswith("compand")]:
        atheris.instrument_func(f)  # import hooks do not see an editable install

    @atheris.instrument_func
    def one_input(data: bytes) -> None:
        if kind == "streams":
            return decode_streams(data)
        if kind == "sog" and data[:1] == b"{":  # meta.json alone reaches further than a damaged zip
            with zipfile.ZipFile(path, "w") as z:
                z.writestr("meta.json", data)
        else:
            path.write_bytes(data)
        try:
            scene = read(path)
            assert all(len(x) == len(scene) for x in scene.arrays().values())
        except compand.CompandError:
            pass

    if kind == "sog":
        means = {"mins": [0, 0, 0], "maxs": [1, 1, 1], "files": ["a.webp", "b.webp"]}
        meta = {"version": 2, "count": 4, "means": means, "scales": {}, "quats": {}, "sh0": {}}
        (folder / "corpus" / "meta").write_text(json.dumps(meta))
    atheris.Setup([*sys.argv, "-max_len=32768", "-timeout=10", "-rss_limit_mb=2048", str(folder / "corpus")], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
