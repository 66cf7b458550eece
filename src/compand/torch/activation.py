"""A linear layer on codes of its inputs, as an integer kernel computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..codec import Codec
from ..codes import Codes
from ..errors import InputError
from ..op.coded_product import Weights, product, whole


class CodedInputs(torch.nn.Module):
    """y = x̂ ŵᵀ + b for inputs coded by a fitted codec and weights coded in the domain of its transforms; see `compand.op.coded_product`.

    ``inputs`` are one codec, or a table of those with the same transforms, of which the one at ``at`` codes: scales for each timestep of a
    diffusion transformer (ViDiT-Q, Zhao et al. 2024; DGQ, Ryu et al. 2025); see `condition`. The ``first`` tokens of each sequence
    (..., tokens, d) are not coded (MixDQ, Zhao et al. 2024); sequences are whole then, not continued in a cache. No gradients.
    """

    def __init__(self, inputs: Codec | Sequence[Codec], codes: Codes, bias: torch.Tensor | None, *, first: int = 0):
        super().__init__()
        self.table, self.at, self.first, self.codes = (inputs,) if isinstance(inputs, Codec) else tuple(inputs), 0, first, codes
        self.weights = Weights(codes)
        self.out_features, self.in_features = self.weights.n, self.weights.d
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach().clone(), requires_grad=False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = np.ascontiguousarray(x.detach().to("cpu", torch.float32).reshape(-1, x.shape[-1]).numpy())
        y = product(rows, self.inputs, self.weights).reshape(*x.shape[:-1], -1)
        if self.first and x.ndim > 2:
            kept = rows.reshape(x.shape)[..., :self.first, :]
            y[..., :self.first, :] = whole(kept.reshape(-1, x.shape[-1]), self.inputs, self.weights).reshape(*kept.shape[:-1], -1)
        found = torch.from_numpy(y).to(x.device, x.dtype)
        return found if self.bias is None else found + self.bias

    @property
    def inputs(self) -> Codec:
        """The codec of the inputs, as things are."""
        return self.table[self.at]

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, inputs={self.inputs.spec}, weights={self.codes.codec.spec}"


def condition(model: torch.nn.Module, at: int) -> None:
    """From now on the layers of a model use entry ``at`` of their tables; layers without a table stay. `InputError` if there is none."""
    layers = [m for m in model.modules() if isinstance(m, CodedInputs) and len(m.table) > 1]
    most = min((len(m.table) for m in layers), default=1)
    if not 0 <= at < most:
        raise InputError(f"condition {at} where layers have tables of {most}")
    for m in layers:
        m.at = at
