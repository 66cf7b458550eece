"""How a quantizer is trained, apart from what it is: gradient, update of what is fitted, and use of codewords."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_type_hints

from ..errors import SpecError

Estimator = Literal["rotation", "straight", "noise", "diveq", "clip", "trust", "lsq", "gumbel", "soft", "none"]
Update = Literal["ema", "gradient", "frozen"]


@dataclass(frozen=True)
class Recipe:
    """One default that trains without tuning; every choice is orthogonal to the code.

    ============  ================================================================================================
    `estimator`   how gradients pass the quantizer: ``rotation`` (Fifty 2024), ``straight`` (Bengio 2013), ``noise``
                  (NSVQ, Vali 2022), ``diveq`` (Vali 2025), ``clip`` (straight within the grid), ``trust`` (QuEST 2025:
                  straight where the error is within twice its root mean square), ``lsq`` (learned step, Esser 2019), ``gumbel``
                  (a codeword drawn by distance, McQuic 2022), ``soft`` (differentiable k-means, eDKM 2023), ``none``
    `temperature` of ``gumbel`` and ``soft``, in mean squared errors of the nearest codeword; learnt where `update` is gradient
    `update`      of what is fitted: ``ema`` (van den Oord 2017; fitted statistics follow the data), ``gradient``, ``frozen``
    `decay`       of the moving averages, a step
    `commit`      weight of |x - sg(y)|², in units of the variance of x
    `codebook`    weight of |sg(x) - y|² with ``update=gradient``, in the same units
    `revive`      codewords used less than this share of an even use move to rows of the batch; 0: never
    `entropy`     weight of sure values and even use of bits (LFQ, Yu 2023): nats a bit of a `sign`, each bit by itself
    `prefix`      each training batch stops a sum after a random number of terms (nested, bit-switchable codes)
    `through`     codebook = f(frozen codewords): ``linear`` (SimVQ, 2024), ``mlp`` (VQGAN-LC, 2024); '' is none
    `rank`        with ``through=linear``: of the low-rank map added to the identity (LR²VQ); None is full
    ============  ================================================================================================
    """

    estimator: Estimator = "rotation"
    update: Update = "ema"
    decay: float = 0.9
    temperature: float = 1.0
    commit: float = 0.25
    codebook: float = 1.0
    revive: float = 0.1
    entropy: float = 0.0
    prefix: bool = False
    through: Literal["", "linear", "mlp"] = ""
    rank: int | None = None

    def __post_init__(self):
        hints = get_type_hints(type(self))
        for f in fields(self):
            value, choices = getattr(self, f.name), get_args(hints[f.name])
            if choices and isinstance(choices[0], str) and value not in choices:
                raise SpecError(f"{f.name}={value!r} must be one of {', '.join(c or repr(c) for c in choices)}")
            if f.type == "float" and not (isinstance(value, (int, float)) and 0 <= value):
                raise SpecError(f"{f.name}={value!r} must be a number that is not negative")
        if not self.decay < 1:
            raise SpecError(f"decay={self.decay} must be below 1")
