"""Shards encoded by any executor: the same bytes, also after processes were killed."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

import compand
from compand import jobs
from compand.errors import CompandError, CorruptError, FormatError, InputError

X = (np.random.default_rng(3).standard_normal((3000, 32)) * np.geomspace(1, 0.1, 32)).astype(np.float32)
SPEC = "(vq:16,rans)+(klt,grouped:16)"


@pytest.fixture
def shards(tmp_path):
    paths = []
    for i, (a, b) in enumerate(((0, 1000), (1000, 1001), (1001, 2200), (2200, 3000))):
        paths.append(tmp_path / f"{i}.npy")
        np.save(paths[-1], X[a:b])
    return paths


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_any_executor_gives_the_same_bytes(shards, tmp_path):
    parts = jobs.encode(shards, tmp_path / "here", SPEC)
    with ThreadPoolExecutor(2) as pool:
        jobs.encode(shards, tmp_path / "threads", SPEC, executor=pool)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs.encode(shards, tmp_path / "processes", SPEC, executor=pool)
        found = jobs.search(parts, X[::100], 5, metric="cosine", recall=1.0, executor=pool)
    here = content(tmp_path / "here")
    assert here == content(tmp_path / "threads") == content(tmp_path / "processes") and len(here) == 6
    index = jobs.join(tmp_path / "here", tmp_path / "all.cpd")
    assert len(index) == 3000 and compand.open(tmp_path / "all.cpd").verify().ok
    scores, ids = index.search(X[::100], 5, metric="cosine", recall=1.0)
    assert (ids[:, 0] == np.arange(0, 3000, 100)).mean() > 0.9
    np.testing.assert_array_equal(ids, found[1])
    np.testing.assert_allclose(scores, found[0], rtol=1e-5)
    index.add(X[:2])
    assert index.ids[-1] == 3001


def test_parquet_and_arrow_with_ids(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    def table(a, b, kind):
        flat, rows = pa.array(X[a:b].reshape(-1)), pa.list_(pa.float32())
        vectors = pa.FixedSizeListArray.from_arrays(flat, 32) if kind else pa.array(list(X[a:b]), rows)
        return pa.table({"id": [f"row{i}" for i in range(a, b)], "v": vectors})

    parquet.write_table(table(0, 700, True), tmp_path / "0.parquet", row_group_size=100)
    parquet.write_table(table(700, 1500, False), tmp_path / "1.parquet", row_group_size=333)
    with ipc.new_file(tmp_path / "2.arrow", table(1500, 1600, True).schema) as f:
        for at in range(1500, 2000, 130):
            f.write_table(table(at, min(at + 130, 2000), True))
    with ipc.new_stream(tmp_path / "3.arrow", table(0, 1, True).schema) as f:
        f.write_table(table(2000, 3000, True))
    paths = [tmp_path / n for n in ("0.parquet", "1.parquet", "2.arrow", "3.arrow")]
    jobs.encode(paths, tmp_path / "job", SPEC, ids="id")
    index = jobs.join(tmp_path / "job", tmp_path / "all.cpd")
    assert index.ids.tolist() == [f"row{i}" for i in range(3000)]
    np.save(tmp_path / "x.npy", X)
    jobs.encode([tmp_path / "x.npy"], tmp_path / "whole", SPEC)
    np.testing.assert_array_equal(index.get(["row5", "row2999"]), jobs.join(tmp_path / "whole", tmp_path / "w.cpd").get([5, 2999]))
    assert jobs.search([tmp_path / "all.cpd"], X[:3], 1, recall=1.0)[1].shape == (3, 1)
    for column, ids in (("w", "id"), (None, "nothing")):
        with pytest.raises(InputError):
            jobs.encode(paths, tmp_path / "bad", SPEC, column=column, ids=ids)


def test_what_cannot_be_done(shards, tmp_path):
    folder = tmp_path / "job"
    jobs.encode(shards[:2], folder, SPEC)
    with pytest.raises(InputError, match="another job"):
        jobs.encode(shards[:2], folder, "klt,grouped:16")
    with pytest.raises(InputError, match="other shards"):
        jobs.encode(shards, folder, SPEC)
    jobs.part(folder, 1).unlink()
    with pytest.raises(InputError, match="not finished"):
        jobs.join(folder, tmp_path / "all.cpd")
    np.save(shards[1], X[:7])
    with pytest.raises(InputError, match="7 rows now"):
        jobs.encode(shards[:2], folder, SPEC)
    (folder / "job.json").write_text("[]")
    with pytest.raises(CorruptError):
        jobs.encode_shard(folder, 0)
    bad = X[:50].copy()
    bad[30, 3] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    with pytest.raises(InputError, match="row 30"):
        jobs.encode([tmp_path / "nan.npy"], tmp_path / "nan", compand.Codec(SPEC).fit(X))
    np.save(tmp_path / "wide.npy", np.zeros((5, 33), np.float32))
    np.save(tmp_path / "line.npy", np.zeros(5, np.float32))
    (tmp_path / "text").write_text("hello")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    for names, error in ((["wide.npy", "0.npy"], InputError), (["line.npy"], InputError), (["text"], FormatError),
                         (["cut.parquet"], CompandError)):
        with pytest.raises(error):
            jobs.encode([tmp_path / n for n in names], tmp_path / "none", "int:8")
    with pytest.raises(InputError, match="no shards"):
        jobs.encode([], tmp_path / "none", "int:8")
    with pytest.raises(InputError, match="no job"):
        jobs.join(tmp_path / "none", tmp_path / "all.cpd")


def test_an_id_in_two_shards(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write(name, ids):
        parquet.write_table(pa.table({"id": ids, "v": list(X[:len(ids)])}), tmp_path / name)
        return tmp_path / name

    for kind, one in (("int", int), ("str", str)):
        a, b, c = (write(f"{kind}{i}.parquet", [one(j) for j in range(at, at + 40)]) for i, at in enumerate((0, 39, 1000)))
        jobs.encode([a, c, b], tmp_path / kind, "int:8", ids="id")
        with pytest.raises(InputError, match=rf"the id {one(39)!r} occurs in .*{kind}0.parquet and in .*{kind}1.parquet"):
            jobs.join(tmp_path / kind, tmp_path / f"{kind}.cpd")
        assert not (tmp_path / f"{kind}.cpd").exists()
        jobs.encode([a, c], tmp_path / f"{kind}-fine", "int:8", ids="id")
        index = jobs.join(tmp_path / f"{kind}-fine", tmp_path / f"{kind}.cpd")
        assert index.delete([one(39), one(1000)]) == 2 and len(index) == 78
    jobs.encode([tmp_path / "int0.parquet", tmp_path / "str2.parquet"], tmp_path / "mixed", "int:8", ids="id")
    with pytest.raises(InputError, match="integers.*strings"):
        jobs.join(tmp_path / "mixed", tmp_path / "mixed.cpd")
    assert not (tmp_path / "mixed.cpd").exists()


def test_a_shard_changed_after_its_part_was_made(shards, tmp_path):
    folder = tmp_path / "job"
    jobs.encode(shards, folder, SPEC)
    right = content(folder)
    os.utime(shards[0])  # another time, the same content
    jobs.encode(shards, folder, SPEC)
    np.save(shards[2], X[1001:2200] * np.float32(2))  # of the same size
    with pytest.raises(InputError, match=r"2.npy has changed since part-00002"):
        jobs.encode(shards, folder, SPEC)
    assert content(folder) == right
    jobs.part(folder, 2).unlink()
    jobs.encode(shards, folder, SPEC)
    jobs.encode(shards, folder, SPEC)
    assert content(folder)["part-00002.cpd"] != right["part-00002.cpd"]


def test_memory_of_a_worker(tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((9000, 512)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    held = []
    batches = jobs.Shard.batches
    monkeypatch.setattr(jobs.Shard, "batches", lambda self, rows: held.append(rows) or batches(self, rows))
    codec = compand.Codec("klt,grouped:16").fit(x[:2000])
    jobs.encode([tmp_path / "x.npy"], tmp_path / "free", codec)
    jobs.encode([tmp_path / "x.npy"], tmp_path / "tight", codec, memory=4096 * 512 * 4 * jobs.COPIES)
    assert held[-1] == 4096 < held[0] and content(tmp_path / "free") == content(tmp_path / "tight")
    with pytest.raises(InputError, match="a block of 2,048 rows"):
        jobs.encode([tmp_path / "x.npy"], tmp_path / "none", codec, memory=1 << 20)


def test_a_bad_row_is_named_with_its_shard(shards, tmp_path):
    bad = X[1001:2200].copy()
    bad[1001, 3] = np.inf
    np.save(shards[2], bad)
    for codec in (SPEC, compand.Codec(SPEC).fit(X)):  # in the sample, and while encoding
        with pytest.raises(InputError, match=r"2\.npy: row 1001 has NaN"):
            jobs.encode(shards, tmp_path / f"job{isinstance(codec, str)}", codec)


CHILD = """
import sys
from concurrent.futures import ProcessPoolExecutor
from compand import jobs
if __name__ == "__main__":
    jobs.encode(sys.argv[2:], sys.argv[1], "(vq:16,rans)+(klt,grouped:16)")
"""


def test_killed_and_begun_again_the_bytes_are_the_same(shards, tmp_path):
    many = shards * 6
    jobs.encode(many, tmp_path / "right", SPEC)
    right = content(tmp_path / "right")
    random.seed(7)
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    killed = 0
    for trial in range(3):
        folder = tmp_path / f"job{trial}"
        for _ in range(2):
            with subprocess.Popen([sys.executable, script, str(folder), *map(str, many)]) as child:
                while not (folder / "job.json").exists() and child.poll() is None:
                    time.sleep(0.005)
                time.sleep(random.uniform(0, 0.3))
                killed += child.poll() is None
                child.send_signal(signal.SIGKILL)
        jobs.encode(many, folder, SPEC)
        assert {k: v for k, v in content(folder).items() if not k.endswith(".tmp")} == right
    assert killed and os.listdir(tmp_path / "right")


@pytest.mark.filterwarnings("ignore")  # of Ray itself
@pytest.mark.skipif(not os.environ.get("COMPAND_RAY"), reason="set COMPAND_RAY=1 to try Ray, which takes half a minute to start")
def test_ray(shards, tmp_path):
    ray = pytest.importorskip("ray")
    pytest.importorskip("pandas", reason="Ray Data needs pandas")
    from ray import data

    class Remote:  # an executor that gives its work to Ray
        def submit(self, f, *arguments):
            found = ray.remote(f).remote(*arguments)
            return type("Later", (), {"result": lambda self: ray.get(found)})()

    class Encode:
        def __init__(self, path):
            with compand.open(path) as file:
                self.codec = file["codec"].codec

        def __call__(self, batch):
            codes = self.codec.encode(batch["data"])
            return {path.replace(".", "_"): codes.part(path) for path in codes.blocks[0].parts}

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        jobs.encode(shards, tmp_path / "job", "klt,grouped:16", executor=Remote())
        jobs.encode(shards, tmp_path / "here", "klt,grouped:16")
        assert content(tmp_path / "job") == content(tmp_path / "here")
        codec = os.fspath(tmp_path / "job" / "codec.cpd")
        rows = data.from_numpy(X).map_batches(Encode, fn_constructor_args=(codec,), concurrency=1, batch_size=1000).take_all()
        with compand.open(codec) as file:
            codes = file["codec"].codec.encode(X)
        np.testing.assert_array_equal(np.stack([r["1_ids"] for r in rows]), codes.part("1.ids"))
    finally:
        ray.shutdown()
