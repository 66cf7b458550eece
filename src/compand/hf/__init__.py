"""Hugging Face transformers with weights that stay codes: import this once, before ``from_pretrained``.

    import compand.hf
    from compand.hf import CompandConfig

    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=CompandConfig(bits=3))
    model.save_pretrained("small")                        # plain safetensors and config.json
    again = AutoModelForCausalLM.from_pretrained("small")  # the same logits, bit for bit
    other = compand.hf.from_pretrained("model.cpd")        # the codes of a .cpd file
    same = AutoModelForCausalLM.from_pretrained("folder")  # config.json and model.cpd

Decoders that `compand.lm` knows run their layers natively where that gives the same answer (`run_natively`).

Needs ``pip install compand[hf]``.
"""

from . import adapters, folder
from .adapters import with_adapters
from .embedding import CodedEmbedding
from .file import from_pretrained, unpack
from .linear import CodedLinear
from .native import run_natively
from .quantizer import CompandConfig, CompandQuantizer
from .repack import repack
from .threads import share_threads

__all__ = ["CodedEmbedding", "CodedLinear", "CompandConfig", "CompandQuantizer", "from_pretrained", "repack", "run_natively",
           "share_threads", "unpack", "with_adapters"]
share_threads()
adapters.register()
folder.register()
