"""What kernels take for an array: NumPy's own at once, any other by the protocols, and nothing that they would read wrongly."""

import sys

import numpy as np
import pytest

import compand
from compand import _native

X = np.arange(24, dtype=np.float32).reshape(3, 8)
INDEX = _native.NearestIndex(np.stack([X[0], X[2], X[1]]))
IDS = [0, 2, 1]


def unaligned():
    raw = np.zeros(X.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(X.tobytes(), np.uint8)
    return raw[1:].view(np.float32).reshape(X.shape)


@pytest.mark.parametrize("x", [X, X.copy(), X.view(np.recarray), memoryview(X), np.frombuffer(X.tobytes(), np.float32).reshape(3, 8)])
def test_arrays_of_the_right_kind(x):
    assert INDEX.search(x).tolist() == IDS


def test_read_only_and_mapped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    assert INDEX.search(np.load(tmp_path / "x.npy", mmap_mode="r")).tolist() == IDS
    frozen = X.copy()
    frozen.setflags(write=False)
    assert INDEX.search(frozen).tolist() == IDS


def test_tensors():
    torch = pytest.importorskip("torch")
    assert INDEX.search(torch.from_numpy(X)).tolist() == IDS


@pytest.mark.parametrize("x", [
    X.astype(np.float64), X.astype(">f4"), X.astype(np.int32), X[0], X[None], X[:, ::2], np.asfortranarray(X), X[::-1], X.tolist(), None, 3,
    X.view([("a", np.float32)]), X.astype(object)])
def test_others_are_refused(x):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        INDEX.search(x)


def test_arrays_that_are_not_aligned_are_read():
    """As a map of a file gives them; kernels get a copy."""
    x = unaligned()
    assert not x.flags.aligned
    assert INDEX.search(x).tolist() == IDS
    assert compand.Codec("int:8").encode(x).nbytes == compand.Codec("int:8").encode(X).nbytes


def test_empty_arrays_and_results_of_each_size():
    assert INDEX.search(X[:0]).shape == (0,)
    for itemsize, dtype in ((1, np.uint8), (2, np.uint16), (4, np.uint32)):
        ids = INDEX.search(X, itemsize)
        assert ids.dtype == dtype and ids.flags.owndata and ids.flags.writeable
    groups = _native.NearestIndex(np.stack([X, X[::-1].copy()]))
    assert groups.search(np.tile(X, 2)).tolist() == [[0, 2], [1, 1], [2, 0]]


def test_references_are_given_back():
    held = np.zeros((4, 64), np.float32)
    before = sys.getrefcount(held)
    for _ in range(10):
        _native.nearest(held, held)
    assert sys.getrefcount(held) == before
