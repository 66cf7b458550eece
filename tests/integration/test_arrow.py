import pickle
import subprocess
import sys

import numpy as np
import pytest

import compand
from compand import Codec, CompandError, InputError
from compand.integration.rows import vectors

pa = pytest.importorskip("pyarrow")
from pyarrow import ipc, parquet  # noqa: E402

from compand.integration.arrow import CodesType, from_arrow, to_arrow  # noqa: E402


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((500, 24), dtype=np.float32)


@pytest.mark.parametrize("spec", ["klt,grouped:12", "pq:4x4", "int:8", "hadamard,int:4:group=8"])
def test_through_parquet(x, spec, tmp_path):
    codec = Codec(spec).fit(x)
    codes = codec.encode(x)
    table = pa.table({"id": np.arange(500), "codes": to_arrow(codes)})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=128)
    back = parquet.read_table(tmp_path / "t.parquet")
    assert isinstance(back.schema.field("codes").type, CodesType) and back.schema.equals(table.schema)
    again = from_arrow(back["codes"])
    assert again.codec == codec and np.array_equal(codec.decode(again), codec.decode(codes))
    assert np.array_equal(compand.search(x[:5], again, 3)[1], compand.search(x[:5], codes, 3)[1])
    some = back.take(pa.array([400, 3, 77]))
    assert np.array_equal(codec.decode(from_arrow(some["codes"])), codec.decode(codes)[np.asarray(some["id"])])
    assert np.array_equal(codec.decode(from_arrow(back["codes"].slice(100, 99))), codec.decode(codes)[100:199])
    assert from_arrow(back["codes"].slice(0, 0)).shape == (0, 24)
    assert pickle.loads(pickle.dumps(back["codes"].type)) == back["codes"].type


def test_readers_without_compand_see_bytes(x, tmp_path):
    rows = vectors("int:8", x)
    parquet.write_table(pa.table({"codes": to_arrow(rows.codec.encode(x))}), tmp_path / "t.parquet")
    code = f"import pyarrow.parquet as p; print(p.read_table({str(tmp_path / 't.parquet')!r}).schema.field('codes').type)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"fixed_size_binary[{rows.nbytes}]"


def test_plain_binary_with_the_codec_elsewhere(x):
    rows = vectors("pq:4x4", x)
    blobs = rows.encode(x)
    for kind in (pa.binary(), pa.large_binary(), pa.binary(rows.nbytes)):
        codes = from_arrow(pa.chunked_array([pa.array(blobs[:200], kind), pa.array(blobs[200:], kind)]), rows)
        assert np.array_equal(rows.codec.decode(codes), rows.codec.decode(rows.codec.encode(x)))
    with pytest.raises(InputError, match="does not say"):
        from_arrow(pa.array(blobs))


def test_bad_columns(x):
    rows = vectors("pq:4x4", x)
    good = to_arrow(rows.codec.encode(x))
    bad = [
        lambda: from_arrow(pa.array([b"ab", None], pa.binary(2)), rows),
        lambda: from_arrow(pa.array([b"abc"], pa.binary(3)), rows),
        lambda: from_arrow(pa.array([b"abc"]), rows),
        lambda: from_arrow(pa.array([1.5]), rows),
        lambda: from_arrow(pa.ExtensionArray.from_storage(CodesType(pa.binary(3), rows.to_bytes()), pa.array([b"abc"], pa.binary(3)))),
        lambda: to_arrow(Codec("int:8,rans").encode(x)),
    ]
    for f in bad:
        with pytest.raises(CompandError):
            f()
    assert len(good) == 500


def test_hostile_metadata_neither_stops_the_table_nor_passes(x):
    rows = vectors("pq:4x4", x[:20])
    data, storage = rows.to_bytes(), pa.array(rows.encode(x[:20]), pa.binary(rows.nbytes))
    random = np.random.default_rng(0)
    for trial in range(100):
        mutant = bytearray(data[:random.integers(len(data))] if trial % 3 == 0 else data)
        for _ in range(2):
            if mutant:
                mutant[random.integers(len(mutant))] = random.integers(256)
        sink = pa.BufferOutputStream()
        table = pa.table({"codes": pa.ExtensionArray.from_storage(CodesType(storage.type, bytes(mutant)), storage)})
        with ipc.new_stream(sink, table.schema) as f:
            f.write_table(table)
        back = ipc.open_stream(sink.getvalue()).read_all()
        assert back.num_rows == 20
        try:
            codes = from_arrow(back["codes"])
            codes.codec.decode(codes)
        except CompandError:
            pass
