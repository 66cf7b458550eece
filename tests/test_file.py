"""The .cpd file: what is written is read back, lazily, row by row, without a copy where nothing is coded."""

import io
import os

import numpy as np
import pytest

import compand
from compand.dtypes import NAMES
from compand.dtypes import dtype as dtype_of

RNG = np.random.default_rng(5)
X = RNG.standard_normal((5000, 384)).astype(np.float32)  # two blocks
SLICES = [slice(3, 9), slice(None), slice(None, None, -1), slice(2680, 2700, 7), slice(10, 2), slice(4000, None, -3),
          slice(-1, None)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.cpd"


def write(path, arrays, spec="raw", **options):
    with compand.Writer(path, **options) as file:
        for name, x in arrays.items():
            file.write(name, x, spec)
    return path


@pytest.mark.parametrize("spec", ["raw", "bytes,lzma"])
@pytest.mark.parametrize("name", NAMES)
def test_every_dtype_comes_back(path, name, spec):
    raw = RNG.integers(0, 2 if name == "bool" else 256, 60 * dtype_of(name).itemsize, dtype=np.uint8)
    x = raw.view(dtype_of(name)).reshape(3, 4, 5)
    y = compand.open(write(path, {"x": x}, spec))["x"].array()
    assert y.dtype == x.dtype and y.shape == x.shape and y.tobytes() == x.tobytes()


@pytest.mark.parametrize("spec", ["raw", "bytes,lzma"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (0, 3), (3, 0), (1, 1), (130, 3), (2, 3, 4, 5), (1, 0, 2)], ids=str)
def test_every_shape_comes_back(path, shape, spec):
    x = np.asarray(RNG.integers(-99, 99, shape), np.int16)
    entry = compand.open(write(path, {"x": x}, spec))["x"]
    assert np.array_equal(entry.array(), x) and entry.array().shape == shape == entry.shape and entry.dtype == "int16"
    if shape:
        for rows in (slice(None, None, 2), slice(1, 5), slice(None, None, -1)):
            assert np.array_equal(entry.array(rows), x[rows])


@pytest.mark.parametrize("spec", ["raw", "bytes,lzma"])
def test_ranges_of_rows_touch_only_their_chunks(path, spec):
    x = X[:, :] if spec == "raw" else RNG.integers(0, 4, (40_000, 64), np.uint8)
    file = compand.open(write(path, {"x": x, "column": x[:, 0].copy()}, spec))
    n = x.shape[0]
    assert np.array_equal(file["x"].array(slice(n - 5, n)), x[-5:])
    checked = file._container._checked
    assert any(checked) and not all(checked)
    for rows in SLICES:
        assert np.array_equal(file["x"].array(rows), x[rows])
        assert np.array_equal(file["column"].array(rows), x[:, 0][rows])


def test_uncoded_arrays_are_views_of_the_map(path):
    file = compand.open(write(path, {"x": X, "y": X[:100]}))
    for name, x in (("x", X), ("y", X[:100])):
        y = file[name].array()
        assert np.shares_memory(y, file._container.data) and not y.flags.writeable and np.array_equal(x, y)
        assert y.ctypes.data % 64 == 0
        part = file[name].codes().part("values")
        assert np.shares_memory(part, file._container.data) and np.array_equal(part, x)
    assert np.shares_memory(file["x"].array(slice(2000, 4000)), file._container.data)
    file.close()
    assert y[3, 4] == X[3, 4]  # the view outlives the file


def test_packed_codes_of_all_rows_are_one_view(path):
    codes = several_blocks(rows=64, n=1000)
    with compand.Writer(path) as file:
        file.write_codes("x", codes)
    entry = compand.open(path)["x"]
    part = entry.codes().part("bytes")
    assert len(entry.codes().blocks) == 16 and part.shape == (1000, 64)
    assert np.shares_memory(part, entry._file._container.data)
    assert np.array_equal(entry.codes(slice(100, 130)).part("bytes"), part[64:192])


def several_blocks(rows, n, d=64):
    """Codes of `bytes` cut into blocks of so many rows."""
    x = np.arange(n * d, dtype=np.uint8).reshape(n, d)
    codec = compand.Codec("bytes")
    blocks = tuple(codec.encode(x[i:i + rows]).blocks[0] for i in range(0, n, rows))
    return compand.Codes(codec, x.shape, "uint8", blocks)


@pytest.mark.parametrize("rows", [64, 65, 99, 1000])
def test_blocks_of_any_size(path, rows):
    codes = several_blocks(rows, 1000)
    with compand.Writer(path) as file:
        file.write_codes("x", codes)
    file = compand.open(path)
    assert file.verify().ok
    x = np.arange(64_000, dtype=np.uint8).reshape(1000, 64)
    assert np.array_equal(file["x"].array(), x) and np.array_equal(file["x"].array(slice(60, 200, 3)), x[60:200:3])
    assert np.array_equal(file["x"].codes().codec.decode(file["x"].codes()), x)


def test_fitted_codecs_are_stored_once(path):
    codec = fitted()
    with compand.Writer(path) as file:
        file.write("a", X[:50, :8], codec)
        file.write("b", X[50:90, :8], codec)
        file.write("c", X[50:90, :8], fitted(seed=1))
    file = compand.open(path)
    assert len(file._specs) == 2 and file["a"].codec == codec == file["b"].codec != file["c"].codec
    assert file["a"].codec is file["b"].codec
    assert np.allclose(file["a"].array(), X[:50, :8], atol=1e-6) and file.verify().ok
    assert file["a"].nbytes == 50 * 8 * 4 + 16 and file["c"].nbytes == 40 * 8 * 4 + 32


class Float32(compand.stage.Quantizer, name="test-float32"):
    """Floats as they are; not `raw`, so that lossy paths run."""

    def layout(self, form):
        return {"values": compand.stage.Part((form.n, form.d), "float32")}

    def encode(self, x):
        return {"values": x}

    def decode(self, parts, form):
        return parts["values"]


def fitted(seed=0):
    x = np.random.default_rng(seed).standard_normal((50, 8)).astype(np.float32)
    return compand.Codec("center,test-float32").fit(x)


def test_a_spec_is_fitted_when_written(path):
    with compand.Writer(path) as file:
        file.write("x", X[:, :8], "center,test-float32", sha256=True)
    file = compand.open(path)
    assert np.allclose(file["x"].array(), X[:, :8], atol=1e-6) and file.verify().ok
    assert np.array_equal(file["x"].codec.state()["0.mean_"], X[:, :8].mean(0, dtype=np.float64).astype(np.float32))


def test_vectors_and_scalars_of_lossy_codecs(path):
    with compand.Writer(path) as file:
        file.write("v", X[0], "test-float32")
        file.write("s", np.float32(2.5), "test-float32")
        file.write("f16", X[:3].astype(np.float16), "test-float32")
    file = compand.open(path)
    assert np.array_equal(file["v"].array(), X[0]) and np.array_equal(file["v"].array(slice(5, 50, 4)), X[0][5:50:4])
    assert file["s"].array() == 2.5 and file["s"].array().shape == ()
    assert file["f16"].array().dtype == np.float16


def test_equal_arrays_share_their_bytes(path):
    write(path, {"a": X, "b": X.copy(), "c": X + 1})
    assert os.path.getsize(path) < 2 * X.nbytes + 4096
    file = compand.open(path)
    assert file.verify().ok and np.shares_memory(file["a"].array(), file["b"].array())
    assert file["a"].nbytes == X.nbytes // 2


def test_metadata_names_and_attributes(path):
    meta = {"modality": "embeddings", "model": "é", "list": [1, 2.5, None, True, {"a": -1}]}
    with compand.Writer(path, meta=meta) as file:
        file.write("模型/ü 😀", X[:2], "raw", attrs={"layer": 3, "shape": [1, [2]]})
    file = compand.open(path)
    assert file.meta == {"writer": f"compand {compand.__version__}", **meta}
    assert file.names == ("模型/ü 😀",) and file["模型/ü 😀"].attrs == {"layer": 3, "shape": [1, [2]]}
    assert "模型" in repr(file["模型/ü 😀"]) and "1 entries" in repr(file)
    with pytest.raises(KeyError):
        file["other"]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "\\x", "a/../b", "..", "C:/x", "c:", "a\nb", "a\0", "e\u0301", "\ud800",
                                  "x" * 1025, 7])
def test_names_that_are_refused(path, name):
    with compand.Writer(path) as file, pytest.raises(compand.InputError):
        file.write(name, X[:2], "raw")


@pytest.mark.parametrize("meta", [{"a": float("nan")}, {"a": 1 << 53}, {"a": b""}, {1: 2}, {"a": "\ud800"}, {"a": [[[[[]]]]]}],
                         ids=str)
def test_metadata_that_is_refused(path, meta):
    with pytest.raises(compand.InputError):
        compand.Writer(path, meta=meta)
    assert not os.listdir(path.parent)


def test_opaque_files(path, tmp_path):
    text = b'{"architectures": ["BertModel"]}\n' * 3000
    source = tmp_path / "config.json"
    source.write_bytes(text)
    with compand.Writer(path) as file:
        file.write_file("config.json", source)
        file.write_file("same", text)
        file.write_file("empty", b"")
        file.write_file("large", RNG.bytes(2_500_000))
    file = compand.open(path)
    assert file["config.json"].array().tobytes() == text and file["config.json"].kind == "file"
    assert file["config.json"].spec == "bytes,lzma" and sum(file["config.json"].parts().values()) < 500
    assert file["empty"].array().size == 0 and file["large"].array().size == 2_500_000 and file.verify().ok


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, io.BytesIO, lambda b: np.frombuffer(b, np.uint8),
                                  lambda b: memoryview(bytearray(b"1" + b))[1:]],
                         ids=["bytes", "bytearray", "memoryview", "file", "array", "odd"])
def test_sources(make):
    data = compand.Codec("raw").compress(X[:10])
    assert np.array_equal(compand.open(make(data))["x"].array(), X[:10])


def test_file_objects_are_mapped(path):
    write(path, {"x": X})
    with open(path, "rb") as f:
        file = compand.open(f)
    assert np.array_equal(file["x"].array(), X)
    with pytest.raises(FileNotFoundError):
        compand.open(path.with_name("none"))


def test_compress_and_decompress():
    for x in (X[:300], X[:, 0], np.float32(3)):
        assert np.array_equal(compand.Codec.decompress(compand.Codec("raw").compress(x)), x)
    codes = compand.Codec("raw").encode(X)
    assert 32 < codes.bits < 32.01 and len(codes.to_bytes()) * 8 / X.size == codes.bits
    with pytest.raises(compand.FormatError):
        compand.Codec.decompress(b"PK\3\4")


def test_same_input_same_bytes(tmp_path):
    arrays = {"x": X[:600], "y": X[:3]}
    files = [write(tmp_path / f"{i}.cpd", arrays, "bytes,lzma", meta={"a": 1}).read_bytes() for i in range(2)]
    assert files[0] == files[1]
    assert compand.Codec("raw").compress(X) == compand.Codec("raw").compress(X)


def test_append_keeps_what_is_there(path):
    codec = fitted()
    with compand.Writer(path, meta={"a": 1}, append=True) as file:
        file.write("x", X[:50, :8], codec)
    with compand.Writer(path, append=True) as file:
        file.write("y", X[:40, :8], codec)
        with pytest.raises(compand.InputError, match="already"):
            file.write("x", X, "raw")
    file = compand.open(path)
    assert file.names == ("x", "y") and file.meta["a"] == 1 and len(file._specs) == 1 and file.verify().ok
    assert np.allclose(file["y"].array(), X[:40, :8], atol=1e-6)
    whole = path.with_name("whole.cpd")
    with compand.Writer(whole, meta={"a": 1}) as other:
        other.write("x", X[:50, :8], codec)
        other.write("y", X[:40, :8], codec)
    assert whole.read_bytes() == path.read_bytes()


def test_a_failed_entry_leaves_no_trace(path):
    bad = X.copy()
    bad[4000, 3] = np.nan
    with compand.Writer(path) as file:
        file.write("a", X, "test-float32")
        with pytest.raises(compand.InputError, match="row 4000"):
            file.write("bad", bad, "center,test-float32")
        with pytest.raises(compand.InputError):
            file.write("bad", X, "raw", attrs={"a": b""})
        file.write("b", X[:5], "raw")
    other = path.with_name("b.cpd")
    with compand.Writer(other) as file:
        file.write("a", X, "test-float32")
        file.write("b", X[:5], "raw")
    assert other.read_bytes() == path.read_bytes() and compand.open(path).verify().ok


def test_many_entries(path):
    with compand.Writer(path) as file:
        for i in range(3000):
            file.write(f"layer.{i}.weight", np.full((2, 3), i, np.int32), "raw", check=False)
    file = compand.open(path)
    assert len(file) == 3000 and file["layer.1234.weight"].array()[1, 2] == 1234 and file.verify().ok


def test_a_large_memmap_streams(path, tmp_path):
    source = np.memmap(tmp_path / "x", np.uint8, "w+", shape=(1 << 16, 1024))
    source[::1000] = 7
    write(path, {"x": source}, "raw")
    y = compand.open(path)["x"].array()
    assert np.array_equal(y, source) and np.shares_memory(y, compand.open(path)["x"]._file._container.data) is False


def test_torch_results(path):
    torch = pytest.importorskip("torch")
    entry = compand.open(write(path, {"x": X}))["x"]
    for rows in (None, slice(3, 9), slice(2680, 2700, 7), slice(9, 3)):
        y = entry.array(rows, like=torch.zeros(1))
        assert isinstance(y, torch.Tensor) and np.array_equal(y.numpy(), X[rows or slice(None)])


def test_codes_written_again_are_equal(path):
    write(path, {"x": X[:600]}, "bytes,lzma")
    codes = compand.open(path)["x"].codes()
    again = path.with_name("b.cpd")
    with compand.Writer(again) as file:
        file.write_codes("x", codes)
    assert again.read_bytes() == path.read_bytes()


def test_verify_lists_faults(path):
    data = bytearray(write(path, {"a": X, "b": X + 1, "c": X[:5]}).read_bytes())
    data[500] ^= 1
    file = compand.open(bytes(data))
    assert file.verify("structure").ok
    for level in ("checksums", "full"):
        with pytest.raises(compand.CorruptError, match="checksum"):
            file.verify(level)
        report = file.verify(level, keep_going=True)
        assert not report.ok and "checksum" in str(report.faults[0])
    assert np.array_equal(file["b"].array(), X + 1)
    with pytest.raises(compand.CorruptError, match="entry 'a'"):
        file["a"].array()
    with pytest.raises(compand.InputError):
        file.verify("all")


def test_sha256_is_of_decoded_bytes(path):
    import hashlib

    with compand.Writer(path) as file:
        file.write("x", X[:, ::2], "raw", sha256=True)
        file.write("y", X[:600], "bytes,lzma", sha256=True, check=False)
    file = compand.open(path)
    assert file["x"].sha256 == hashlib.sha256(np.ascontiguousarray(X[:, ::2]).tobytes()).hexdigest()
    assert file["y"].sha256 == hashlib.sha256(X[:600].tobytes()).hexdigest() and file.verify("full").ok


def test_progress_is_told_after_each_block(tmp_path, monkeypatch):
    monkeypatch.setattr("compand.codec.BLOCK_VALUES", 4096)
    told = []
    with compand.Writer(tmp_path / "a.cpd") as file:
        file.write("x", np.zeros((200, 64), np.float32), "int:4", progress=lambda done, n: told.append((done, n)))
    assert told == [(64, 200), (128, 200), (192, 200), (200, 200)]


@pytest.mark.parametrize("spec", ["raw", "planes,rans", "int:8", "hadamard,int:4:group=8+int:2"])
@pytest.mark.parametrize("shape", [(300, 16), (70000, 32), (5000,), (2, 3, 4), (), (0, 4)])
def test_arrays_are_decoded_into_what_is_given(path, spec, shape, monkeypatch):
    monkeypatch.setattr("compand.codec.BLOCK_VALUES", 1 << 14)
    x = RNG.standard_normal(shape).astype(np.float32)
    with compand.Writer(path) as file:
        file.write("x", x, spec)
    entry = compand.open(path)["x"]
    want = entry.array()
    out = np.full(shape, np.nan, np.float32)
    assert entry.array(out=out) is out and np.array_equal(out, want)
    room = np.empty(1 << 17, np.uint8)
    pieces = [piece.copy() for piece in entry.pieces(room)]
    assert b"".join(piece.tobytes() for piece in pieces) == want.tobytes()
    assert len(pieces) > 1 or want.size < 1 << 18 or spec == "raw"
    assert b"".join(piece.tobytes() for piece in entry.pieces(room[:8])) == want.tobytes()
    if shape and shape[0] > 100 and len(shape) > 1:
        for rows in (slice(3, 90), slice(64, 128), slice(90, 3, -3)):
            part = np.empty(want[rows].shape, np.float32)
            assert np.array_equal(entry.array(rows, out=part), want[rows])
    for bad in (np.empty((*shape, 2), np.float32), np.empty(shape, np.float64), np.empty((*shape, 2), np.float32)[..., 0]):
        if bad.flags.c_contiguous and bad.shape == shape and bad.dtype == np.float32:
            continue  # a scalar, or nothing, is contiguous in any case
        with pytest.raises(compand.InputError, match="out must be"):
            entry.array(out=bad)


def test_verify_tells_progress(path, monkeypatch):
    monkeypatch.setattr("compand.codec.BLOCK_VALUES", 1 << 14)
    with compand.Writer(path) as file:
        file.write("a", RNG.standard_normal((4096, 16)).astype(np.float32), "int:8")
        file.write("b", np.arange(10), "raw")
    for level in ("structure", "checksums", "full"):
        told = []
        compand.open(path).verify(level, progress=lambda *now, told=told: told.append(now))
        assert [d for d, _ in told] == sorted(d for d, _ in told)
        assert not told if level == "structure" else told[-1][0] == told[-1][1] > (4096 * 16 if level == "full" else 0)
    assert len(told) > 6
