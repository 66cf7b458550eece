"""What a language model says of a text, kept in little memory, so that a coded copy of it can be tuned to say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .language import Language, transformers

MOST = 16384  # tokens of the vocabulary whose probabilities are compared
LARGE = 50_000_000  # parameters from which products are bfloat16, where the machine multiplies those


@dataclass
class Target:
    """The last hidden states (n, length, d) of an original for sequences ``ids`` (n, length), and its head for the tokens that matter.

    ``tokens`` are those of the text and those the original finds likeliest, at most `MOST`; divergences are between the distributions
    among them. A state takes d values, all probabilities of a large vocabulary would take a hundred times as many.
    """

    ids: Any
    hidden: Any
    tokens: Any
    head: Any

    @classmethod
    def of(cls, language: Language, ids, *, most: int = MOST) -> Target:
        """The target that a `whole` model is for itself."""
        torch, _ = transformers()
        with torch.no_grad():
            found = cls(ids, None, None, None)
            return cls.from_states(language, ids, torch.cat([found.states(language, rows) for rows in ids.split(4)]), most=most)

    @classmethod
    def from_states(cls, language: Language, ids, hidden, *, most: int = MOST) -> Target:
        """The target of a model whose head is in memory and reads ``hidden``."""
        torch, _ = transformers()
        with torch.no_grad():
            tokens = _shortlist(language, ids, hidden, most)
            return cls(ids, hidden, tokens, language.head.weight[tokens].clone())

    def states(self, language: Language, rows):
        """What the head reads for sequences (n, length): float32 (n, length, d)."""
        with products(language):
            return language.body(inputs_embeds=language.embedding(rows), use_cache=False).last_hidden_state.float()

    def wanted(self, language: Language, i):
        """Log probabilities (..., tokens) of what the original says in sequences i."""
        torch, _ = transformers()
        with torch.no_grad(), products(language):
            z = torch.nn.functional.linear(self.hidden[i].flatten(0, -2), self.head)
        return language._capped(z.float()).log_softmax(-1)

    def said(self, language: Language, hidden):
        """Log probabilities (..., tokens) of what a model says whose last hidden states are ``hidden``."""
        torch, _ = transformers()
        head = language.head.weight[self.tokens]
        with products(language):
            z = torch.nn.functional.linear(hidden.flatten(0, -2), head)
        return language._capped(z.float()).log_softmax(-1)

    def divergence(self, language: Language, i):
        """Mean KL(original || model) in nats a token over sequences i, with gradients."""
        p = self.wanted(language, i)
        q = self.said(language, self.states(language, self.ids[i]))
        return (p.exp() * (p - q)).sum(-1).mean()


def products(language: Language):
    """A context in which torch multiplies in bfloat16 if the model is large and the machine multiplies those."""
    torch, _ = transformers()
    kind = language.device.type
    able = torch.cuda.is_bf16_supported() if kind == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    half = sum(i.size for i in language.items.values()) >= LARGE and bool(able)
    return torch.autocast(kind, torch.bfloat16, enabled=half)


def _shortlist(language: Language, ids, hidden, most: int):
    """Tokens in order of the probability the original gives them on average, those of the text first."""
    torch, _ = transformers()
    size = language.head.weight.shape[0]
    if size <= most:
        return torch.arange(size, device=language.device)
    flat = hidden.flatten(0, 1)
    total = torch.zeros(size, device=language.device)
    for piece in flat[::max(1, len(flat) // 2048)].split(64):
        with products(language):
            total += language.logits(piece).float().softmax(-1).sum(0)
    there, count = torch.unique(ids, return_counts=True)
    total[there] += len(flat) * count / count.sum()
    return total.argsort(descending=True, stable=True)[:most].sort().values

