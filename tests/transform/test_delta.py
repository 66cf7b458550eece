import numpy as np
import pytest

from compand import Codec, CorruptError, SpecError, parse
from compand.dtypes import NAMES, dtype
from compand.stage import Form

SPECS = ["delta", "delta:row", "delta:zigzag=false", "delta:row:zigzag=false"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", SPECS)
def test_every_bit_comes_back(name, spec):
    size = dtype(name).itemsize
    for n, d in ((1, 1), (1, 9), (8, 1), (13, 7), (0, 3)):
        data = np.random.default_rng(n + d).integers(0, 2 if name == "bool" else 256, (n, d * size), np.uint8)
        x = data.view(dtype(name))
        stage, form = parse(spec), Form(n, d, name)
        y, _ = stage.forward(x)
        assert tuple(y.shape) == stage.out(form)[:2] and str(y.dtype) == stage.out(form).dtype
        assert stage.inverse(y, {}, form).tobytes() == x.tobytes()
        codec = Codec(f"{spec},raw")
        assert codec.decode(codec.encode(x)).tobytes() == x.tobytes()


def test_special_floats():
    x = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38]], np.float32)
    x = np.concatenate([x, np.array([[0x7F800001, 0xFFC12345, 0xFFFFFFFF, 0, 1, 0x80000000, 0x80000001, 0x7FFFFFFF]],
                                    np.uint32).view(np.float32)])
    for spec in SPECS:
        y, _ = parse(spec).forward(x)
        assert parse(spec).inverse(y, {}, Form(2, 8)).tobytes() == x.tobytes()


@pytest.mark.parametrize("name", ["int8", "int32", "uint16", "float32", "float16", "bfloat16"])
def test_neighbours_become_small(name):
    x = np.arange(-30, 30) if not name.startswith("u") else np.arange(60)
    x = np.repeat(x[None], 3, 0).astype(dtype(name))
    assert (parse("delta:row").forward(x)[0][1:] == 0).all()
    if "int" in name:
        assert (parse("delta").forward(x)[0][:, 1:] == 2).all()
    else:
        up = np.nextafter(np.zeros(20, np.float32), 1) * np.arange(-10, 10, dtype=np.float32)
        assert name != "float32" or (parse("delta").forward(up[None])[0][:, 1:] <= 4).all()


def test_blocks_decode_alone():
    x = np.cumsum(np.random.default_rng(0).integers(-3, 4, (3000, 700)), axis=0).astype(np.int16)
    codec = Codec("delta:row,raw")
    codes = codec.encode(x)
    assert len(codes.blocks) > 1 and np.array_equal(codec.decode(codes, rows=slice(1600, 1700)), x[1600:1700])
    assert codec.stage.exact and codec.stage.raw


def test_a_bool_is_zero_or_one():
    with pytest.raises(CorruptError):
        parse("delta").inverse(np.full((1, 3), 4, np.uint8), {}, Form(1, 3, "bool"))


def test_cannot_follow_lossy_stages():
    with pytest.raises(SpecError, match="keeps every bit"):
        parse("hadamard,delta")
