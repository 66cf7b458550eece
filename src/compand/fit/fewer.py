"""Smaller codebooks made of fitted ones, so that one model codes at several rates."""

from __future__ import annotations

import numpy as np

from ..codec import Codec
from ..errors import FitError
from ..stage import replace
from .kmeans import kmeans


def fewer(codec: Codec, k: int, *, use: dict[str, np.ndarray] | None = None, seed: int = 0) -> Codec:
    """The codec with at most k codewords in every codebook of ``vq`` and ``pq`` (of ``pq`` a power of two): centres of the codewords.

    They are found by k-means among the codewords, without rows. ``use``: how often each codeword is chosen, (k,) or for ``pq`` (m, k), by
    the path of its stage ("" where it is the whole expression); by default all count alike. The encoder and decoder that the codebooks
    were trained with serve on. Codebooks of k codewords or fewer stay. Raises `FitError` for a codec without such codebooks, or one that
    is not fitted.

    Clustered codebooks: Mao et al., "Extreme image compression using fine-tuned VQGANs" (2023).

    >>> x = np.random.default_rng(0).normal(size=(4096, 4)).astype(np.float32)
    >>> large = Codec("vq:64").fit(x)
    >>> small = fewer(large, 16)
    >>> small.spec, bool(small.encode(x).symbols("ids").max() < 16)
    ('vq:16', True)
    """
    found = 0

    def of(stage, path: str):
        nonlocal found
        items = getattr(stage, "items", None)
        if items is not None:
            return type(stage)(tuple(of(s, f"{path}.{i}" if path else str(i)) for i, s in enumerate(items)))
        if stage.name not in ("vq", "pq"):
            return stage
        if stage.codebook_ is None:
            raise FitError(f"{stage}: not fitted; call fit(x) first")
        found += 1
        return _fewer(stage, k, (use or {}).get(path), seed)

    new = of(codec.stage, "")
    if not found:
        raise FitError(f"{codec.spec}: there is no codebook of vq or pq in it")
    return Codec(new)


def _fewer(stage, k: int, use: np.ndarray | None, seed: int):
    words = np.asarray(stage.codebook_)
    books = words.reshape(-1, *words.shape[-2:]).astype(np.float32)
    k = 1 << k.bit_length() - 1 if stage.name == "pq" else k
    if books.shape[1] <= k:
        return stage
    weight = None if use is None else np.asarray(use, np.float32).reshape(books.shape[:2])
    small = [kmeans(book, k, weight=None if weight is None else weight[j], seed=seed, init="++")[0] for j, book in enumerate(books)]
    size = {"k": k} if stage.name == "vq" else {"parts": (stage.m, k.bit_length() - 1)}
    return replace(stage, **size, codebook_=np.stack(small).reshape(*words.shape[:-2], k, words.shape[-1]).astype(words.dtype))
