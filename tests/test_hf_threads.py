"""Products on torch's own threads."""

import os
import signal
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import compand  # noqa: E402
from compand import _native  # noqa: E402
from compand.hf import share_threads  # noqa: E402

pytestmark = pytest.mark.skipif(not share_threads(), reason="torch is not built with GNU OpenMP")
RNG = np.random.default_rng(0)
CODES = compand.Codec("hadamard,int:4:group=64").encode(RNG.standard_normal((515, 640), dtype=np.float32))
X = RNG.standard_normal((9, 640), dtype=np.float32)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.delenv("COMPAND_THREADS", raising=False)
    before = torch.get_num_threads()
    share_threads()
    _native.set_threads(0)
    yield
    torch.set_num_threads(before)
    _native.set_threads(0)
    share_threads()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_bits_on_either_pool(threads):
    torch.set_num_threads(threads)
    assert _native.threads() == threads
    ours = compand.matmul(X, CODES)
    assert not share_threads(False)
    _native.set_threads(threads)
    assert np.array_equal(compand.matmul(X, CODES), ours)


def test_other_numbers_of_threads_are_kept_apart():
    torch.set_num_threads(2)
    ours = compand.matmul(X, CODES)
    _native.set_threads(3)
    assert _native.threads() == 3 and np.array_equal(compand.matmul(X, CODES), ours)
    torch.randn(512, 512).exp().sum()
    assert torch.get_num_threads() == 2


def test_only_a_library_that_is_there():
    assert not _native.borrow_threads("libgomp-of-nowhere.so.1")
    assert np.isfinite(compand.matmul(X, CODES)).all()


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_child_has_a_pool_of_its_own():
    torch.set_num_threads(2)
    ours = compand.matmul(X, CODES)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        _native.set_threads(2)
        os._exit(0 if np.array_equal(compand.matmul(X, CODES), ours) else 1)
    assert os.waitpid(child, 0)[1] == 0
