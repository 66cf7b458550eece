"""Each importer reads what its format's own library writes, bit by bit, and refuses the rest with a CompandError."""

import json
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from compand import CompandError, FormatError, InputError, LimitError, UnsupportedError
from compand.modality import detect
from compand.modality.npy import header, parse_header

DTYPES = ["?", "i1", "<i2", "<u4", "<i8", "<f2", "<f4", "<f8", "<c8", ">f4", ">i2"]


def arrays(source):
    with source:
        return {item.name: item.load() for item in source.items()}


def same(a, b):
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


# -- npy, npz ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("descr", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4), (2, 0, 3), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_what_numpy_wrote(tmp_path, descr, shape, order):
    x = np.asarray(np.random.default_rng(0).integers(0, 100, shape)).astype(descr, order=order)
    np.save(tmp_path / "x.npy", x)
    source = detect(tmp_path / "x.npy")
    (item,) = source.items()
    assert (item.name, item.shape, source.format) == ("array", shape, "npy") and same(item.load(), x)
    assert item.dtype == x.dtype.newbyteorder("=").name and not source.files  # NumPy's header is rebuilt, not kept
    if shape and shape[0] > 1:
        assert same(item.load(slice(1, 2)), x[1:2])


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_versions(tmp_path, version):
    with open(tmp_path / "x", "wb") as f:
        np.lib.format.write_array(f, np.eye(3), version)
    assert same(arrays(detect(tmp_path / "x"))["array"], np.eye(3))
    data = (tmp_path / "x").read_bytes()
    assert header("<f8", False, (3, 3), version[0]) == data[:len(data) - 72]


def test_npy_is_mapped_not_copied(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((10, 4), np.float32))
    assert not arrays(detect(tmp_path / "x.npy"))["array"].flags.writeable


@pytest.mark.parametrize("x", [np.array([{}], object), np.zeros(2, "U3"), np.zeros(2, "M8[s]"), np.zeros(2, "V4"),
                               np.zeros(2, [("a", "f4"), ("b", "i4")]), np.zeros(2, "f2,f2"), np.zeros(2, np.complex128),
                               np.zeros(2, ml_dtypes.bfloat16)])
def test_npy_refuses_what_is_not_numbers(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UnsupportedError):
        detect(tmp_path / "x.npy")


HEADERS = ["{}", "[]", "", "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': 1}", "{'descr': '<f4', 'shape': (3,)}",
           "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
           "{'descr': '<f4', 'fortran_order': 1, 'shape': (3,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os'),)}",
           "{'descr': True, 'fortran_order': False, 'shape': (3,)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': ((3,),)}",
           "{'descr': '<f4', 'fortran_order': False, 'shape': (3.,)}",
           "{'descr': '<f4', 'fortran_order': (), 'shape': False}", "{" + "(" * 5000 + ")" * 5000 + "}",
           *(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({n},)}}" for n in
             ("2147483648", "4294967296", "9007199254740992", "9223372036854775807", "9223372036854775808", "9" * 200)),
           *(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {n}, {n}, 0)}}" for n in (1 << 31, 1 << 62))]


@pytest.mark.parametrize("text", HEADERS, ids=range(len(HEADERS)))
def test_npy_hostile_headers(tmp_path, text):
    (tmp_path / "x").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + bytes(12))
    with pytest.raises((FormatError, LimitError)):
        detect(tmp_path / "x")


def test_npy_header_needs_no_more_than_its_bytes():
    with pytest.raises(FormatError):
        parse_header(b"\x93NUMPY\2\0" + struct.pack("<I", 0xFFFFFFFF) + b"{" * 100)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_what_numpy_wrote(tmp_path, save):
    want = {"a": np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32), "b/c": np.arange(5), "e": np.zeros((0, 3)),
            "f": np.asfortranarray(np.eye(3, 5, dtype=">f4")), "s": np.float64(3)}
    save(tmp_path / "x.npz", **want)
    source = detect(tmp_path / "x.npz")
    assert source.format == "npz" and [i.name for i in source.items()] == list(want)
    got = arrays(source)
    assert all(same(got[n], np.asarray(want[n])) for n in want)


def test_npz_refuses_bombs_objects_and_strangers(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as z:
        z.writestr("a.npy", header("<f4", False, (10,)) + bytes(40))
    with pytest.raises(UnsupportedError):
        detect(path)
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("readme.txt", "hello")
    with pytest.raises(FormatError, match="not an array"):
        detect(path)
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(UnsupportedError, match="pickle"):
        detect(path)
    np.savez(path, a=np.arange(100.0))
    data = bytearray(path.read_bytes())
    data[300] ^= 1  # payload: the CRC must see it
    path.write_bytes(data)
    with pytest.raises(CompandError, match="CRC"):
        arrays(detect(path))


# -- safetensors ---------------------------------------------------------------------------------------------------------
def tensors_file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_safetensors_is_what_its_library_wrote(tmp_path):
    st = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    want = {n: rng.integers(0, 255, (3, 8), dtype=np.uint8).view(n) for n in
            ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
             "float16", "float32", "float64", "complex64")}
    want |= {"bool": np.array([True, False]), "bf": rng.standard_normal((4, 3)).astype(ml_dtypes.bfloat16),
             "e": np.zeros((0, 4), np.float32),
             "s": np.array(1, np.float32)}
    st.save_file(want, tmp_path / "m.safetensors", {"format": "np"})
    source = detect(tmp_path / "m.safetensors")
    got = arrays(source)
    assert source.format == "safetensors" and got.keys() == want.keys()
    for n, x in want.items():
        assert got[n].dtype == x.dtype and got[n].shape == x.shape and got[n].tobytes() == x.tobytes()


@pytest.mark.parametrize(("code", "dtype"), [("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"),
                                             ("F8_E8M0", "float8_e8m0fnu"),
                                             ("F4", "uint8"), ("F6_E2M3", "uint8")])
def test_safetensors_small_floats(tmp_path, code, dtype):
    n = {"F4": 64, "F6_E2M3": 64}.get(code, 32)
    nbytes = {"F4": 32, "F6_E2M3": 48}.get(code, 32)
    head = {"w": {"dtype": code, "shape": [n], "data_offsets": [0, nbytes]}}
    (tmp_path / "x").write_bytes(tensors_file(head, bytes(range(nbytes))))
    got = arrays(detect(tmp_path / "x"))["w"]
    assert got.dtype.name == dtype and got.tobytes() == bytes(range(nbytes))


def _t(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)} | more


BIG = [1 << 31, 1 << 32, (1 << 53) + 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 10**30]
BAD = [{"w": _t(dtype="F33")}, {"w": _t(dtype=3)}, {"w": _t(shape=(3,))}, {"w": _t(offsets=(0, 4))}, {"w": _t(offsets=(8, 0))},
       {"w": _t(offsets=(4, 12))}, {"w": _t(offsets=(0, 8, 9))}, {"w": _t(shape=(-2, -1))}, {"w": _t(shape=(2.0,))},
       {"w": _t(shape=(True, 2))},
       {"w": _t(more=1)}, {"w": []}, {"w": None}, [], 3, {"a": _t(), "b": _t()},
       {"w": _t(dtype="F4", shape=(3,), offsets=(0, 1))},
       {"w": {"dtype": "F32", "shape": [2]}}, {"w": _t(shape=[1] * 40 + [2])}, {}, {"__metadata__": {}},
       *({"w": _t(shape=(n,), offsets=(0, 8))} for n in BIG), *({"w": _t(shape=(n, n), offsets=(0, 8))} for n in BIG),
       *({"w": _t(shape=(n,), offsets=(0, 4 * n))} for n in BIG), *({"w": _t(offsets=(n, n + 8))} for n in BIG)]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_safetensors_hostile_headers(tmp_path, bad):
    (tmp_path / "x").write_bytes(tensors_file(bad, bytes(8)))
    with pytest.raises(CompandError):
        detect(tmp_path / "x")


@pytest.mark.parametrize("raw", [b'{"w":' * 5000, b"{" + b"[" * 100000, b'{"a":1,"a":2}', b'{"w":NaN}',
                                 b"{\xff}", b'{"w":' + b"9" * 5000 + b"}",
                                 b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                                 b'"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'])
def test_safetensors_hostile_json(tmp_path, raw):
    (tmp_path / "x").write_bytes(tensors_file(raw, bytes(8)))
    with pytest.raises(CompandError):
        detect(tmp_path / "x")


# -- folders -------------------------------------------------------------------------------------------------------------
def small_tensors(**named):
    header, data = {}, b""
    for name, x in named.items():
        code = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int64": "I64"}[x.dtype.name]
        header[name] = {"dtype": code, "shape": list(x.shape), "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.tobytes()
    return tensors_file({"__metadata__": {"format": "pt"}, **header}, data)


def test_folder_lists_shards_and_files(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a-1.safetensors").write_bytes(small_tensors(w=np.zeros(4, np.float32)))
    (tmp_path / "m" / "a-2.safetensors").write_bytes(small_tensors(w=np.ones(4, np.float32), v=np.ones(2, np.float32)))
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "old.bin").write_bytes(b"\x80\x02")
    (tmp_path / "m" / ".git").mkdir()
    (tmp_path / "m" / ".git" / "HEAD").write_text("ref")
    source = detect(tmp_path / "m")
    got = arrays(source)
    assert source.format == "hf" and list(got) == ["w", "a-2.safetensors:w", "v"] and got["a-2.safetensors:w"][0] == 1
    assert source.meta["files"] == ["config.json", "old.bin"] and "pickled" in source.notes[0]


def test_folder_refuses_links_out(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "m" / "a.safetensors").write_bytes(small_tensors(w=np.zeros(4, np.float32)))
    (tmp_path / "m" / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="outside"):
        detect(tmp_path / "m")


def test_folder_of_the_hub_cache(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots" / "r").mkdir(parents=True)
    (tmp_path / "blobs" / "h").write_bytes(small_tensors(w=np.zeros(4, np.float32)))
    (tmp_path / "snapshots" / "r" / "m.safetensors").symlink_to("../../blobs/h")
    assert list(arrays(detect(tmp_path / "snapshots" / "r"))) == ["w"]


# -- arrow ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_columns_of_vectors(tmp_path, kind):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    x = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 8)
    table = pa.table({"id": list(range(100)), "fixed": fixed, "listed": pa.array(x.astype(np.float64).tolist()),
                      "ragged": [[1.0] * (i % 3) for i in range(100)]})
    path = tmp_path / "x"
    if kind == "parquet":
        parquet.write_table(table, path)
    else:
        with (pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream)(str(path), table.schema) as f:
            f.write_table(table)
    source = detect(path)
    got = arrays(source)
    assert same(got["fixed"], x) and same(got["listed"], x.astype(np.float64)) and len(got) == 2 and "ragged" in source.notes[0]


def test_columns_without_vectors_are_listed(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"id": [1, 2], "title": ["a", "b"]}), tmp_path / "x")
    with pytest.raises(InputError, match="id: int64; title: string"):
        detect(tmp_path / "x")
    parquet.write_table(pa.table({"v": pa.array([[1.0, 2.0], None])}), tmp_path / "x")
    with pytest.raises(InputError, match="without a vector"):
        detect(tmp_path / "x")


# -- anything else -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data", [b"", b"x", b"hello world", b"\x80\x02}q\x00.", bytes(100), b"PK\3\4" + bytes(30), b"GGUF",
                                  b"PAR1", b"\x93NUMPY", struct.pack("<Q", 1 << 62) + b"{}"])
def test_unknown_files_say_what_is_read(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(FormatError):
        detect(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"something else")
    with pytest.raises(FormatError, match="safetensors"):
        detect(tmp_path / "x")
    with pytest.raises(InputError, match="no such file"):
        detect(tmp_path / "missing")
