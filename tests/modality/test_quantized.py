"""Folders of GPTQ, AWQ, compressed-tensors and block fp8: dequantized as their makers do, refused when damaged."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from compand import CompandError
from compand.errors import FormatError, UnsupportedError
from compand.modality import detect, pack, unpack
from compand.modality.gguf_types import FP4
from compand.modality.quantized import unpack_words
from compand.modality.safetensors import write_new

RNG = np.random.default_rng(0)
N, D, GROUP = 32, 64, 32


def stream(q, bits):
    """Values (rows, m) as int32 words of a stream, lowest bits first: the reference is Python's own integers."""
    words = []
    for row in q:
        total = sum(int(v) << i * bits for i, v in enumerate(row))
        words.append(np.frombuffer(total.to_bytes(len(row) * bits // 8, "little"), "<i4"))
    return np.array(words)


def gptq(bits, second, order):
    q, z = RNG.integers(0, 2**bits, (N, D)), RNG.integers(1, 2**bits - 1, (D // GROUP, N))
    s = RNG.uniform(0.01, 0.1, (D // GROUP, N)).astype(np.float16)
    g = RNG.permutation(np.arange(D) // GROUP) if order else np.arange(D) // GROUP
    tensors = {"qweight": stream(q, bits).T, "qzeros": stream(z - (not second), bits), "scales": s}
    if order:
        tensors["g_idx"] = g.astype(np.int32)
    config = {"quant_method": "gptq", "bits": bits, "group_size": GROUP} | ({"checkpoint_format": "gptq_v2"} if second else {})
    return tensors, config, (q - z[g].T) * s.astype(np.float32)[g].T


def awq():
    q, z = RNG.integers(0, 16, (D, N)), RNG.integers(0, 16, (D // GROUP, N))
    s = RNG.uniform(0.01, 0.1, (D // GROUP, N)).astype(np.float16)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # the packer's: bits 4 i hold column order[i]

    def packed(x):
        return stream(np.concatenate([x.reshape(len(x), -1, 8)[:, :, i:i + 1] for i in order], axis=2).reshape(len(x), -1), 4)

    g = np.arange(D) // GROUP
    config = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    return {"qweight": packed(q), "qzeros": packed(z), "scales": s}, config, ((q - z[g]) * s.astype(np.float32)[g]).T


def words(x, bits):
    """As compressed-tensors packs: as many whole values to a word as fit."""
    each = 32 // bits
    x = np.pad(x, ((0, 0), (0, -x.shape[1] % each))).reshape(len(x), -1, each).astype(np.uint64)
    return (x << (np.arange(each, dtype=np.uint64) * bits)).sum(axis=2).astype(np.uint32).view(np.int32)


def scheme(**weights):
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def packed(bits, symmetric):
    q, z = RNG.integers(0, 2**bits, (N, D)), RNG.integers(0, 2**bits, (N, D // GROUP))
    s = RNG.uniform(0.01, 0.1, (N, D // GROUP)).astype(np.float16)
    tensors = {"weight_packed": words(q, bits), "weight_scale": s, "weight_shape": np.array([N, D])}
    if not symmetric:
        tensors["weight_zero_point"] = np.ascontiguousarray(words(np.ascontiguousarray(z.T), bits).T)
    z = np.full_like(z, 2 ** (bits - 1)) if symmetric else z
    config = scheme(num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=GROUP)
    return tensors, config, (q - np.repeat(z, GROUP, axis=1)) * np.repeat(s.astype(np.float32), GROUP, axis=1)


def plain(kind):
    s = RNG.uniform(0.01, 0.1, (N, 1)).astype(np.float32)
    if kind == "int8":
        q = RNG.integers(-128, 128, (N, D)).astype(np.int8)
        return {"weight": q, "weight_scale": s}, scheme(num_bits=8, type="int", strategy="channel"), q * s
    q = RNG.standard_normal((N, D)).astype(ml_dtypes.float8_e4m3fn)
    if kind == "float8":
        return {"weight": q, "weight_scale": s[:1, 0]}, scheme(num_bits=8, type="float", strategy="tensor"), q.astype(np.float32) * s[0, 0]
    blocks = RNG.uniform(0.01, 0.1, (1, 1)).astype(np.float32)
    return {"weight": q, "weight_scale_inv": blocks}, {"quant_method": "fp8"}, \
        (q.astype(np.float32) * blocks).astype(ml_dtypes.bfloat16).astype(np.float32)


def fp4(kind):
    b = RNG.integers(0, 256, (N, D // 2)).astype(np.uint8)
    q = np.stack([FP4[b & 15], FP4[b >> 4]], axis=2).reshape(N, D) / 2
    if kind == "mx":
        s = RNG.integers(120, 130, (N, D // 32)).astype(np.uint8)
        return {"weight_packed": b, "weight_scale": s}, scheme(num_bits=4), q * np.repeat(2.0 ** (s.astype(int) - 127), 32, axis=1)
    s, total = RNG.uniform(1, 100, (N, D // 16)).astype(ml_dtypes.float8_e4m3fn), np.float32([7])
    return {"weight_packed": b, "weight_scale": s, "weight_global_scale": total}, scheme(num_bits=4), \
        q * np.repeat(s.astype(np.float32) / 7, 16, axis=1)


CASES = {**{f"gptq{b}{'v2' if v else ''}{'-order' if o else ''}": (gptq, b, v, o) for b in (2, 3, 4, 8) for v in (0, 1) for o in (0, 1)},
         "awq": (awq,), **{f"packed{b}{'' if s else '-zero'}": (packed, b, s) for b in (2, 3, 4, 8) for s in (True, False)},
         "int8": (plain, "int8"), "float8": (plain, "float8"), "fp8": (plain, "block"), "nvfp4": (fp4, "nv"), "mxfp4": (fp4, "mx")}


def folder(root, case):
    make, *args = CASES[case]
    tensors, config, want = make(*args)
    root.mkdir(exist_ok=True)
    save_file({f"layer.proj.{k}": np.ascontiguousarray(v) for k, v in tensors.items()} | {"norm.weight": np.ones(D, np.float16)},
              root / "model.safetensors")
    (root / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}))
    return want.astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_dequantized(tmp_path, case):
    want = folder(tmp_path / "m", case)
    with detect(tmp_path / "m") as source:
        got = {i.name: i for i in source.items()}
        assert sorted(got) == ["layer.proj.weight", "norm.weight"] and got["layer.proj.weight"].shape == (N, D)
        x = got["layer.proj.weight"].load()
        assert x.dtype.name == got["layer.proj.weight"].dtype
        np.testing.assert_allclose(x.astype(np.float32), want, rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(got["layer.proj.weight"].load(slice(3, 9, 2)), x[3:9:2])


def test_through_a_file_to_a_plain_folder_and_losslessly(tmp_path):
    want = folder(tmp_path / "m", "gptq4")
    pack(tmp_path / "m", tmp_path / "plain.cpd", spec="int:8")
    unpack(tmp_path / "plain.cpd", tmp_path / "plain")
    assert json.loads((tmp_path / "plain/config.json").read_text()) == {"model_type": "llama"}
    with detect(tmp_path / "plain") as source:
        got = {i.name: i.load() for i in source.items()}
        assert np.abs(got["layer.proj.weight"].astype(np.float32) - want).max() < 0.01 and source.notes == []
    pack(tmp_path / "m", tmp_path / "exact.cpd", lossless=True)
    unpack(tmp_path / "exact.cpd", tmp_path / "exact")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "exact" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()


def test_words_are_a_stream():
    q = RNG.integers(0, 8, (5, 64)).astype(np.uint8)
    np.testing.assert_array_equal(unpack_words(stream(q, 3), 3), q)


@pytest.mark.parametrize(("case", "change", "message"), [
    ("gptq4", {"bits": 5}, "5 bits"), ("gptq4", {"bits": "4"}, "bits"), ("gptq4", {"group_size": 7}, "groups"),
    ("gptq4", {"group_size": None}, "groups"), ("awq", {"version": "gemv"}, "gemv"), ("awq", {"bits": 3}, "3 bits"),
    ("packed4", {"config_groups": {}}, "bits"), ("packed4", {"config_groups": [1]}, "bits"),
    ("packed4", {"config_groups": {"a": {"weights": {"num_bits": 8}}}}, "does not hold")])
def test_settings_that_do_not_fit(tmp_path, case, change, message):
    folder(tmp_path / "m", case)
    path = tmp_path / "m/config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises((FormatError, UnsupportedError), match=message):
        for item in detect(tmp_path / "m").items():
            item.load()


@pytest.mark.parametrize("case", ["gptq4-order", "gptq3", "awq", "packed4-zero", "int8", "nvfp4", "fp8"])
def test_hostile_tensors(tmp_path, case):
    """Tensors of other shapes and dtypes, missing ones, indices that point nowhere: a result or a CompandError."""
    folder(tmp_path / "m", case)
    with detect(tmp_path / "m", exact=True) as source:
        tensors = {i.name: i.load().copy() for i in source.items()}
    faults = 0
    for name in [n for n in tensors if n != "norm.weight"]:
        x = tensors[name]
        changes = [None, x[:-1], x.reshape(-1), x[..., :0], np.concatenate([x, x]), x.astype(np.float32), x.astype(np.int32) * 7777,
                   x.astype(np.int64) - (1 << 40), np.zeros((0, 0), x.dtype), x.reshape(1, *x.shape)]
        for y in changes:
            mutant = {k: v for k, v in tensors.items() if k != name} | ({} if y is None else {name: np.ascontiguousarray(y)})
            with open(tmp_path / "m/model.safetensors", "wb") as f:
                write_new(f, [(k, v.shape, v.dtype.name, lambda v=v: v) for k, v in mutant.items()])
            try:
                with detect(tmp_path / "m") as source:
                    for item in source.items():
                        x = item.load()
                        assert x.shape == item.shape
            except CompandError:
                faults += 1
    assert faults > 6


@pytest.mark.parametrize("text", ["{", "[]", '{"quantization_config": 3}',
                                  '{"quantization_config": {"quant_method": "gptq"}, "text_config": 1}',
                                  '{"quantization_config": {"quant_method": ["gptq"]}}', "[" * 100000, '{"text_config": []}'])
@pytest.mark.parametrize("more", [False, True])
def test_hostile_configuration(tmp_path, text, more):
    folder(tmp_path / "m", "gptq4")
    if more:
        (tmp_path / "m/quantize_config.json").write_text('{"bits": 4, "group_size": 32}')
    (tmp_path / "m/config.json").write_text(text)
    try:
        with detect(tmp_path / "m") as source:
            for item in source.items():
                item.load()
    except CompandError:
        pass


@pytest.mark.parametrize(("tensors", "change"), [
    ({"weight": np.ones((1, 4), np.int8), "weight_scale": np.ones((1, 1), np.float32)},
     {"config_groups": {"a": {"weights": {"block_structure": [1 << 60, 1 << 60]}}}}),
    ({"qweight": np.ones((3, 10), np.int32), "qzeros": np.ones((1, 0), np.int32), "scales": np.ones((1, 10), np.float16)},
     {"quant_method": "gptq", "bits": 3, "group_size": -1}),
    ({"qweight": np.ones((3, 0), np.int32), "qzeros": np.ones((1, 0), np.int32), "scales": np.ones((1, 0), np.float16)},
     {"quant_method": "gptq", "bits": 4, "group_size": -1})])
def test_hostile_sizes(tmp_path, tensors, change):
    save_file({f"a.{k}": v for k, v in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "compressed-tensors"} | change}))
    try:
        with detect(tmp_path) as source:
            assert all(item.load().shape == item.shape for item in source.items())
    except CompandError:
        pass
