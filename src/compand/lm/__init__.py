"""Decoder language models that run on their codes, without torch: Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3.

    model = compand.lm.load("gemma.cpd")          # or a Hugging Face folder, coded or not
    for piece in model.stream("Once upon a time"):
        print(piece, end="")

Text needs ``pip install compand[run]``; token ids need nothing.
"""

from .model import Model, load
from .sampling import Sampling

__all__ = ["Model", "Sampling", "load"]
