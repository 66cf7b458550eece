"""A model of transformers as weights by name, and whether it still is what native layers were made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from .. import _native
from ..errors import CompandError, UnsupportedError
from ..op.matmul import matrix
from ..op.memory import copied
from .embedding import CodedEmbedding
from .linear import CodedLinear

_PARTS = (CodedLinear, CodedEmbedding, nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, nn.Tanh, nn.LayerNorm,
          nn.Dropout)
KINDS = {torch.float32: torch.float32, torch.bfloat16: torch.uint16}  # how native code sees tensors


class Held:
    """See `compand.lm.layers.Named`. Remembers all that it gave.

    Raises `UnsupportedError` where modules are not those of the model's own file and linear layers, norms and embeddings.
    """

    path = "the model"  # in errors

    def __init__(self, model: nn.Module):
        home = type(model).__module__
        self.model, self.modules = model, dict(model.named_modules())
        if any(type(m).__module__ not in (home, "transformers.activations") and type(m) not in _PARTS for m in self.modules.values()):
            raise UnsupportedError("there are other modules in it")
        self.children = [(parent._modules, dict(parent._modules)) for parent in self.modules.values() if parent._modules]
        self._copy = copied(sum(m.codes.nbytes for m in self.modules.values() if type(m) is CodedLinear))
        self.tensors: list[tuple[dict, str, torch.Tensor, int, int]] = []

    def tensor(self, name: str) -> torch.Tensor | None:
        """A parameter or buffer, None if there is none."""
        module, _, own = name.rpartition(".")
        held = self.modules.get(module)
        return None if held is None else held._parameters.get(own, held._buffers.get(own))

    def _watch(self, module: nn.Module) -> None:
        for own in (module._parameters, module._buffers):
            self.tensors += [(own, name, t, t.data_ptr(), 0 if t.is_inference() else t._version)
                             for name, t in own.items() if t is not None]

    def __contains__(self, name: str) -> bool:
        return self.tensor(name) is not None

    def vector(self, name: str, size: int) -> np.ndarray:
        """A tensor of one axis: float32."""
        t = self.tensor(name)
        if t is None or tuple(t.shape) != (size,) or not t.is_floating_point() or t.device.type != "cpu":
            raise UnsupportedError(f"{name} is not {size} floats")
        self._watch(self.modules[name.rpartition(".")[0]])
        return t.detach().float().contiguous().numpy()

    def matrix(self, name: str, n: int, d: int) -> _native.Matrix:
        """The weights of a linear layer as a native matrix."""
        module = self.modules.get(name.removesuffix(".weight"))
        if type(module) not in (CodedLinear, nn.Linear) or module.weight.device.type != "cpu":
            raise UnsupportedError(f"{name} is of another kind")
        self._watch(module)
        if type(module) is CodedLinear and module.activations == "int8":
            return matrix(module.codes, copy=self._copy)
        if type(module) is CodedLinear or module.weight.dtype not in KINDS:
            raise UnsupportedError(f"{name} is of another kind")
        return _native.Plain(seen(module.weight.detach().contiguous()))

    def holds(self) -> bool:
        """Whether the model is still what it was."""
        return all(now == before for now, before in self.children) and all(
            own.get(name) is t and t.data_ptr() == at and (t.is_inference() or t._version == version)
            for own, name, t, at, version in self.tensors)

    def hooked(self) -> bool:
        """Whether somebody wants to see or change what happens inside."""
        all_of_them = nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks
        return bool(all_of_them) or any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__
                                        for m in self.modules.values() if m is not self.model)


class Forward:
    """What stands in for the ``forward`` of a model; ``passes`` counts those that ran natively.

    It looks at the model at each call, so whatever is changed in it, weights, adapters or hooks, holds from then on; only what is written
    into norms and biases through their ``.data`` can go unseen.
    """

    held: type[Held]

    def __init__(self, model: nn.Module):
        self.model, self.passes = model, 0
        self._held: Any = None
        self._refused: list[tuple[int, type]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None, "_refused": None}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        usual = len(args) > 2 or torch.is_grad_enabled() or self.model.training or torch.is_autocast_enabled("cpu") or (
            torch.compiler.is_compiling() or torch.jit.is_tracing())
        found = None if usual else self.native(**dict(zip(("input_ids", "attention_mask"), args, strict=False)), **kwargs)
        if found is None:
            return type(self.model).forward(self.model, *args, **kwargs)
        self.passes += 1
        return found

    def native(self, **kwargs: Any) -> Any:
        """What native layers give, None where transformers has to run them."""
        raise NotImplementedError

    def layers(self) -> Any:
        """The layers as they are now, None where they cannot be native."""
        if self._held is None or not self._held.holds():
            self._held = None
            parts = [(id(m), type(m)) for m in self.model.modules()]
            if parts != self._refused:
                try:
                    self._held = self.held(self.model)
                except (CompandError, ValueError, AttributeError):
                    self._refused = parts
        return None if self._held is None or self._held.hooked() else self._held


def unusual(config, more: dict[str, Any]) -> bool:
    """Whether a call asks for what native layers do not give."""
    return bool(config.output_attentions or config.output_hidden_states or any(v is not None and v is not False for v in more.values()))


def seen(t: torch.Tensor) -> np.ndarray:
    """A tensor as native code takes it: the same memory."""
    return t.view(KINDS[t.dtype]).numpy()
