"""Every verb on every kind of input."""

import json
from pathlib import Path

import numpy as np
import pytest


def test_embeddings_there_and_back(ok, run, npy, vectors):
    result = run("compress", npy)
    assert result.exit_code == 0 and "embeddings: using" in result.stderr and "bits/value" in result.stdout
    ok("verify", "v.npy.cpd")
    assert "entries" not in ok("decompress", "v.npy.cpd", "-o", "back.npy")
    assert np.linalg.norm(np.load("back.npy") - vectors) < 0.02 * np.linalg.norm(vectors)
    assert Path(npy).exists() and Path("v.npy.cpd").exists()


def test_spec_and_json(ok, npy):
    made = json.loads(ok("compress", npy, "int:4:group=16", "-o", "a.cpd", "--json"))
    assert made["spec"] == "int:4:group=16" and made["bytes_out"] == Path("a.cpd").stat().st_size
    assert 5 < made["bits_per_value"] < 5.6 and 0.01 < made["relative_error"] < 0.2 and made["arrays"][0]["name"] == "array"
    told = json.loads(ok("info", "a.cpd", "--json"))
    groups = told["bytes_by_group"]
    assert sum(groups.values()) == told["bytes"] and groups["symbols"] == 600 * 24 and groups["scales"] == 600 * 3 * 2
    assert told["entries"][0]["spec"] == "int:4:group=16" and told["decoding"] == "exact"
    judged = json.loads(ok("eval", npy, "a.cpd", "--json"))
    assert judged["total"]["relative_error"] == pytest.approx(made["relative_error"]) and judged["total"]["recall@10"] > 0.5
    assert json.loads(ok("verify", "a.cpd", "--json"))["ok"] is True
    assert json.loads(ok("info", npy, "--json"))["format"] == "npy"


@pytest.mark.parametrize("level", ["structure", "checksums", "full"])
def test_verify_levels(ok, npy, level):
    ok("compress", npy, "-q")
    assert level in ok("verify", "v.npy.cpd", "--level", level)
    assert ok("verify", "v.npy.cpd", "-q") == ""


def test_npz(ok, there, vectors):
    np.savez("many.npz", a=vectors, b=vectors[:50] * 2, ids=np.arange(7))
    ok("compress", "many.npz", "int:8", "-o", "many.cpd")
    ok("decompress", "many.cpd", "-o", "back.npz")
    with np.load("back.npz") as back:
        assert sorted(back) == ["a", "b", "ids"] and np.array_equal(back["ids"], np.arange(7))
    assert "share no array" not in ok("eval", "many.npz", "back.npz")


def test_parquet(ok, there, vectors):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 48)
    pq.write_table(pa.table({"id": pa.array(range(600)), "vector": column}), "v.parquet")
    result = ok("compress", "v.parquet", "int:8", "-o", "p.cpd")
    assert "p.cpd" in result
    ok("decompress", "p.cpd", "--to", "npy", "-o", "p.npy")
    assert np.load("p.npy").shape == (600, 48)


def test_lossless_model_is_the_same_file(ok, run, model):
    result = run("compress", model)
    assert result.exit_code == 0 and "losing nothing" in result.stderr and "exact" in result.stdout
    ok("decompress", "m.safetensors.cpd", "-o", "back.safetensors")
    assert Path("back.safetensors").read_bytes() == Path(model).read_bytes()
    assert "exact" in ok("eval", model, "back.safetensors")


def test_folder_is_the_same_folder(ok, folder):
    ok("compress", folder, "--lossless")
    ok("decompress", "hub.cpd", "-o", "again")
    for path in Path(folder).iterdir():
        assert (Path("again") / path.name).read_bytes() == path.read_bytes()
    assert "config.json" in ok("info", "hub.cpd")


def test_base(ok, run, there, model, tensors):
    from safetensors.numpy import save_file

    tuned = {n: x if "h.2" not in n else x + np.float32(1e-6) for n, x in tensors.items()}
    save_file(tuned, "tuned.safetensors")
    ok("compress", "tuned.safetensors", "--lossless", "--base", model, "-o", "t.cpd")
    ok("decompress", "t.cpd", "--base", model, "-o", "back.safetensors")
    assert Path("back.safetensors").read_bytes() == Path("tuned.safetensors").read_bytes()
    assert run("eval", "tuned.safetensors", "t.cpd", "--base", model).exit_code == 0


def test_gguf(ok, there, tensors):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter("g.gguf", "llama")
    x = np.tile(tensors["h.0.q.weight"], (1, 4))
    writer.add_tensor("plain", x)
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("blocks", gguf.quants.quantize(x, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ok("compress", "g.gguf", "--lossless", "-o", "g.cpd")
    ok("decompress", "g.cpd", "-o", "back.gguf")
    assert Path("back.gguf").read_bytes() == Path("g.gguf").read_bytes()
    assert json.loads(ok("eval", "g.gguf", "g.cpd", "--json"))["total"]["exact"]
    ok("compress", "g.gguf", "int:8:group=64", "-o", "g8.cpd")
    ok("decompress", "g8.cpd")
    total = json.loads(ok("eval", "g.gguf", "g8.safetensors", "--json"))["total"]
    assert total["arrays"] == 2 and 0 < total["relative_error"] < 0.02


def test_parts_of_a_file(ok, run, model, npy, vectors, tensors):
    ok("compress", npy, "raw", "-o", "v.cpd")
    ok("decompress", "v.cpd", "--rows", "10:20", "-o", "some.npy")
    assert np.array_equal(np.load("some.npy"), vectors[10:20])
    ok("decompress", "v.cpd", "--rows=-5:", "-o", "last.npy")
    assert np.array_equal(np.load("last.npy"), vectors[-5:])
    ok("compress", model, "--lossless", "-o", "m.cpd")
    ok("decompress", "m.cpd", "--entry", "h.1.q.weight", "--to", "npy", "-o", "q.npy")
    assert np.array_equal(np.load("q.npy"), tensors["h.1.q.weight"])
    ok("decompress", "m.cpd", "--to", "npz", "-o", "m.npz")
    ok("decompress", "m.cpd", "--entry", "h.1.q.weight", "--rows", "0:3", "-o", "q.safetensors")
    wrong = run("decompress", "m.cpd", "--entry", "h.1.k.weight", "-o", "x.npy")
    assert wrong.exit_code == 1 and "h.1.q.weight" in wrong.stderr
    assert run("decompress", "v.cpd", "--rows", "abc").exit_code == 2


def test_default_names(ok, there, npy):
    ok("compress", npy, "-q")
    Path(npy).unlink()
    ok("decompress", "v.npy.cpd", "-q")
    assert Path(npy).exists()
    ok("decompress", "v.npy.cpd", "--to", "npz", "-q")
    assert Path("v.npz").exists()


def test_seed_changes_the_bytes(ok, npy):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        ok("compress", npy, "hadamard,int:4", "--seed", seed, "-o", f"{name}.cpd", "-T", "1")
    a, b, c = (Path(f"{n}.cpd").read_bytes() for n in "abc")
    assert a == b != c


def test_bench(ok, npy):
    found = json.loads(ok("bench", "int:8", "int:4", "raw", "center,int:2:group=5000", npy, "--json"))
    assert [r["spec"] for r in found["specs"]][:3] == ["int:8", "int:4", "raw"]
    assert found["specs"][0]["relative_error"] < found["specs"][1]["relative_error"] and found["specs"][2]["exact"]
    text = ok("bench", npy, "--rows", 100, "-q")
    assert "recall@10" in text and "int:" in text


def test_specs(ok, run):
    text = ok("specs")
    assert "Which should I use?" in text and "hadamard" in text
    assert "group" in ok("specs", "int")
    told = json.loads(ok("specs", "--json"))
    names = {s["name"]: s for s in told["stages"]}
    assert names["int"]["arguments"][0] == {"name": "bits", "expected": "an integer from 1 to 16 or none", "required": False,
                                            "default": "none", "positional": True}
    assert run("specs", "itn").exit_code == 1 and "did you mean 'int'" in run("specs", "itn").stderr


def test_demo_on_own_files(ok, npy, model):
    ok("demo", npy, model, "-q")
    assert "vec" not in Path("demo-report.html").read_text()[:50] and list(Path("demo-out").glob("*.cpd"))


def test_every_verb_teaches(ok):
    from compand.cli.app import VERBS

    for verb in VERBS:
        assert f"compand {verb}" in ok(verb, "--help")
