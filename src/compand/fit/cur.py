"""Scores that are dear to compute, of a query with all rows, from those with a few rows: CUR decomposition."""

from __future__ import annotations

import numpy as np

from ..errors import InputError


class Cur:
    """The scores of any query with n rows, from its scores with the m ``anchors`` among them.

    Parameters
    ----------
    scores : (queries, n) array
        What a scorer, such as a cross-encoder, says of some queries and all rows: computed once.
    anchors : int or (m,) row numbers
        Rows whose scores will be asked for of every new query; a number draws them by ``seed``.

    A new query asks the scorer for m scores instead of n; the rest follows by least squares. Rank the rows by that and ask the
    scorer again for the first ones. Yadav et al., Efficient nearest neighbor search for cross-encoder models using matrix
    factorization (ANNCUR, 2022).

    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.standard_normal((30, 4)), rng.standard_normal((4, 50))
    >>> cur = Cur(a @ b, anchors=8)
    >>> new = rng.standard_normal((2, 4)) @ b
    >>> bool(np.allclose(cur.scores(new[:, cur.anchors]), new))
    True
    """

    def __init__(self, scores, anchors, *, rank: float = 1e-2, seed: int = 0):
        known = np.asarray(scores, np.float64)
        if known.ndim != 2 or not known.size or not np.isfinite(known).all():
            raise InputError(f"scores must be finite and (queries, n), not {list(known.shape)}")
        n = known.shape[1]
        rows = np.random.default_rng(seed).permutation(n)[:anchors] if np.ndim(anchors) == 0 else np.asarray(anchors)
        if not rows.size or rows.min() < 0 or rows.max() >= n:
            raise InputError(f"anchors must be rows from 0 to {n - 1}, and at least one")
        self.anchors = np.sort(rows).astype(np.int64)
        self.weights = np.linalg.pinv(known[:, self.anchors], rcond=rank) @ known  # (m, n)

    def scores(self, own) -> np.ndarray:
        """All scores (q, n) from those with the anchors (q, m)."""
        own = np.asarray(own, np.float64)
        if own.shape[-1] != len(self.anchors):
            raise InputError(f"give a score for each of {len(self.anchors)} anchors, not {list(own.shape)}")
        return own @ self.weights
