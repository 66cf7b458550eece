"""An embedding whose rows are codes, those of the head it is tied to."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..op.matmul import matrix
from .linear import CodedLinear


class CodedEmbedding(nn.Module):
    """``nn.Embedding`` that decodes the rows it is asked for from the codes of a head; it has no weights of its own.

    ``scale`` multiplies rows, as some families want.

    >>> head = CodedLinear.of(nn.Linear(64, 10, bias=False), "int:8")
    >>> CodedEmbedding(head, torch.float32)(torch.tensor([[1, 9]])).shape
    torch.Size([1, 2, 64])
    """

    def __init__(self, head: CodedLinear, dtype: torch.dtype, scale: float | None = None):
        super().__init__()
        self.num_embeddings, self.embedding_dim = head.out_features, head.in_features
        self._head = [head]  # in a list: it is a child of the model already
        self.dtype, self.scale = dtype, scale

    @property
    def head(self) -> CodedLinear:
        """The layer that holds the codes."""
        return self._head[0]

    @torch.compiler.disable
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        flat = ids.detach().to("cpu").reshape(-1)
        found, where = torch.unique(flat, return_inverse=True)
        if found.numel() and not 0 <= int(found[0]) <= int(found[-1]) < self.num_embeddings:
            raise IndexError(f"a token is below {self.num_embeddings}")
        weights = matrix(self.head.codes)
        rows = np.stack([weights.row(int(i)) for i in found]) if found.numel() else np.zeros((0, self.embedding_dim), np.float32)
        y = torch.from_numpy(rows)[where].reshape(*ids.shape, self.embedding_dim).to(ids.device, self.dtype)
        return y if self.scale is None else y * torch.tensor(self.scale).to(self.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self.head.spec}"
