"""A linear layer whose weights are codes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..codec import Codec
from ..codes import Codes, pack_part
from ..errors import InputError
from ..op.buffers import bytes_shape, codes_of, places_of
from ..op.matmul import matmul
from ..stage import Form
from .device import Matrix, product


class CodedLinear(nn.Module):
    """``nn.Linear`` with weights (out_features, in_features) in the codes of ``spec``; made empty, see `code` and `of`.

    All parts of the codes and fitted arrays are uint8 buffers, which no cast of the model touches: ``weight`` holds the largest part,
    ``weight_PATH`` the others. On the CPU the product is `compand.matmul` (``activations`` as there). On CUDA it is a kernel in Triton
    where `compand.hf.device` has one for the codes, which are then on the device twice, and elsewhere the weights are decoded for each
    product. Gradients reach the input, as adapters need; the weights are fixed.

    Raises `InputError` for a spec whose codes have no size known before (``sparse``, entropy coders), or that keeps every bit.

    >>> layer = CodedLinear.of(nn.Linear(64, 32, bias=False), "hadamard,int:4:group=64")
    >>> layer(torch.ones(2, 64)).shape, layer.weight.shape, layer.weight.dtype
    (torch.Size([2, 32]), torch.Size([32, 32]), torch.uint8)
    """

    def __init__(self, in_features: int, out_features: int, spec: str, *, bias: bool = False, activations: str = "int8", dtype=None):
        super().__init__()
        self.in_features, self.out_features, self.spec, self.activations = in_features, out_features, spec, activations
        self.codec = Codec(spec)
        self.form = Form(out_features, in_features)
        self.places = places_of(self.codec, self.form)
        for buffer, (_, name, shape) in self.places.items():
            self.register_buffer(buffer, torch.empty(bytes_shape(name, shape), dtype=torch.uint8))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self._codes: tuple[int, Codes] | None = None
        self._device_product: tuple[int, Matrix | None] | None = None

    @classmethod
    def of(cls, linear: nn.Linear, spec: str, *, activations: str = "int8") -> CodedLinear:
        """A linear layer coded."""
        layer = cls(linear.in_features, linear.out_features, spec, bias=linear.bias is not None, activations=activations)
        for name, value in layer.code(linear.weight).items():
            setattr(layer, name, value)
        if linear.bias is not None:
            layer.bias = linear.bias
        return layer

    def code(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The buffers that weights (out_features, in_features) become."""
        w = weight.detach().to("cpu", torch.float32).contiguous().numpy()
        if w.shape != self.form[:2]:
            raise InputError(f"weights are {list(w.shape)}, the layer has {list(self.form[:2])}")
        if not np.isfinite(w).all():
            raise InputError(f"the weights have NaN or infinite values, which {self.spec} cannot code")
        codec = self.codec.fit(w) if self.codec.stage.state(self.form) else self.codec
        layout, parts = codec.layout(self.form), codec.stage.encode(w)
        found = {f"part:{path}": pack_part(parts[path], part) for path, part in layout.items()}
        found |= {f"state:{path}": a for path, a in codec.state().items()}
        return {name: _tensor(found[key]).to(weight.device) for name, (key, _, _) in self.places.items()}

    @property
    def codes(self) -> Codes:
        """The weights as `Codes`: views of the buffers."""
        here = self.weight.data_ptr()
        if self._codes is None or self._codes[0] != here:
            buffers = {name: getattr(self, name).detach().to("cpu").contiguous().numpy() for name in self.places}
            self._codes = here, codes_of(self.codec, self.form, buffers, self.places)
        return self._codes[1]

    def device_product(self) -> Matrix | None:
        """The product by a kernel of the layer's device, see `compand.hf.device`; None where there is none."""
        here = self.weight.data_ptr()
        if self._device_product is None or self._device_product[0] != here:
            self._device_product = here, product(self.codes, self.weight.device)
        return self._device_product[1]

    def dequantized(self) -> torch.Tensor:
        """The weights decoded: float32, on the layer's device."""
        codes = self.codes
        return torch.from_numpy(np.ascontiguousarray(codes.codec.decode(codes))).to(self.weight.device)

    @torch.compiler.disable
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            y = _Product.apply(x, self)
            return y if self.bias is None else y + self.bias
        y = _product(x, self)
        if self.bias is None or self.bias.dtype != y.dtype:
            return y if self.bias is None else y + self.bias
        return y.add_(self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.spec}, bias={self.bias is not None}"


def _product(x: torch.Tensor, layer: CodedLinear) -> torch.Tensor:
    """x times the layer's weights, no gradients: a tensor of its own."""
    if x.device.type != "cpu":
        kernel = layer.device_product() if x.device.type == "cuda" else None
        if kernel is None:
            return x @ layer.dequantized().to(x.dtype).T
        return kernel(x.detach().reshape(-1, x.shape[-1]).contiguous()).reshape(*x.shape[:-1], -1).to(x.dtype)
    return matmul(x.detach().to(torch.float32), layer.codes, activations=layer.activations).to(x.dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return _product(x, layer)

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.layer.dequantized().to(grad.dtype), None


def _tensor(a: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(a, order="C").view(np.uint8))
