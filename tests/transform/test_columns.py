"""Terms that code columns of their own: masked-channel residual codes, and prefixes within a code."""

import numpy as np
import pytest

from compand import Codec
from compand.errors import SpecError


def rows():
    return np.random.default_rng(0).standard_normal((2000, 8)).astype(np.float32)


def test_masked_channel_residual():
    """Language-Codec's MCRVQ: first terms see some channels each, the last what is left of all."""
    x = rows()
    codec = Codec("(columns:0:4,vq:32)+(columns:4:4,vq:32)+vq:32").fit(x)
    codes = codec.encode(x)
    one, two, all_ = (codec.decode(codes, terms=t) for t in (1, 2, 3))
    assert not one[:, 4:].any() and one[:, :4].any() and np.array_equal(two[:, :4], one[:, :4]) and two[:, 4:].any()
    errors = [np.square(x - y).mean() for y in (one, two, all_)]
    assert errors[0] > errors[1] > errors[2]


def test_equal_to_a_product_code_over_the_same_columns():
    x = rows()
    parts = Codec("(columns:0:4,vq:16:seed=0)+(columns:4:4,vq:16:seed=1)").fit(x)
    product = Codec("pq:2x4").fit(x)
    assert np.array_equal(parts.decode(parts.encode(x)), product.decode(product.encode(x)))


def test_weights_go_to_their_columns():
    x, w = rows(), np.float32([[0, 0, 0, 0, 1, 9, 1, 1]])
    a = Codec("(columns:4:4,table:4)+sign").fit(x, weight=w).stage.items[0].items[1].table_
    b = Codec("table:4").fit(x[:, 4:], weight=w[:, 4:]).stage.table_
    assert np.array_equal(a, b)


def test_short_rows_are_refused():
    with pytest.raises(SpecError, match="8 columns, 9 are needed"):
        Codec("columns:5:4,int:4").encode(rows())
