"""Nested bits: the leading bits of one file are a quantizer of their own."""

import numpy as np
import pytest

from compand import Codec
from compand.errors import CorruptError, SpecError
from compand.quantizer.nested import Nested
from compand.stage import Form


def rows(seed=0, n=64, d=96):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize("rule", ["round", "floor"])
def test_each_term_is_finer_and_costs_only_its_bits(rule):
    x, codec = rows(), Codec(f"nested:2x4x8:rule={rule}")
    codes = codec.encode(x)
    errors = [float(np.square(codec.decode(codes, terms=t) - x).mean()) for t in (1, 2, 3)]
    assert errors[0] > 8 * errors[1] > 64 * errors[2]
    if rule == "floor":  # what quantizers of 2, 4 and 8 bits of their own reach: 0.113, 0.0084, 0.0000347
        assert errors[0] < 0.16 and errors[1] < 0.0105 and errors[2] < 0.00004
    assert codes.nbytes == len(x) * (96 + 2)
    assert np.array_equal(codec.decode(codes), codec.decode(codes, terms=3))


def test_fewer_bits_are_more_bits_rounded():
    """Double rounding: q_l = round(q_h / 2^(h - l))."""
    x, q = rows(1), Nested((3, 8), rule="round")
    parts = q.encode(x)
    s = parts["scale"].astype(np.float32)
    fine = np.rint(q.decode(parts, Form(64, 96)) / s)
    assert np.array_equal(q.decode(parts, Form(64, 96), terms=1), np.floor((fine + 16) / 32).astype(np.float32) * (s * 32))
    assert fine.min() >= q.span[0] and fine.max() <= q.span[1]


def test_leading_bits_by_floor_are_the_same_bits():
    q, whole = Nested((1, 2, 5)), Nested((5,))
    x = rows(2)
    parts = q.encode(x)
    ids = parts["0.ids"].astype(int) << 4 | parts["1.ids"].astype(int) << 3 | parts["2.ids"]
    s = parts["scale"].astype(np.float32)
    assert np.array_equal((ids - 16 + 0.5).astype(np.float32) * s, q.decode(parts, Form(64, 96)))
    assert whole.span == q.span == (-16, 15)


def test_a_file_reads_only_the_terms_asked_for(tmp_path):
    import compand

    x, codec = rows(3), Codec("hadamard,nested:2x8:group=32")
    path = tmp_path / "x.cpd"
    path.write_bytes(codec.encode(x).to_bytes())
    entry = next(iter(compand.open(path).values()))
    assert np.array_equal(entry.array(terms=1), codec.decode(codec.encode(x), terms=1))


def test_refusals():
    for spec in ("nested:4x2", "nested:0x2", "nested:2x17", "nested:2x2"):
        with pytest.raises(SpecError, match="rise"):
            Codec(spec)
    codec = Codec("nested:2x4")
    codes = codec.encode(rows())
    del codes.blocks[0].parts["1.ids"]
    assert codec.decode(codes, terms=1).shape == (64, 96)
    with pytest.raises(CorruptError, match="belong"):
        codec.decode(codes)
