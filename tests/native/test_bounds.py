"""Product kernels read nothing behind the end of what they are given: arrays end where memory that may be read ends."""

import ctypes
import mmap
import sys

import numpy as np
import pytest

from compand import _native

LEVELS = [level for level in ("scalar", "avx2", "avx512") if _native.set_isa(level)]
_native.set_isa("auto")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect of Linux")


class Edge:
    """Copies arrays to the end of pages before one that must not be touched."""

    def __init__(self):
        self.protect = ctypes.CDLL(None, use_errno=True).mprotect
        self.kept = []

    def __call__(self, a):
        a = np.ascontiguousarray(a)
        size = -(-a.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = mmap.mmap(-1, size + mmap.PAGESIZE)
        self.kept.append(pages)
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        own = np.frombuffer(pages, np.uint8, count=a.nbytes, offset=size - a.nbytes)
        own[:] = a.reshape(-1).view(np.uint8)
        assert self.protect(ctypes.c_void_p(start + size), mmap.PAGESIZE, 0) == 0
        return own.view(a.dtype).reshape(a.shape)


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_behind_the_end_is_read(level):
    _native.set_isa(level)
    rng, edge = np.random.default_rng(0), Edge()
    for n, d in ((1, 1), (4, 63), (5, 64), (3, 65), (17, 130), (2, 257)):
        for m in (1, 5):
            x = edge(rng.standard_normal((m, d)).astype(np.float32))
            for bits in range(1, 9):
                ids = edge(rng.integers(0, 256, (n, -(-d * bits // 8)), dtype=np.uint8))
                levels = edge(rng.integers(0, 256, 1 << bits, dtype=np.uint8))
                for group in (16, 32, 64):
                    shape = n, -(-d // group)
                    brain, ones = edge(np.full(shape, 0x3f80, np.uint16)), edge(np.ones(shape, np.float32))
                    for more in ({"scale": ones}, {"brain": brain, "zero": ones}, {"brain": brain, "levels": levels},
                                 {"scale": ones, "levels": levels, "high": levels}):
                        assert np.isfinite(_native.Ids(d, ids, bits, 3, 1.0, group, **more)(x)).all()
            _native.Plain(edge(rng.integers(0x3c00, 0x3d00, (n, d), dtype=np.uint16)))(x)
            _native.Plain(edge(rng.standard_normal((n, d)).astype(np.float32)))(x)
            for bits, dim in ((8, 8), (16, 2), (4, 3), (12, 1), (2, 2), (10, 16)):
                pieces = (d + dim - 1) // dim
                ids = edge(rng.integers(0, 256, (n, (pieces * bits + 7) // 8), dtype=np.uint8))
                for name, dtype in (("book", np.float32), ("small", np.int8)):
                    words = _native.Words(d, ids, bits, dim, **{name: edge(np.ones((1, 1 << bits, dim), dtype))})
                    words(x)
                    words.row(n - 1)
            _native.Words(d, edge(rng.integers(0, 120, (n, d), dtype=np.uint8)), 8, 1, fraction=3)(x)
    _native.set_isa("auto")
