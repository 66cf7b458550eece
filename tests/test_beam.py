"""Beam search for sums of codebooks."""

import itertools

import numpy as np
import pytest

import compand
from compand import _native
from compand.beam import search
from compand.errors import InputError


def error(codec, x, beam):
    return float(((codec.decode(codec.encode(x, beam=beam)) - x) ** 2).mean())


@pytest.mark.parametrize("spec", ["vq:16+vq:16+vq:16", "vq:16:dim=3+vq:16:dim=3", "pq:3x4+pq:3x4+pq:3x4", "klt,vq:16+vq:16",
                                  "vq:8:dim=4+vq:16:dim=4,rans"])
def test_more_beginnings_leave_less_error_in_the_same_file(spec):
    x = np.random.default_rng(0).standard_normal((600, 8), dtype=np.float32)
    codec = compand.Codec(spec).fit(x)
    greedy, few, many = (error(codec, x, beam) for beam in (1, 4, 16))
    assert few < greedy and many <= few * 1.001
    data = codec.encode(x, beam=4).to_bytes()
    assert np.array_equal(codec.decode(codec.encode(x, beam=4)), compand.Codec.decompress(data))


def test_a_beam_as_wide_as_all_sums_finds_the_best():
    rng = np.random.default_rng(1)
    books = [rng.standard_normal((4, 3)).astype(np.float32) for _ in range(3)]
    x = rng.standard_normal((50, 3)).astype(np.float32)
    sums = np.array([a + b + c for a, b, c in itertools.product(*books)])
    best = ((x[:, None] - sums) ** 2).sum(2).argmin(1)
    found = search(x, books, 64)
    assert (found[:, 0] * 16 + found[:, 1] * 4 + found[:, 2] == best).all()


def test_the_same_on_every_level(request):
    request.addfinalizer(lambda: _native.set_isa("auto"))
    rng = np.random.default_rng(2)
    books, x = [rng.standard_normal((40, 7)).astype(np.float32) for _ in range(3)], rng.standard_normal((99, 7)).astype(np.float32)
    found = [search(x, books, 5) for level in ("scalar", "avx2", "avx512") if _native.set_isa(level)]
    assert all(np.array_equal(one, found[0]) for one in found) and search(x[:0], books, 5).shape == (0, 3)


def test_a_beam_without_a_sum_of_codebooks_is_refused():
    x = np.random.default_rng(3).standard_normal((50, 6), dtype=np.float32)
    for spec in ("vq:4", "int:4", "vq:4+int:4", "vq:4+pq:2x2", "pq:2x2+pq:3x2", "vq:4:dim=3+vq:4"):
        with pytest.raises(InputError, match="beam search"):
            compand.Codec(spec).fit(x).encode(x, beam=2)
    with pytest.raises(InputError, match="from 1 to 1024"):
        compand.Codec("vq:4+vq:4").fit(x).encode(x, beam=0)
