"""pack and unpack: what went in comes out, bit by bit where that is promised."""

import hashlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from test_formats import same, small_tensors, tensors_file
from test_gguf import blocks, gguf_file

import compand
from compand import FormatError, InputError, OverwriteError
from compand.modality import detect, pack, unpack
from compand.modality.gguf_types import TYPES
from compand.modality.hf import safe_path
from compand.modality.weights import difference, restore

rng = np.random.default_rng(0)


def sha(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def weights(seed=0, n=64):
    r = np.random.default_rng(seed)
    w = (r.standard_normal((n, n)) * 0.05).astype(ml_dtypes.bfloat16)
    return {"w": w, "w2": (r.standard_normal((n, n)) * 0.05).astype(np.float32),
            "norm": np.ones(n, np.float32), "ids": np.arange(n)}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "model-1.safetensors").write_bytes(small_tensors(**weights(0)))
    (folder / "model-2.safetensors").write_bytes(small_tensors(head=weights(0)["w2"], w=weights(1)["w"]))
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "sub" / "vocab.txt").write_text("")
    (folder / "old.bin").write_bytes(rng.bytes(1000))
    return folder


def test_model_folder_comes_back_bit_by_bit(model, tmp_path):
    seen = []
    report = pack(model, tmp_path / "m.cpd", lossless=True, progress=lambda *a: seen.append(a))
    unpack(tmp_path / "m.cpd", tmp_path / "back")
    files = sorted(p.relative_to(model) for p in model.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "back") for p in (tmp_path / "back").rglob("*") if p.is_file())
    assert all(sha(model / p) == sha(tmp_path / "back" / p) for p in files)
    assert seen[-1][0] == seen[-1][1] and report.source_bytes > report.file_bytes > 0
    with pytest.raises(OverwriteError):
        unpack(tmp_path / "m.cpd", tmp_path / "back")
    with pytest.raises(OverwriteError):
        pack(model, tmp_path / "m.cpd", lossless=True)
    unpack(tmp_path / "m.cpd", tmp_path / "back", overwrite=True)


def test_a_folder_is_not_mixed_with_weights_of_another(model, tmp_path):
    pack(model, tmp_path / "m.cpd", lossless=True)
    back = tmp_path / "back"
    unpack(tmp_path / "m.cpd", back)
    (back / "notes.txt").write_text("mine")
    unpack(tmp_path / "m.cpd", back, overwrite=True)
    (back / "model-3.safetensors").write_bytes(b"of another model")
    before = sha(back / "model-1.safetensors")
    with pytest.raises(OverwriteError, match=r"model-3\.safetensors.*remove"):
        unpack(tmp_path / "m.cpd", back, overwrite=True)
    assert (back / "notes.txt").read_text() == "mine" and sha(back / "model-1.safetensors") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "m.cpd", "model"]


def test_equal_tensors_are_stored_once(tmp_path):
    x = rng.integers(0, 1 << 32, (256, 256), dtype=np.uint32).view(np.float32)
    (tmp_path / "a").write_bytes(small_tensors(embed=x, head=x))
    pack(tmp_path / "a", tmp_path / "a.cpd", lossless=True)
    assert (tmp_path / "a.cpd").stat().st_size < 1.1 * x.nbytes


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "gguf"])
def test_files_come_back(kind, tmp_path):
    path = tmp_path / f"in.{kind}"
    if kind == "npy":
        np.save(path, np.asfortranarray(rng.standard_normal((20, 30))).astype(">f4"))
    elif kind == "npz":
        np.savez_compressed(path, a=rng.standard_normal((20, 30)), b=np.arange(5))
    elif kind == "safetensors":
        path.write_bytes(small_tensors(**weights()))
    else:
        path.write_bytes(gguf_file([(t.name, (2, 2 * t.values), k, blocks(k, 4).tobytes()) for k, t in TYPES.items()]))
    pack(path, tmp_path / "x.cpd", lossless=True)
    unpack(tmp_path / "x.cpd", tmp_path / f"out.{kind}")
    if kind == "npz":
        a, b = np.load(path), np.load(tmp_path / "out.npz")
        assert all(same(a[n], b[n]) for n in a.files)
    else:
        assert sha(path) == sha(tmp_path / f"out.{kind}")
    unpack(tmp_path / "x.cpd", tmp_path / "plain")
    assert detect(tmp_path / "plain").format in (kind, "safetensors")


def test_bytes_that_are_no_truth_values_come_back(tmp_path):
    data = tensors_file({"mask": {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]}}, b"\0\1\2\xff")
    (tmp_path / "a.safetensors").write_bytes(data)
    pack(tmp_path / "a.safetensors", tmp_path / "a.cpd", lossless=True)
    unpack(tmp_path / "a.cpd", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == data


def test_an_odd_npy_header_is_kept(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(3))
    data = bytearray((tmp_path / "a.npy").read_bytes())
    data[8:10] = (int.from_bytes(data[8:10], "little") + 64).to_bytes(2, "little")
    data[127:128] = b" " * 64 + b"\n"
    (tmp_path / "a.npy").write_bytes(data)
    pack(tmp_path / "a.npy", tmp_path / "a.cpd", lossless=True)
    unpack(tmp_path / "a.cpd", tmp_path / "b.npy")
    assert sha(tmp_path / "a.npy") == sha(tmp_path / "b.npy")


@pytest.mark.skipif("int" not in compand.stage_names(), reason="this build has no int quantizer")
def test_lossy_weights_keep_what_is_small(model, tmp_path):
    report = pack(model, tmp_path / "m.cpd", spec="int:8")
    specs = {e["name"]: e["spec"] for e in report.entries}
    assert specs["w"] == specs["w2"] == specs["head"] == "int:8" and {specs["norm"], specs["ids"]} <= {"raw", "planes,rans"}
    unpack(tmp_path / "m.cpd", tmp_path / "back")
    for a, b in zip(detect(model).items(), detect(tmp_path / "back").items(), strict=True):
        x, y = a.load().astype(np.float64), b.load().astype(np.float64)
        assert a[:3] == b[:3] and np.abs(x - y).max() < 0.01 * np.abs(x).max()
    pack(model, tmp_path / "n.cpd", spec=lambda name, shape, dtype: "int:4" if name == "head" else None)
    assert [e.name for e in compand.open(tmp_path / "n.cpd").values() if e.spec == "int:4"] == ["head"]


@pytest.mark.skipif("int" not in compand.stage_names(), reason="this build has no int quantizer")
def test_nan_in_weights_is_kept_and_in_embeddings_refused(tmp_path):
    x = rng.standard_normal((64, 64)).astype(np.float32)
    x[3, 4] = np.nan
    (tmp_path / "w").write_bytes(small_tensors(w=x))
    np.save(tmp_path / "e.npy", x)
    report = pack(tmp_path / "w", tmp_path / "w.cpd", spec="int:8")
    assert "NaN" in report.notes[0] and same(compand.open(tmp_path / "w.cpd")["w"].array(), x)
    with pytest.raises(InputError, match="NaN"):
        pack(tmp_path / "e.npy", tmp_path / "e.cpd", spec="int:8")
    assert not (tmp_path / "e.cpd").exists()


def test_other_containers_can_be_asked_for(tmp_path):
    (tmp_path / "a").write_bytes(small_tensors(**weights()))
    pack(tmp_path / "a", tmp_path / "a.cpd", lossless=True)
    unpack(tmp_path / "a.cpd", tmp_path / "a.npz")
    want = weights()
    with detect(tmp_path / "a.npz") as got:
        for item in got.items():  # .npz has no bfloat16: float32 holds the same values
            assert np.array_equal(item.load(), want[item.name].astype(np.float32) if item.name == "w" else want[item.name])
    np.save(tmp_path / "e.npy", np.eye(4, dtype=np.float32))
    pack(tmp_path / "e.npy", tmp_path / "e.cpd", lossless=True)
    unpack(tmp_path / "e.cpd", tmp_path / "e.safetensors")
    assert [i.shape for i in detect(tmp_path / "e.safetensors").items()] == [(4, 4)]
    with pytest.raises(InputError, match="format"):
        unpack(tmp_path / "e.cpd", tmp_path / "e.xyz", format="zip")


def test_a_fine_tune_is_stored_against_its_base(tmp_path):
    a = weights(n=256)
    b = {n: x if x.dtype.kind == "i" else (x.astype(np.float32) * (1 + 1e-3 * rng.standard_normal(x.shape))).astype(x.dtype)
         for n, x in a.items()}
    (tmp_path / "a").write_bytes(small_tensors(**a))
    (tmp_path / "b").write_bytes(small_tensors(**b))
    (tmp_path / "c").write_bytes(small_tensors(**weights(5, n=256)))
    report = pack(tmp_path / "b", tmp_path / "b.cpd", lossless=True, base=tmp_path / "a")
    assert {e["name"]: e["base"] for e in report.entries}["w2"]
    unpack(tmp_path / "b.cpd", tmp_path / "back", base=tmp_path / "a")
    assert sha(tmp_path / "back") == sha(tmp_path / "b")
    with pytest.raises(InputError, match=sha(tmp_path / "a")):
        unpack(tmp_path / "b.cpd", tmp_path / "no")
    with pytest.raises(InputError, match="is not the tensor"):
        unpack(tmp_path / "b.cpd", tmp_path / "no", base=tmp_path / "c")
    assert not (tmp_path / "no").exists()
    other = pack(tmp_path / "c", tmp_path / "c.cpd", lossless=True, base=tmp_path / "a")  # unrelated: no difference pays
    assert not {e["name"]: e["base"] for e in other.entries}["w2"]


def test_the_change_of_a_fine_tune_is_coded(tmp_path):
    a = {"w": rng.standard_normal((64, 128)).astype(np.float32), "b": np.ones(128, np.float32)}
    b = {"w": a["w"] + 1e-3 * rng.standard_normal((64, 128)).astype(np.float32), "b": a["b"] + np.float32(0.25)}
    for name, x in (("a", a), ("b", b)):
        (tmp_path / name).write_bytes(small_tensors(**x))
    report = pack(tmp_path / "b", tmp_path / "b.cpd", spec="ternary:keep=0.5,rans", base=tmp_path / "a")
    assert {e["name"]: (e["base"], e["spec"]) for e in report.entries}["w"] == (True, "ternary:keep=0.5,rans")
    unpack(tmp_path / "b.cpd", tmp_path / "back", base=tmp_path / "a")
    back = {i.name: i.load() for i in detect(tmp_path / "back").items()}
    error, change = np.square(back["w"] - b["w"]).sum(), np.square(b["w"] - a["w"]).sum()
    assert np.array_equal(back["b"], b["b"]) and back["w"].dtype == np.float32
    assert 0.01 * change < error < 0.5 * change and (tmp_path / "b.cpd").stat().st_size < 6000
    with pytest.raises(InputError, match="base model"):
        unpack(tmp_path / "b.cpd", tmp_path / "no")


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "int8", "uint16", "int64"])
def test_difference_is_exact_for_any_bits(name):
    from compand.dtypes import dtype

    x, base = (np.frombuffer(rng.bytes(8 * 1000), dtype(name)) for _ in range(2))
    assert restore(difference(x, base), base).tobytes() == x.tobytes()


def test_asking_for_nothing_or_both_is_an_error(model, tmp_path):
    for how in ({}, {"spec": "raw", "lossless": True}):
        with pytest.raises(InputError):
            pack(model, tmp_path / "x.cpd", **how)
    assert not (tmp_path / "x.cpd").exists()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "a\\..\\x", "C:x", "a/./b", "x\0y"])
def test_names_cannot_leave_the_folder(name, tmp_path):
    with pytest.raises(FormatError):
        safe_path(tmp_path, name)
