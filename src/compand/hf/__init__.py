"""Hugging Face transformers with weights that stay codes: import this once, before ``from_pretrained``.

    import compand.hf
    from compand.hf import CompandConfig

    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=CompandConfig(bits=3))
    model.save_pretrained("small")                        # plain safetensors and config.json
    again = AutoModelForCausalLM.from_pretrained("small")  # the same logits, bit for bit

Needs ``pip install compand[hf]``.
"""

from .linear import CodedLinear
from .quantizer import CompandConfig, CompandQuantizer

__all__ = ["CodedLinear", "CompandConfig", "CompandQuantizer"]
