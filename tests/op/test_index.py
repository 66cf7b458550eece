"""Indexes in files: ids, adding, updating, deleting, compacting; what may not be stored; processes that are killed."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import compand
from compand import Index
from compand.errors import CompandError, CorruptError, InputError

RNG = np.random.default_rng(5)
X = (RNG.standard_normal((2000, 24)) * np.geomspace(1, 0.2, 24)).astype(np.float32)
CODECS = {spec: compand.Codec(spec).fit(X) for spec in ("klt,grouped:16", "(vq:16,runs)+(klt,grouped:16)", "int:8", "klt,ecsq:16,rans")}


@pytest.fixture(params=list(CODECS))
def codec(request):
    return CODECS[request.param]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index.cpd"


def own(index, x, ids):
    """Whether each row is found first by itself."""
    found = index.search(x, 1, metric="cosine", **({"recall": 1} if index.codec.spec.startswith("(vq") else {}))[1][:, 0]
    return (found == np.asarray(ids, found.dtype)).mean()


@pytest.mark.parametrize("strings", [False, True])
def test_a_life(path, codec, strings):
    ids = [f"doc/{i}·é" for i in range(2000)] if strings else (np.arange(2000) * 7919 - 10**15)
    index = Index.create(path, X[:1000], codec, ids=ids[:1000])
    assert len(index) == 1000 and own(index, X[:1000:25], ids[:1000:25]) > 0.9
    index.add(X[1000:1500], ids[1000:1500])
    assert len(index) == 1500 and ids[1200] in index and ids[1600] not in index
    assert own(index, X[1000:1500:25], ids[1000:1500:25]) > 0.9
    assert index.delete(ids[0:1500:3]) == 500 and len(index) == 1000 and index.deleted == 500
    assert ids[0] not in index
    found = index.search(X[:60:3], 5)[1]
    assert not set(found.ravel().tolist()) & set(np.asarray(ids, object)[0:1500:3].tolist())
    index.update(X[1500:1502], [ids[1], ids[0]])  # one is replaced, one comes back
    assert len(index) == 1001 and own(index, X[1500:1502], [ids[1], ids[0]]) == 1
    how = {"probes": 8} if codec.spec.startswith("(vq") else {}  # a recall is measured on the rows there are
    before, scores = index.get([ids[1], ids[4], ids[1499]]), index.search(X[:50], 10, **how)
    size = index.nbytes
    index.compact()
    assert index.nbytes < size and index.deleted == 0 and len(index) == 1001
    np.testing.assert_array_equal(index.get([ids[1], ids[4], ids[1499]]), before)
    after = index.search(X[:50], 10, **how)
    np.testing.assert_allclose(after[0], scores[0], rtol=1e-5, atol=1e-5)
    assert (after[1] == scores[1]).mean() > 0.99
    again = Index(path)
    assert sorted(again.ids.tolist()) == sorted(index.ids.tolist())
    assert compand.open(path).verify().ok and not [n for n in os.listdir(path.parent) if n != path.name]


def test_any_file_of_vectors_is_an_index(path):
    with compand.Writer(path) as file:
        file.write("emb", X[:500], CODECS["klt,grouped:16"])
        file.write_file("readme", b"hello")
    index = Index(path)
    assert len(index) == 500 and index.ids.tolist() == list(range(500))
    index.add(X[500:510])
    assert index.ids.tolist()[-2:] == [508, 509]
    index.delete([3, 509])
    index.compact()
    assert len(index) == 508 and 3 not in index and compand.open(path)["readme"].array().tobytes() == b"hello"


def test_ids_are_stored_compactly(path):
    index = Index.create(path, X, CODECS["(vq:16,runs)+(klt,grouped:16)"])
    file = compand.open(path)
    assert file["vectors/ids/0"].nbytes < 1.3 * len(X) and file["vectors"].parts()["0.0.ids"] < 100
    assert own(index, X[::50], np.arange(0, 2000, 50)) > 0.9


def test_only_some_ids_may_be_found(path, codec):
    index = Index.create(path, X[:400], codec, ids=np.arange(400) + 10)
    everything = {"recall": 1} if codec.spec.startswith("(vq") else {}
    found = index.search(X[:5], 10, ids=[12, 13, 99999], **everything)[1]
    assert {12, 13} == set(found[:, :2].ravel().tolist()) and (found[:, 2:] == -1).all()
    found = index.search(X[:5], 10, exclude=list(range(10, 300)), **everything)[1]
    assert found.min() >= 300


def test_what_may_not_be_stored(path):
    index = Index.create(path, X[:100], CODECS["klt,grouped:16"], ids=np.arange(100))
    before = path.read_bytes()
    bad = X[100:103].copy()
    bad[1, 5] = np.nan
    worse = X[100:103].copy()
    worse[2, 0] = np.inf
    for x, ids, says in ((bad, [200, 201, 202], "row 1 has NaN"), (worse, [200, 201, 202], "row 2"),
                         (X[100:103, :20], [200, 201, 202], "24 values"),
                         (X[100:103], [200, 201, 200], "200 occurs twice"), (X[100:103], [200, 5, 201], "5 is in the index"),
                         (X[100:103], [200, 201], "ids for 3 rows"), (X[100:103], ["a", "b", "c"], "are integers"),
                         (X[100:103], [0.5, 1, 2], "64 bits or strings"), (X[100:103], [None, "a", 3], "all integers or all strings"),
                         (X[100:103], np.array([2**63, 1, 2], np.uint64), "64 bits"), (X[None], None, "must be")):
        with pytest.raises(InputError, match=says):
            index.add(x, ids)
    with pytest.raises(InputError, match="1 of the ids"):
        index.delete([5, 1000])
    with pytest.raises(InputError):
        index.get([1000])
    assert index.delete([1000], missing=True) == 0
    assert path.read_bytes() == before and len(index) == 100
    with pytest.raises(compand.OverwriteError):
        Index.create(path, X[:10], "int:8")
    with pytest.raises(InputError, match="occurs twice"):
        Index.create(path, X[:2], "int:8", ids=["a", "a"], overwrite=True)
    with pytest.raises(InputError, match="Unicode"):
        Index.create(path, X[:1], "int:8", ids=["\ud800"], overwrite=True)


def test_zeros_duplicates_and_nothing(path, codec):
    x = np.concatenate([np.zeros((3, 24), np.float32), np.repeat(X[:1], 4, axis=0), X[1:200]])
    index = Index.create(path, x, codec)
    for metric in ("ip", "cosine", "l2"):
        scores, ids = index.search(X[:2], 5, metric=metric)
        assert not np.isnan(scores).any() and (ids >= 0).all()
    assert not np.isnan(index.search(np.zeros((1, 24)), 3, metric="cosine")[0]).any()
    index.add(X[:0])
    assert len(index) == len(x)
    index.delete(index.ids)
    assert len(index) == 0 and (index.search(X[:2], 3)[1] == -1).all()
    index.compact()
    assert len(index) == 0 and (index.search(X[:2], 3)[1] == -1).all() and len(Index(path)) == 0
    index.add(X[:20])
    assert len(index) == 20 and own(index, X[:20], np.arange(20)) > 0.9


def test_damaged_files_are_named(path):
    index = Index.create(path, X[:300], CODECS["(vq:16,runs)+(klt,grouped:16)"], ids=[f"{i}" for i in range(300)])
    index.delete(["5"])
    whole = path.read_bytes()
    random.seed(3)
    cuts = [random.randrange(len(whole)) for _ in range(20)]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(CompandError):
            Index(path)
    for at in cuts:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1:])
        try:
            Index(path).search(X[:2], 3)
        except CompandError:
            pass
    for entry, array in (("vectors/deleted/7", np.array([300])), ("vectors/ids/0", np.arange(299)), ("vectors/deleted/7", np.array([-1]))):
        path.unlink()
        with compand.Writer(path) as file:
            file.write("vectors", X[:300], "int:8")
            file.write(entry, array, "raw")
        with pytest.raises(CorruptError):
            Index(path)
    path.unlink()
    with compand.Writer(path) as file:
        file.write("vectors", X[:300], "int:8")
        file.write("vectors/ids/0", np.arange(300) % 299, "raw")
    with pytest.raises(CorruptError, match="several rows"):
        Index(path).delete([0])


CHANGES = """
import sys, numpy as np
from compand import Index
x = np.random.default_rng(5).standard_normal((2000, 24)).astype(np.float32)
index = Index(sys.argv[1])
print("ready", flush=True)
for i in range(1000):
    index.add(x[i:i + 3], [1000 + 3 * i, 1001 + 3 * i, 1002 + 3 * i])
    print("added", i, flush=True)
    if i % 5 == 4:
        index.delete([1000 + 3 * i])
        print("deleted", i, flush=True)
    if i % 11 == 10:
        index.compact()
"""


def test_killed_at_any_moment_nothing_that_was_stored_is_lost(path, tmp_path):
    Index.create(path, X[:300], CODECS["(vq:16,runs)+(klt,grouped:16)"], ids=np.arange(300))
    whole = path.read_bytes()
    random.seed(1)
    for _ in range(4):
        path.write_bytes(whole)
        out = tmp_path / "out"
        with open(out, "wb") as log, subprocess.Popen([sys.executable, "-c", CHANGES, str(path)], stdout=log) as child:
            while b"added" not in out.read_bytes() and child.poll() is None:
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.4))
            child.send_signal(signal.SIGKILL)
        said = [line.split() for line in out.read_text().splitlines() if line.count(" ") == 1]
        index = Index(path)
        assert compand.open(path).verify().ok
        there = set(index.ids.tolist())
        added, deleted = [int(w[1]) for w in said if w[0] == "added"], {int(w[1]) for w in said if w[0] == "deleted"}
        assert set(range(300)) <= there
        for i in added:
            last = i == max(added)  # its deletion may be done and not said
            assert {1001 + 3 * i, 1002 + 3 * i} <= there and (1000 + 3 * i not in there if i in deleted else last or 1000 + 3 * i in there)
        index.add(X[:1], [999])
        assert [n for n in os.listdir(path.parent) if n.endswith(".tmp")] == []


@pytest.mark.skipif(os.name != "posix", reason="files are locked on POSIX systems only")
def test_two_writers_lose_nothing(path):
    Index.create(path, X[:50], CODECS["klt,grouped:16"], ids=np.arange(50))

    def work(first):
        index = Index(path)
        for i in range(first, first + 8):
            index.add(X[i:i + 1], [i])

    threads = [threading.Thread(target=work, args=(at,)) for at in (100, 200, 300)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    index = Index(path)
    assert len(index) == 74 and all(i in index for at in (100, 200, 300) for i in range(at, at + 8))


@pytest.mark.parametrize("number", ["01", "\u0663", "1_0"])
def test_changes_are_named_one_way(number, tmp_path):
    x = np.random.default_rng(0).standard_normal((20, 8), dtype=np.float32)
    codes = compand.Codec("int:8").encode(x)
    with compand.Writer(tmp_path / "a.cpd") as out:
        out.write_codes("vectors", codes)
        out.write_codes(f"vectors/rows/{number}", codes)
    assert len(Index(tmp_path / "a.cpd")) == 20
