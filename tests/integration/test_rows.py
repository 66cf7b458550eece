import numpy as np
import pytest

import compand
from compand import Codec, CompandError, InputError
from compand.integration.rows import RowFormat, vectors

SPECS = ["klt,grouped:12", "pq:4x4", "pq:5x3+int:8", "int:8", "int:4:group=8", "hadamard,sign", "int:8:per=column:sym=false",
         "scale:norm:row,vq:16", "reshape:4,vq:16:dim=4", "lattice:e8", "float:e4m3:scale=nvfp4", "ternary"]


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((300, 24), dtype=np.float32)


@pytest.mark.parametrize("spec", SPECS)
def test_rows_decode_to_what_the_codes_decode_to(x, spec):
    rows = vectors(spec, x)
    codes = rows.codec.encode(x)
    data = rows.pack(codes)
    assert data.shape == (300, rows.nbytes) and data.size == codes.nbytes
    assert np.array_equal(rows.codec.decode(rows.unpack(data)), rows.codec.decode(codes))
    some = rows.unpack(data[[7, 3, 299]])  # rows stand for themselves
    assert np.array_equal(rows.codec.decode(some), rows.codec.decode(codes)[[7, 3, 299]])
    blobs = rows.encode(x[:5])
    assert all(type(b) is bytes for b in blobs) and b"".join(blobs) == data[:5].tobytes()
    again = RowFormat.from_bytes(rows.to_bytes())
    assert again == rows and np.array_equal(again.codec.decode(again.codes(blobs)), rows.codec.decode(codes)[:5])


def test_many_rows_are_blocks_again():
    x = np.random.default_rng(1).standard_normal((3000, 1024), dtype=np.float32)
    rows = vectors("int:8", x[:10])
    data = rows.pack(rows.codec.encode(x))
    codes = rows.unpack(data)
    assert len(codes.blocks) == 3 and np.array_equal(rows.pack(codes), data)
    assert np.array_equal(compand.search(x[:3], codes, 5)[1], compand.search(x[:3], rows.codec.encode(x), 5)[1])


def test_no_rows(x):
    rows = vectors("klt,grouped:12", x)
    assert rows.unpack(np.zeros((0, 12), np.uint8)).shape == (0, 24)
    assert rows.encode(x[:0]) == [] and rows.codes([]).shape == (0, 24)


def test_what_cannot_be_rows_is_refused(x):
    for spec in ("klt,ecsq:12,rans", "pq:4x4,rans", "sparse:0.1+int:4"):
        with pytest.raises(InputError, match="no fixed size"):
            vectors(spec, x)
    with pytest.raises(CompandError, match="not fitted"):
        RowFormat(Codec("pq:4x4"), (24,))
    rows = vectors("pq:4x4", x)
    for bad in [lambda: rows.unpack(np.zeros((3, 9), np.uint8)), lambda: rows.codes([b"12", b"1"]), lambda: rows.codes([b"12", None]),
                lambda: rows.encode(x[:, :5]), lambda: rows.pack(Codec("int:8").encode(x)), lambda: vectors("int:8", x[0])]:
        with pytest.raises(CompandError):
            bad()


def test_hostile_codec_bytes(x):
    good = vectors("pq:4x4", x).to_bytes()
    random = np.random.default_rng(2)
    for _ in range(300):
        bad = bytearray(good)
        for at in random.integers(0, len(bad), 3):
            bad[at] ^= int(random.integers(1, 256))
        try:
            RowFormat.from_bytes(bytes(bad))
        except CompandError:
            pass
    for data in (b"", b"x", good[:-1], Codec("planes,rans").compress(x), Codec("int:8").compress(x[0])):
        with pytest.raises(CompandError):
            RowFormat.from_bytes(data)
