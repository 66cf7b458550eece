"""How a quantizer is trained, apart from what it is: gradient, update of what is fitted, and use of codewords."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_type_hints

from ..errors import SpecError

Estimator = Literal["auto", "rotation", "straight", "noise", "diveq", "clip", "trust", "lsq", "gumbel", "soft", "bernoulli", "none"]
Update = Literal["ema", "kmeans", "gradient", "frozen"]


@dataclass(frozen=True)
class Recipe:
    """One default that trains without tuning; every choice is orthogonal to the code.

    ============== ================================================================================================
    `estimator`    how gradients pass the quantizer: ``auto`` (``rotation`` where there are codebooks, ``straight`` where there are
                   none), ``rotation`` (Fifty 2024), ``straight`` (Bengio 2013), ``noise`` (NSVQ, Vali 2022), ``diveq`` (Vali
                   2025), ``clip`` (straight within the grid), ``trust`` (QuEST 2025: straight where the error is within twice its
                   root mean square), ``lsq`` (learned step, Esser 2019), ``gumbel`` (a codeword drawn by distance, McQuic 2022),
                   ``soft`` (differentiable k-means, eDKM 2023), ``bernoulli`` (a `sign` drawn with the logistic probability of
                   its value: binary latents, Raiko 2014), ``none``
    `temperature`  of ``gumbel`` and ``soft``, in mean squared errors of the nearest codeword; learnt where `update` is gradient
    `update`       of what is fitted: ``ema`` (van den Oord 2017; fitted statistics follow the data), ``kmeans`` (codewords go with mean and
                   spread of the rows, and else stand still but for a step of Lloyd's over recent rows now and then), ``gradient``,
                   ``frozen``
    `decay`        of the moving averages, a step; codewords that no longer lag become means of more batches, see `codebook.refresh`
    `commit`       weight of |x - sg(y)|², in units of the variance of x; None: 0.25 where there are codebooks, 0 where there are
                   none, since a grid follows x, and both would shrink. With ``update=gradient`` of weights it dampens their
                   oscillation (Nagel 2022, eq. 7)
    `codebook`     weight of |sg(x) - y|² with ``update=gradient``, in the same units
    `revive`       codewords used less than this share of an even use, for less than this share of an even error, move to rows
                   of the batch; 0: never
    `balance`      codewords of `vq` and `pq` are assigned by optimal transport, none to more than so many even shares of a
                   batch: 1 is an even use (RepCONC 2022, eq. 8), 0 the nearest codeword; evaluation takes the nearest
    `entropy`      weight of sure choices and even use, in nats: of each bit of a `sign` by itself (LFQ, Yu 2023), of the
                   codewords of a `vq`
    `disentangle`  weight of the squared inner products of the parts of a `pq` (FQGAN, Bai 2024, eq. 5), in units of the variance
    `prefix`       each training batch stops a sum, or the bits of `nested`, after a random number of terms
    `columns`      each training batch keeps a random number of the first features of y, the rest are 0: Matryoshka
                   within a code (nested dropout, Rippel 2014, eq. 6)
    `exponent`     exponents of ``compand:power`` are learnt too, by the optimizer (NUPES, Yvinec 2023, eq. 5)
    `anneal`       gradients only for values within so many steps of the border between two levels, for the end of training:
                   the others are held (OFQ, Liu 2023, section 3.3); 0: all values
    `through`      codebook = f(frozen codewords): ``linear`` (SimVQ, 2024), ``mlp`` (VQGAN-LC, 2024); '' is none
    `rank`         with ``through=linear``: of the low-rank map that is added to the identity; None is full
    ============== ================================================================================================

    Everything else is a spec: LR²VQ (Zhu 2022, low-rank codewords and projection learnt together) is ``pca:4,vq:256`` with
    ``update=gradient``; a learned binary point (TQT, Jain 2020) is ``int:8:per=tensor:pow2=true`` with it, LSQ the same
    without ``pow2``; BSQ is ``scale:norm:row,sign``.
    """

    estimator: Estimator = "auto"
    update: Update = "ema"
    decay: float = 0.9
    temperature: float = 1.0
    commit: float | None = None
    codebook: float = 1.0
    revive: float = 0.2
    balance: float = 0.0
    entropy: float = 0.0
    disentangle: float = 0.0
    prefix: bool = False
    columns: bool = False
    exponent: bool = False
    anneal: float = 0.0
    through: Literal["", "linear", "mlp"] = ""
    rank: int | None = None

    def __post_init__(self):
        hints = get_type_hints(type(self))
        for f in fields(self):
            value, choices = getattr(self, f.name), get_args(hints[f.name])
            if choices and isinstance(choices[0], str) and value not in choices:
                raise SpecError(f"{f.name}={value!r} must be one of {', '.join(c or repr(c) for c in choices)}")
            if f.type.startswith("float") and value is not None and not (isinstance(value, (int, float)) and 0 <= value):
                raise SpecError(f"{f.name}={value!r} must be a number that is not negative")
        if not self.decay < 1:
            raise SpecError(f"decay={self.decay} must be below 1")
        if 0 < self.balance < 1:
            raise SpecError(f"balance={self.balance} must be 0 or from 1: even shares of a batch that a codeword may take")
