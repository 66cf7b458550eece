"""What a codebook in training remembers of the rows that chose its codewords, and how it moves by that."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .. import _native
from ..array import to_numpy
from ..errors import SpecError
from ..stage import Form, Stage
from . import codebook as books
from .recipe import Recipe

REVIVALS = 1 << 12  # rows of a process that unused codewords may move to
ROWS = 12           # rows of a codeword of even use that its use is judged by, and after which recent rows are looked at again
RECENT = 64         # such rows kept, at most
BYTES = 4 << 20     # and the memory they may take; none are kept where that is not enough
LEAST = 16          # and how many must be there: means of fewer are worse than what the codewords have learnt
STEPS = 16          # between two looks, at least
JUDGES = 16         # of the recent batches, one or two parts of so many judge at the end
TURNS = 3           # steps of Lloyd's at the end


class Seen(NamedTuple):
    """What a batch showed: vectors (v, size) float32, the codeword that each chose (v,) uint32, its squared error (v,) float32."""

    vectors: np.ndarray
    ids: np.ndarray
    far: np.ndarray


class Batch(NamedTuple):
    """Vectors (rows, m, size) of a batch, and mean and spread that vectors had then, (m, size)."""

    vectors: np.ndarray
    mean: np.ndarray
    spread: np.ndarray


class Running(nn.Module):
    """Moving statistics of the m codebooks of k codewords of a stage.

    ============  ==================================================================================================
    ``use``       moving number of rows a batch that chose each codeword, (m·k,) float64
    ``error``     their squared error, likewise
    ``mass``      how many rows each codeword is the mean of, (m·k,) float64
    ``window``    batches that a mean reaches back over, () float64
    ``step``      where the rows of the last batch that chose it lay from each codeword, (m·k, size) float32
    ``frame``     moving mean and variance of vectors, (m, 2, size) float64, see `codebook.follow`
    ``bent``      moving covariance of vectors, where codebooks are a function of frozen codewords: (m, size, size) float64
    ``price``     of codewords, with balanced assignment: (3, m, k) float64, see `codebook.balanced`
    ============  ==================================================================================================
    """

    use: torch.Tensor
    error: torch.Tensor
    mass: torch.Tensor
    window: torch.Tensor
    step: torch.Tensor
    frame: torch.Tensor
    bent: torch.Tensor
    price: torch.Tensor

    def __init__(self, leaf: Stage, d: int, recipe: Recipe):
        super().__init__()
        self.recipe, self.m, k = recipe, getattr(leaf, "m", 1), leaf.k
        self._recent: list[Batch] = []
        self._then: list[np.ndarray] = []  # codewords before the last batches, and before the later half of these
        self._judges: list[float] = []     # errors of the last batches, each by codewords that had not learnt from it
        self._waited = 0
        size = leaf.state(Form(1, d))["codebook_"].shape[-1]
        for name, shape in {"use": (self.m * k,), "error": (self.m * k,), "frame": (self.m, 2, size)}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.looks = not recipe.balance and BYTES >= 4 * size * LEAST * self.m * k
        if recipe.update == "kmeans" and not self.looks:
            raise SpecError(f"{leaf}: update=kmeans looks back at {LEAST} rows of each codeword in {BYTES >> 20} MB, without balance; "
                            "use update='ema'")
        self.moves = recipe.update in ("ema", "kmeans") and not recipe.through
        if self.moves:
            self.register_buffer("mass", torch.zeros(self.m * k, dtype=torch.float64))
            self.register_buffer("window", torch.tensor(1 / (1 - recipe.decay), dtype=torch.float64))
            self.register_buffer("step", torch.zeros(self.m * k, size))
        if recipe.through:
            self.register_buffer("bent", torch.zeros(self.m, size, size, dtype=torch.float64))
        if recipe.balance:
            self.register_buffer("price", torch.zeros(3, self.m, k, dtype=torch.float64))

    @property
    def shape(self) -> torch.Tensor:
        """Mean and covariance of vectors, (m, 1 + size, size)."""
        return torch.cat([self.frame[:, :1], self.bent], 1)

    def begin(self, ids: np.ndarray) -> None:
        """Starts from the rows that a codebook was fitted to."""
        for name in self._buffers:
            self._buffers[name].zero_()
        self.use.copy_(torch.from_numpy(np.bincount(ids, minlength=len(self.use)).astype(np.float64)))
        if self.moves:
            self.mass.copy_(self.use)
            self.window.fill_(1 / (1 - self.recipe.decay))
            for past in (self._recent, self._then, self._judges):
                past.clear()

    def learn(self, words: np.ndarray, seen: Seen, rng: np.random.Generator) -> None:
        """Takes in a batch; moves words (m·k, size) float32, in place, as the recipe says."""
        own = {name: to_numpy(a) for name, a in self._buffers.items()}
        sums, counts, errors = books.statistics(seen, len(words))
        keeps = self.moves and self.looks
        if keeps:
            self._remember(words, seen)
        if self.moves or self.recipe.through:
            for j, some in enumerate(own["frame"]):
                still = words[:0] if self.recipe.through else words.reshape(self.m, -1, words.shape[1])[j]
                books.follow(still, some, vectors := seen.vectors.reshape(-1, self.m, words.shape[1])[:, j])
                if self.recipe.through:
                    books.bend(own["bent"][j], vectors)
        if self.moves:
            if self.recipe.update == "ema":
                own["window"] = np.asarray(books.refresh(words, own["mass"], own["step"], sums, counts, float(own["window"]),
                                                         1 / (1 - self.recipe.decay)))
            else:
                own["window"] = np.asarray(float(books.LONGEST))  # all that is kept
            del sums  # the largest array of all, where codewords are many
            if keeps:
                self._settle(words, own, seen, float(counts.sum()))
        memory = max(self.recipe.decay, 1 - counts.sum() / (ROWS * len(counts)))
        if not own["error"].any():
            own["error"][:] = errors.mean()
        for name, new in (("use", counts), ("error", errors)):
            own[name] *= memory
            own[name] += (1 - memory) * new
        if self.recipe.revive and not self.recipe.through and self.recipe.update != "frozen":
            self._revive(words, own, seen.vectors, rng)
        for name, a in own.items():
            if self._buffers[name].device.type != "cpu" or name == "window":  # on this machine the arrays are views
                self._buffers[name].copy_(torch.from_numpy(a))

    def _remember(self, words, seen):
        """Keeps the codewords that the last batches have not taught, and their errors on them."""
        half = max(1, len(self._recent) // JUDGES)
        if not self._then or len(self._judges) >= 2 * half:
            self._then = [*self._then[1:], words.copy()] if self._then else [words.copy()] * 2
            del self._judges[:-half]
        self._judges.append(float(seen.far.sum(dtype=np.float64)))

    def _settle(self, words, own, seen, rows: float):
        """Now and then makes codewords the means of the recent rows that are nearest to them now: a step of Lloyd's.

        A moving mean still holds rows that today would choose another codeword, and one that was moved knows few rows.
        """
        mean, spread = own["frame"][:, 0].astype(np.float32), _spread(own["frame"])
        most = int(min(RECENT * len(words), BYTES / (4 * words.shape[1])) / rows) + 1
        self._recent.append(Batch(seen.vectors.reshape(-1, *mean.shape), mean, spread))
        del self._recent[:-most]
        self._waited += 1
        last = self._recent[-int(own["window"]) - 1:]
        if self._waited < max(STEPS, ROWS * len(words) / rows) or len(last) * rows < LEAST * len(words):
            return
        self._waited = 0
        moved = (((b.vectors - b.mean) / b.spread * spread + mean).astype(np.float32) for b in last)  # as vectors have since
        sums, counts = self._sums(moved, words)
        words[:], counts = _means(words, books.reduce(sums), books.reduce(counts))
        own["mass"][:] = np.maximum(counts, books.BORN)
        own["step"][:] = 0

    def finish(self, words: np.ndarray) -> None:
        """Moves words (m·k, size) float32, in place, to the means of all recent rows, where the newest ones say that these are nearer.

        They are where the encoder has settled: moving means remember the last rows most. The newest judge codewords that have not
        learnt from them: the moving means by the errors that were noted then, the others made without them from codewords of then.
        """
        batches, new = [b.vectors for b in self._recent], len(self._judges)
        if not new or new >= len(batches) or self.m * sum(map(len, batches)) < LEAST * len(words):
            return
        tried = self._turned(self._then[0], batches[:-new])
        if sum(self._nearest(v, tried)[1].sum(dtype=np.float64) for v in batches[-new:]) < sum(self._judges):
            words[:] = self._turned(words, batches)

    def _turned(self, words, batches):
        for _ in range(TURNS):
            words = _means(words, *self._sums(batches, words))[0]
        return words

    def _nearest(self, v: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of all codewords vectors (n, m, size) choose, (n·m,) uint32, and how far they are, squared."""
        ids, far, k = np.empty(v.shape[:2], np.uint32), np.empty(v.shape[:2], np.float32), len(words) // self.m
        for j in range(self.m):
            ids[:, j], far[:, j] = _native.nearest_distances(np.ascontiguousarray(v[:, j]), words[j * k:(j + 1) * k])
            ids[:, j] += np.uint32(j * k)
        return ids.reshape(-1), far.reshape(-1)

    def _sums(self, batches, words):
        """Sums (m·k, size) and counts of the vectors of batches that are nearest to each codeword."""
        sums, counts = np.zeros(words.shape), np.zeros(len(words))
        for v in batches:
            more = _native.cluster_sums(v.reshape(-1, words.shape[1]), self._nearest(v, words)[0], len(words), None, None)
            sums, counts = sums + more[0], counts + more[1]
        return sums, counts

    def _revive(self, words, own, v, rng):
        k = len(words) // self.m
        for j in range(self.m):
            at = slice(j * k, (j + 1) * k)
            rows = books.gather(np.ascontiguousarray(v[j::self.m]), REVIVALS)
            moved = books.revive(words[at], own["use"][at], own["error"][at], rows, self.recipe.revive, rng) + j * k
            if "mass" in own:
                own["mass"][moved], own["step"][moved] = books.BORN, 0


def _spread(frame: np.ndarray) -> np.ndarray:
    """Standard deviations of a frame (m, 2, size): (m, size) float32."""
    return np.sqrt(np.maximum(frame[:, 1], 1e-30)).astype(np.float32)


def _means(words, sums, counts):
    """Words (k, size) moved to the means of rows with these sums and counts, where there are any; counts."""
    new, chosen = words.copy(), counts > 0
    new[chosen] = sums[chosen] / counts[chosen, None]
    return new, counts
