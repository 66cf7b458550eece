import numpy as np
import pytest

from compand.errors import InputError
from compand.fit.cur import Cur


def test_anchors_tell_all_scores_of_low_rank_ones_and_help_with_noise():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((60, 6)), rng.standard_normal((6, 300))
    noise = 0.1 * rng.standard_normal((80, 300))
    q = rng.standard_normal((20, 6))
    cur = Cur(a @ b + noise[:60], 40)
    new = q @ b + noise[60:]
    guess = cur.scores(new[:, cur.anchors])
    order = np.argsort(-guess, axis=1)[:, :20]
    best = np.argsort(-new, axis=1)[:, :10]
    assert (order[:, :, None] == best[:, None, :]).any(1).mean() > 0.9
    assert np.array_equal(Cur(a @ b, [5, 2]).anchors, [2, 5])


@pytest.mark.parametrize("scores, anchors", [(np.zeros((0, 5)), 2), (np.full((3, 5), np.nan), 2), (np.ones((3, 5)), 0),
                                             (np.ones((3, 5)), [5]), (np.ones(5), 2)])
def test_what_cannot_be_used_is_refused(scores, anchors):
    with pytest.raises(InputError):
        Cur(scores, anchors)
    with pytest.raises(InputError):
        Cur(np.ones((3, 5)), 2).scores(np.ones((1, 3)))
