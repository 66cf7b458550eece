import numpy as np

from compand import seeded


def test_published_stream():
    """The first outputs of splitmix64 for seed 1234567, as its reference implementation gives them."""
    assert seeded.bits(1234567, 5).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423,
                                                4593380528125082431, 16408922859458223821]


def test_any_window_of_the_stream():
    assert np.array_equal(seeded.bits(7, 100)[40:60], seeded.bits(7, 20, 40))
    assert seeded.bits((1 << 64) - 1, 0).shape == (0,)


def test_uniform_normal_signs():
    u = seeded.uniform(3, 100_000)
    assert 0 <= u.min() and u.max() < 1 and abs(u.mean() - 0.5) < 0.005
    z = seeded.normal(3, 99_999)
    assert z.shape == (99_999,) and abs(z.std() - 1) < 0.01
    s = seeded.signs(3, 1000)
    assert s.dtype == np.float32 and set(s.tolist()) == {-1, 1} and abs(s.mean()) < 0.1
