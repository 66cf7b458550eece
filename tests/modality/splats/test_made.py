"""Scenes made to harm: sizes that are not in the bytes, members and entries of other kinds, names that are taken."""

import io
import json
import zipfile

import numpy as np
import pytest

import compand
from compand import CompandError, CorruptError, FormatError, InputError, LimitError, UnsupportedError
from compand.modality.splats import Splats, format_of, read, write
from compand.modality.splats.sequence import Sequence, write_sequence


def bundle(path, change=lambda name, data: data, how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as z:
        members = {name: z.read(name) for name in z.namelist()}
    with zipfile.ZipFile(path, "w", how) as z:
        for name, data in members.items():
            z.writestr(name, change(name, data))


@pytest.fixture
def sog(scene, tmp_path):
    pytest.importorskip("PIL")
    write(tmp_path / "a.sog", scene(40, 1))
    return tmp_path / "a.sog"


def test_sog_pictures_cut_short(sog):
    whole = sog.read_bytes()
    for keep in range(20, 200, 7):
        sog.write_bytes(whole)
        bundle(sog, lambda name, data, keep=keep: data[:keep] if name == "means_l.webp" else data)
        with pytest.raises(CompandError):
            read(sog)


def test_sog_of_other_compression(sog):
    bundle(sog, how=zipfile.ZIP_LZMA)
    data = bytearray(sog.read_bytes())
    data[60:90] = bytes(30)
    sog.write_bytes(data)
    with pytest.raises(UnsupportedError, match="stored"):
        read(sog)


def counting(sog, n, picture=None):
    bundle(sog, lambda name, data: json.dumps({**json.loads(data), "count": n}).encode() if name == "meta.json" else picture or data)


def test_sog_of_more_than_memory(sog):
    counting(sog, 100_000_000)
    with pytest.raises(LimitError, match="splats"):
        read(sog)


def test_sog_of_more_than_its_bytes_hold(sog):
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGBA", (2500, 2500)).save(out, "WEBP", lossless=True)
    counting(sog, 2500 * 2500, out.getvalue())
    with pytest.raises(FormatError, match=r"in [0-9,]+ bytes"):
        read(sog)


def ply(path, *header, body=b""):
    path.write_bytes("\n".join(["ply", *header, "end_header\n"]).encode() + body)
    return path


def test_ply_tables_without_columns(tmp_path):
    words = [f"property uint packed_{w}" for w in ("position", "rotation", "scale", "color")]
    path = ply(tmp_path / "a.ply", "format binary_little_endian 1.0", "element chunk 0", "element vertex 0", *words)
    with pytest.raises(FormatError):
        read(path)


def test_ply_that_says_its_format_late(tmp_path):
    path = ply(tmp_path / "a.ply", "element vertex 1", "property float x", "format binary_big_endian 1.0", body=bytes(4))
    with pytest.raises(FormatError):
        read(path)


@pytest.mark.parametrize("name", ["positions", "sh0", "splats"])
def test_ply_columns_of_taken_names(name, scene, tmp_path):
    s = scene(3, 0)
    good = Splats(**{k: v for k, v in s.arrays().items() if k not in s.extra}, extra={"confidence": np.ones(3, np.float32)})
    write(tmp_path / "a.ply", good)
    data = (tmp_path / "a.ply").read_bytes()
    assert "confidence" in read(tmp_path / "a.ply").extra
    (tmp_path / "a.ply").write_bytes(data.replace(b"float confidence", f"float {name}".encode()))
    with pytest.raises(InputError, match=name):
        read(tmp_path / "a.ply")


def rewritten(path, name, x):
    with compand.open(path) as f:
        kept = {n: f[n].codes() for n in f.names if n != name}
        meta = f.meta
        order = list(f.names)
        with compand.Writer(path.with_suffix(".bad.cpd"), meta=meta) as out:
            for n in order:
                if n == name:
                    out.write(n, x, "planes,rans" if x.dtype.kind != "f" else "raw")
                else:
                    out.write_codes(n, kept[n])
    return path.with_suffix(".bad.cpd")


@pytest.mark.parametrize(("name", "x"), [("gate000001", np.zeros(5, np.int32)), ("gate000001", np.zeros(1, np.uint8)),
                                         ("step000001", np.zeros((14, 40))), ("step000001", np.zeros(3, np.int16)),
                                         ("key000000", np.zeros(14, np.float32)), ("key000000", np.zeros((40, 14), np.float32))])
def test_sequences_of_other_arrays(name, x, scene, tmp_path):
    s = scene(40, 0)
    moved = Splats(s.positions + 1, s.scales, s.rotations, s.opacity, s.sh0)
    write_sequence(tmp_path / "a.cpd", [s, moved])
    with Sequence(rewritten(tmp_path / "a.cpd", name, x)) as walk, pytest.raises((CorruptError, FormatError)):
        walk[1]


def test_a_sequence_without_its_steps(scene, tmp_path):
    s = scene(40, 0)
    write_sequence(tmp_path / "a.cpd", [s, Splats(s.positions + 1, s.scales, s.rotations, s.opacity, s.sh0)])
    with compand.open(tmp_path / "a.cpd") as f, compand.Writer(tmp_path / "b.cpd", meta=f.meta) as out:
        for name in f.names:
            if not name.startswith("step"):
                out.write_codes(name, f[name].codes())
    with Sequence(tmp_path / "b.cpd") as walk, pytest.raises(CorruptError, match="steps"):
        walk[1]


def test_format_of_nothing(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"")
    assert format_of(tmp_path / "a.bin") is None


@pytest.mark.parametrize("kind", ["spz", "sog", "splat"])
def test_splats_that_are_not_finite_are_not_shipped(kind, scene, tmp_path):
    if kind != "splat":
        pytest.importorskip("PIL" if kind == "sog" else "zstandard")
    s = scene(20, 1)
    s.positions[3, 0], s.sh0[5], s.sh_rest[7, 2], s.scales[4], s.opacity[6] = np.nan, -np.inf, np.nan, np.inf, np.inf
    write(tmp_path / f"a.{kind}", s)
    back = read(tmp_path / f"a.{kind}")
    assert len(back) == 17
    assert all(np.isfinite(x).all() for x in back.arrays().values())
