"""Models of transformers whose layers run natively where that gives the same answer."""

from __future__ import annotations

from torch import nn

from . import decoder, encoder

_FORWARDS = {**dict.fromkeys(decoder.CLASSES, decoder.DecoderForward), **dict.fromkeys(encoder.CLASSES, encoder.EncoderForward)}


def run_natively(model: nn.Module, native: bool = True) -> bool:
    """Let the layers of a decoder or encoder on codes run as one native pass, or, with ``native=False``, never.

    Loading a model that `CompandConfig` codes, or a .cpd file, does this for Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3, BERT, RoBERTa and
    XLM-R. Norms, positions, products, attention, activations and residuals are then native, in float32 between the layers. Keys and
    values of decoders stay in the model's cache, in its dtype, so ``generate``, beams, left padding and batches work as they do without;
    encoders leave tokens out that the mask leaves out, and give 0 for them. Everything else takes the path of transformers: gradients,
    training, other devices and dtypes, adapters and hooks inside, outputs of attention or of each layer, masks of decoders that are not
    causal with padding on the left, other caches. Coded products round what they are given to 8 bits, so a difference in its last bit
    can grow to a step of that rounding. Returns whether the model has layers that can run so.

    >>> run_natively(nn.Linear(2, 2))
    False
    """
    found = [m for m in model.modules() if type(m).__name__ in _FORWARDS and type(m).__module__.startswith("transformers.models.")]
    for m in found:
        if native:
            m.forward = _FORWARDS[type(m).__name__](m)
        else:
            m.__dict__.pop("forward", None)
    return bool(found)
