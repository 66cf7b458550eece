"""LoRA adapters of PEFT on layers whose weights are codes. Needs ``pip install peft``."""

from __future__ import annotations

import warnings
from typing import Any

from ..errors import InputError
from .linear import CodedLinear


def with_adapters(model, config) -> Any:
    """A ``peft.PeftModel`` of a coded model: like ``peft.get_peft_model``, for a ``LoraConfig`` whose targets are coded layers.

    The codes do not change; adapters are trained, saved and loaded as PEFT does, and cannot be merged into codes.
    Raises `InputError` where peft is not installed.
    """
    try:
        import peft
        from peft.tuners.lora import Linear
    except ImportError:
        raise InputError("adapters need peft: pip install peft") from None
    config._register_custom_module({CodedLinear: Linear})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unsupported layer type")  # that it is a layer of ours is the point
        return peft.get_peft_model(model, config)
