"""The plug-in of transformers: a configuration and a quantizer, registered under the name compand."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..errors import InputError
from ..spec import parse
from .embedding import CodedEmbedding
from .linear import CodedLinear
from .native import run_natively


@register_quantization_config("compand")
class CompandConfig(QuantizationConfigMixin):
    """How the linear layers of a model are coded.

    Parameters
    ----------
    bits : 1 to 8
        Chooses the spec where none is given: ``hadamard,trellis:BITS:memory=12`` for up to 4 bits, ``hadamard,int:BITS:group=64``
        above, and with ``group_size``.
    spec : str
        Any spec whose codes have a size known before, as ``int:4:group=64`` or ``hadamard,trellis:3``.
    overrides : dict
        Regular expressions of module names, searched in order, and the spec of what they match; None leaves it as it is.
    group_size : int
        Columns that share a scale, for ``bits``.
    modules_to_not_convert : list of str
        Names or patterns left as they are. Default: the head, and weights that are tied.
    activations : "int8" or "float32"
        See `compand.matmul`.
    head : bool
        Code a head that is tied to the embedding too, once for both. In small models it is most of the weights.

    Raises `InputError` for bits out of range, a spec that keeps every bit and a pattern that is no regular expression,
    `SpecError` or `UnsupportedError` for a spec that cannot be read.
    """

    def __init__(self, bits: int = 4, spec: str | None = None, overrides: dict[str, str | None] | None = None,
                 group_size: int | None = None, modules_to_not_convert: list[str] | None = None, activations: str = "int8",
                 head: bool = False, **kwargs: Any):
        self.quant_method = "compand"  # type: ignore[assignment]
        if spec is None:
            if bits not in range(1, 9):
                raise InputError(f"bits are from 1 to 8, not {bits}; other codes have a spec")
            spec = f"hadamard,int:{bits}:group={group_size or 64}" if bits > 4 or group_size else f"hadamard,trellis:{bits}:memory=12"
        if activations not in ("int8", "float32"):
            raise InputError(f"activations are int8 or float32, not {activations!r}")
        self.spec = _lossy(spec)
        self.overrides = {_pattern(name): own and _lossy(own) for name, own in (overrides or {}).items()}
        self.modules_to_not_convert = modules_to_not_convert
        self.activations = activations
        self.head = head

    def spec_of(self, name: str) -> str | None:
        """The spec of a module, None if it is left as it is."""
        return next((own for pattern, own in self.overrides.items() if re.search(pattern, name)), self.spec)


def _lossy(spec: str) -> str:
    """A spec in full. Raises `InputError` where it keeps every bit."""
    if (stage := parse(spec)).raw:
        raise InputError(f"{spec} keeps every bit, and coded layers are lossy: without a spec a model loads as it is; to keep it in fewer "
                         f"bits, compand compress MODEL {spec}, and compand run")
    return str(stage)


def _pattern(name: str) -> str:
    """A regular expression. Raises `InputError` where it is none."""
    try:
        re.compile(name)
    except (re.error, RecursionError, OverflowError) as e:
        raise InputError(f"overrides: {name[:80]!r} is no regular expression: {e}") from None
    return name


@register_quantizer("compand")
class CompandQuantizer(HfQuantizer):
    """Codes the linear layers of a model while it is loaded, or loads layers coded before."""

    quantization_config: CompandConfig

    def _process_model_before_weight_loading(self, model, **kwargs):
        config = self.quantization_config
        keep = self.get_modules_to_not_convert(model, config.modules_to_not_convert, model._keep_in_fp32_modules)
        for name, module in list(model.named_modules()):
            spec = config.spec_of(name)
            tied = config.head and module is model.get_output_embeddings()
            if tied and not self.pre_quantized:
                continue  # it is empty until the embedding is loaded
            if type(module) is not nn.Linear or spec is None or not (tied or should_convert_module(name, keep)):
                continue
            with torch.device("meta"):
                layer = CodedLinear(module.in_features, module.out_features, spec, bias=module.bias is not None,
                                    activations=config.activations, dtype=module.weight.dtype)
            model.set_submodule(name, layer.requires_grad_(False))
        if config.head and self.pre_quantized:
            self._tie(model)
        return model

    def _process_model_after_weight_loading(self, model, **kwargs):
        config = self.quantization_config
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        if config.head and not self.pre_quantized and isinstance(head, nn.Linear) and head.weight is embedding.weight:
            name = next(n for n, m in model.named_modules() if m is head)
            if (spec := config.spec_of(name)) is not None:
                layer = CodedLinear.of(head, spec, activations=config.activations)
                model.set_submodule(name, layer.requires_grad_(False))
                self._tie(model)
        run_natively(model)
        return model

    def _tie(self, model) -> None:
        """The embedding decodes rows of the coded head."""
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        if not isinstance(head, CodedLinear):
            raise InputError("config: head=True needs a head that is coded")
        scale = getattr(embedding, "scalar_embed_scale", None)
        model.set_input_embeddings(CodedEmbedding(head, embedding.weight.dtype, scale))
        model.config.tie_word_embeddings = False

    def param_needs_quantization(self, model, param_name: str, **kwargs) -> bool:
        module, _, name = param_name.rpartition(".")
        return not self.pre_quantized and name == "weight" and isinstance(model.get_submodule(module), CodedLinear)

    def get_quantize_ops(self) -> ConversionOps:
        return _Code(self)

    def _dequantize(self, model, dtype=None):
        for name, module in list(model.named_modules()):
            if isinstance(module, CodedLinear):
                linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
                linear.weight = nn.Parameter(module.dequantized().to(dtype))
                linear.bias = module.bias
                model.set_submodule(name, linear)
        run_natively(model, False)
        return model

    def is_serializable(self, **kwargs) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True  # adapters are


class _Code(ConversionOps):
    """One weight into the buffers of its layer."""

    def __init__(self, hf_quantizer: CompandQuantizer):
        self.hf_quantizer = hf_quantizer

    def convert(self, input_dict, *, model=None, full_layer_name: str | None = None, missing_keys=None, **kwargs):
        (name, value), = input_dict.items()
        name = full_layer_name or name
        module = name.rpartition(".")[0]
        found = model.get_submodule(module).code(value[0] if isinstance(value, list) else value)
        if missing_keys is not None:
            missing_keys.difference_update(f"{module}.{own}" for own in found)
        return {f"{module}.{own}": tensor for own, tensor in found.items()}
