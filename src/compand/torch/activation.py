"""A linear layer on codes of its inputs, as an integer kernel computes it."""

from __future__ import annotations

import numpy as np
import torch

from ..codec import Codec
from ..codes import Codes
from ..op.coded_product import Weights, product


class CodedInputs(torch.nn.Module):
    """y = x̂ ŵᵀ + b for inputs coded by a fitted codec and weights coded in the domain of its transforms; see `compand.op.coded_product`.

    No gradients. ``inputs`` may be changed to another codec with the same transforms.
    """

    def __init__(self, inputs: Codec, codes: Codes, bias: torch.Tensor | None):
        super().__init__()
        self.inputs, self.codes = inputs, codes
        self.weights = Weights(codes)
        self.out_features, self.in_features = self.weights.n, self.weights.d
        self.bias = None if bias is None else torch.nn.Parameter(bias.detach().clone(), requires_grad=False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = np.ascontiguousarray(x.detach().to("cpu", torch.float32).reshape(-1, x.shape[-1]).numpy())
        y = torch.from_numpy(product(rows, self.inputs, self.weights)).to(x.device, x.dtype).reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, inputs={self.inputs.spec}, weights={self.codes.codec.spec}"
