"""Ids where they help: the grain of each row by rate and distortion."""

import numpy as np
import pytest

from compand import Codec
from compand.errors import CompandError, CorruptError
from compand.quantizer.dynamic import Dynamic
from compand.quantizer.vq import VQ
from compand.stage import Form


def regions(seed=0, n=1500):
    """Half of the rows smooth (four equal pieces), half of them busy."""
    rng = np.random.default_rng(seed)
    smooth = np.repeat(rng.standard_normal((n // 2, 1, 4)), 4, axis=1) * 0.5 + 0.02 * rng.standard_normal((n // 2, 4, 4))
    return rng.permutation(np.concatenate([smooth, rng.standard_normal((n - n // 2, 4, 4))]).reshape(n, 16)).astype(np.float32)


def test_smooth_rows_take_fewer_ids_for_hardly_more_error():
    x = regions()
    q = Dynamic(64, dim=4, rate=0.05).fit(x)
    parts = q.encode(x)
    ids = len(q.ids(parts, 16))
    error = np.square(q.decode(parts, Form(len(x), 16)) - x).mean()
    plain = VQ(64, dim=4).fit(x)
    whole = np.square(plain.decode(plain.encode(x), Form(len(x), 16)) - x).mean()
    assert ids < 0.75 * 4 * len(x) and error < 1.15 * whole
    busy = x.reshape(-1, 4, 4).std(1).mean(1) > 0.3
    assert parts["grain"].ravel()[busy].mean() < 0.3 < 1 < parts["grain"].ravel()[~busy].mean()


def test_more_rate_never_more_ids():
    x, counts = regions(1), []
    for rate in (0.0, 0.02, 0.1, 1.0, 100.0):
        q = Dynamic(32, dim=4, rate=rate).fit(x)
        counts.append(len(q.ids(q.encode(x), 16)))
    assert counts[0] == 4 * len(x) and counts[-1] == len(x) and counts == sorted(counts, reverse=True)


def test_no_cheaper_grain_for_any_row():
    x, q = regions(2, 60), None
    q = Dynamic(16, dim=4, rate=0.1).fit(x)
    y = q.decode(q.encode(x), Form(60, 16))
    grain = q.encode(x)["grain"].ravel()
    for g in range(3):
        means = q._means(x.reshape(60, 4, 4), g)
        near = np.square(means[:, :, None] - q.codebook_).sum(3).argmin(2)
        other = np.repeat(q.codebook_[near], 1 << g, axis=1).reshape(60, 16)
        cost = lambda y, ids: np.square(x - y).sum(1) / q.power_[0] + 0.1 * 4 * ids  # noqa: E731
        assert (cost(y, 4 >> grain) <= cost(other, 4 >> g) + 1e-4).all()


@pytest.mark.parametrize("change", [lambda g: g + 1, lambda g: g * 0])
def test_grains_that_do_not_fit_the_ids_are_corrupt(change):
    x = regions(3, 40)
    q = Dynamic(16, dim=4, rate=0.1).fit(x)
    parts = q.encode(x)
    with pytest.raises(CorruptError, match="grains"):
        q.decode(parts | {"grain": change(parts["grain"]).astype(np.uint8)}, Form(40, 16))


def test_broken_bytes_end_in_a_named_error():
    x = regions(4, 40)
    data = bytearray(Codec("dynamic:16:dim=4:rate=0.1").fit(x).encode(x).to_bytes())
    for at in range(0, len(data), 7):
        data[at] ^= 0x5a
        try:
            Codec.decompress(bytes(data))
        except CompandError:
            pass
        data[at] ^= 0x5a
