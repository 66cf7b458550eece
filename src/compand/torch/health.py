"""How a quantizer in training is doing: codewords that nobody uses, features that carry nothing, a decoder that does not listen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ..array import to_numpy

WATCH = 100    # steps between looks
DEAF = 1e-4    # share of the largest gradient seen below which the decoder is said not to listen
TWINS = 1e-3   # distance of codewords, in root mean squares of a codeword, below which two say the same


class CollapseWarning(UserWarning):
    """Codewords or dimensions that should be used are not, or nobody listens to them; the text says what to change."""


class Use(NamedTuple):
    """How evenly the codewords of a codebook are used: exp(entropy) of the use, share of codewords used, dead ones."""

    perplexity: float
    used: float
    dead: int


class Health(NamedTuple):
    """What `Quantize.report` found.

    `use` by codebook; `information`: bits a vector that all codes of a batch carry, each symbol by itself; `error`: |x - y|² in
    units of the variance (1: no better than the mean); `dimensions` in which x varies, of `dim`; `carried`: the directions of x of
    whose variance most reaches y; `twins`: share of codewords that
    another one repeats (representation collapse, Zhao 2024); `listening`: root mean square of the gradient that reached y, in the
    largest seen (posterior collapse: 0, the decoder ignores the codes).
    """

    use: dict[str, Use]
    information: float
    error: float
    dimensions: int
    dim: int
    carried: int
    twins: float
    listening: float

    def faults(self, revive: bool, commit: float | None) -> list[str]:
        """What is wrong and what to change; empty if nothing is."""
        found = []
        for path, use in self.use.items():
            if use.used < 0.25:
                cure = "larger batches, fewer codewords or update='ema'" if revive else "set revive=0.2"
                found.append(f"codebook {path or 'of the layer'}: {use.used:.0%} of the codewords are used "
                             f"(perplexity {use.perplexity:.0f}); {cure}")
        if self.dimensions < self.dim / 4:
            found.append(f"x varies in {self.dimensions} of its {self.dim} dimensions; a smaller commit "
                         f"({'default' if commit is None else commit} now), a normalisation "
                         "before the layer, or a smaller dim")
        elif not self.use and self.carried <= self.dim / 4:
            found.append(f"x varies by more than the error of its codes in {self.carried} of its {self.dim} directions; "
                         f"nn.BatchNorm1d({self.dim}, affine=False) before the layer, a longer training, or a codebook (vq), "
                         "which spends its bits where rows are")
        if self.information < 0.1:
            found.append(f"posterior collapse: nearly all vectors of the batch have the same code ({self.information:.2f} bits); "
                         "a smaller weight of the layer's loss, a larger learning rate of the encoder, or less noise before the layer")
        if self.twins > 0.5:
            found.append(f"representation collapse: {self.twins:.0%} of the codewords repeat another one; update='ema', "
                         "through='linear', or an encoder whose outputs differ more")
        if self.listening < DEAF:
            found.append("posterior collapse: the gradient that reaches the codes has vanished, so the decoder ignores them; make the "
                         "decoder weaker or its other inputs poorer")
        return found


def of_use(use: np.ndarray) -> Use:
    """Use (k,) as perplexity, share used and dead codewords (less than a hundredth of an even use)."""
    p = use / max(use.sum(), 1e-300)
    dead = int((use < 0.01 * use.mean()).sum())
    return Use(float(np.exp(-(p * np.log(np.where(p > 0, p, 1))).sum())), 1 - dead / len(use), dead)


def information(parts: dict[str, torch.Tensor]) -> float:
    """Bits a row of the symbols among these parts, the entropy of each column on its own rows: an upper bound."""
    total = 0.0
    for path, part in parts.items():
        if path.rpartition(".")[2] not in ("ids", "grain") or not len(part):
            continue
        for column in to_numpy(part).reshape(len(part), -1)[:, :64].T:
            p = np.unique(column, return_counts=True)[1] / len(column)
            total -= float((p * np.log2(p)).sum())
    return total


@torch.no_grad()
def dimensions(x: torch.Tensor) -> int:
    """In how many directions rows x (n, d) vary by more than a hundredth of the widest one's standard deviation."""
    values = torch.linalg.eigvalsh(torch.cov(x.detach().double().T).reshape(x.shape[1], -1))
    return int((values > 1e-4 * values.max()).sum())


@torch.no_grad()
def carried(x: torch.Tensor, y: torch.Tensor) -> int:
    """In how many principal directions of rows x (n, d) the rows y that stand for them keep half of the variance or more.

    >>> x = torch.tensor([[5.0, 0.1], [-5.0, 0.1], [5.0, -0.1], [-5.0, -0.1]])
    >>> carried(x, x.round()), carried(x, x)
    (1, 2)
    """
    x, y = x.detach().double(), y.detach().double()
    values, axes = torch.linalg.eigh(torch.cov(x.T).reshape(x.shape[1], -1))
    lost = torch.cov((y - x).T).reshape(x.shape[1], -1)
    return int(((axes * (lost @ axes)).sum(0) <= 0.5 * values).sum())


def twins(words: np.ndarray, most: int = 4096) -> float:
    """Share of the first codewords (k, size) that lie next to an earlier one."""
    words = np.asarray(words, np.float32).reshape(-1, words.shape[-1])[:most]
    close = TWINS * max(float(np.sqrt(np.square(words - words.mean(0)).sum(1).mean())), 1e-30)
    return 1 - len(np.unique(np.floor(words / close + 0.5), axis=0)) / len(words)
