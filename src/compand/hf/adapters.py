"""LoRA adapters of PEFT on layers whose weights are codes. Needs ``pip install peft``."""

from __future__ import annotations

import sys
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from typing import Any

from ..errors import InputError, UnsupportedError
from .linear import CodedLinear

_MODULE = "peft.tuners.lora.model"
_STARTS = (True, False, "gaussian", "orthogonal")  # of adapters, those that do not read the weights


def with_adapters(model, config) -> Any:
    """A ``peft.PeftModel`` of a coded model: ``peft.get_peft_model``, which knows coded layers once `compand.hf` is imported.

    The codes do not change; adapters are trained, saved and loaded as PEFT does, and cannot be merged into codes.
    Raises `InputError` where peft is not installed.
    """
    try:
        import peft
    except ImportError:
        raise InputError("adapters need peft: pip install peft") from None
    return peft.get_peft_model(model, config)


def register() -> None:
    """Tell PEFT what a LoRA adapter on a `CodedLinear` is: now where it is imported, else when it will be."""
    if _MODULE in sys.modules:
        _teach(sys.modules[_MODULE])
    elif not any(isinstance(finder, _Later) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Later())


class _Later(MetaPathFinder):
    """Waits for the import of PEFT's LoRA: to import it for all would cost a second."""

    def find_spec(self, name, path, target=None):
        if name != _MODULE or (spec := PathFinder.find_spec(name, path, target)) is None or spec.loader is None:
            return None
        sys.meta_path.remove(self)
        run = spec.loader.exec_module

        def run_and_teach(module) -> None:
            run(module)
            _teach(module)

        spec.loader.exec_module = run_and_teach  # type: ignore[method-assign]
        return spec


def _teach(module) -> None:
    """Let ``LoraModel`` of the module make adapters on coded layers."""
    from peft.tuners.lora.layer import Linear

    class CodedLora(Linear):
        """An adapter on a `CodedLinear`."""

        def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
            raise UnsupportedError("an adapter cannot be merged into codes: merge it into the weights before they are coded, with "
                                   "compand merge-lora BASE ADAPTER, and code the result; unload() takes it off")

    known = module.LoraModel._create_new_module

    def create(lora_config, adapter_name, target, **more):
        base = target.get_base_layer() if hasattr(target, "get_base_layer") else target
        if not isinstance(base, CodedLinear):
            return known(lora_config, adapter_name, target, **more)
        if getattr(lora_config, "use_dora", False) or lora_config.init_lora_weights not in _STARTS:
            raise UnsupportedError("adapters on codes are plain LoRA, started at random: without use_dora, and with init_lora_weights "
                                   f"one of {', '.join(map(str, _STARTS))}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unsupported layer type")  # that it is a layer of ours is the point
            return CodedLora(target, adapter_name, config=lora_config, **more)

    module.LoraModel._create_new_module = staticmethod(create)
