"""Codewords and their choice for the outputs of a layer: vector and product codes that were fed back, made better in turns.

The loss trace(e H eᵀ) is quadratic in the codewords while the choice stays, and in each piece of a row while all else stays. So rounds of
two steps only lower it: all codewords move to the minimum by conjugate gradients, each of whose steps is one product of the rows with H;
then each piece of each row, in turn, takes the codeword that is best there in the metric of its own block of H. That is second-order
vector quantization as of VPTQ (Liu et al. 2024). VQ4DiT (Deng et al. 2025) finds choices by gradients of softmax weights over a few
candidates of each piece, for the loss of a network's blocks; for this loss the best of all codewords is found exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..codec import Codec
from ..codes import Block, Codes, pack_part
from ..expression import Chain, Sum
from ..quantizer.codebook import nearest
from ..quantizer.pq import narrow_codewords, wide_codewords
from ..stage import Stage, replace
from .hessian import carried, damped

STEPS = 12  # of conjugate gradients
F32 = np.float32


def terms_of(stage: Stage) -> list[Any]:
    """The vq and pq stages that an expression adds, after its transforms; empty if it is anything else."""
    own = stage.quantizer if isinstance(stage, Chain) else stage
    items = list(own.items) if isinstance(own, Sum) else [own]
    return items if all(getattr(s, "name", "") in ("vq", "pq") for s in items) else []


def settled(codes: Codes, w: np.ndarray, hessian, damping: float, rounds: int) -> Codes:
    """Codes of w (n, ...) of a layer whose inputs have the Hessian (d, d), after rounds of both steps; codewords are as many as before.

    For expressions that `terms_of` knows. Ids and codewords change, no size does.
    """
    stage, form = codes.codec.stage, codes.form
    chain = stage if isinstance(stage, Chain) else None
    y = np.asarray(w, F32).reshape(form.n, form.d)
    y = np.asarray(chain.forward(y)[0], F32) if chain and chain.transforms else y
    h = damped(carried(hessian, chain.transforms if chain else (), form), damping).astype(F32)
    terms = [Term(s, y, h, codes.symbols(path)) for s, path in zip(terms_of(stage), _paths(codes), strict=True)]
    for _ in range(rounds):
        for t in terms:
            aim = y - sum(o.values() for o in terms if o is not t)
            t.move(aim)
            t.choose(aim)
    own = [t.fitted() for t in terms]
    quantizer: Stage = Sum(tuple(own)) if len(own) > 1 else own[0]
    codec = Codec(Chain((*chain.transforms, quantizer, *((chain.coder,) if chain.coder else ()))) if chain else quantizer)
    blocks, at = [], 0
    for b in codes.blocks:
        layout = codec.layout(form._replace(n=b.rows))
        new = {path: pack_part(t.ids[at:at + b.rows], layout[path]) for t, path in zip(terms, _paths(codes), strict=True)}
        blocks.append(Block(b.rows, {**b.parts, **new}))
        at += b.rows
    return Codes(codec, codes.shape, codes.dtype, tuple(blocks))


def _paths(codes: Codes) -> list[str]:
    """The parts of ids, in the order of the terms."""
    return sorted((p for p in codes.codec.layout(codes.form) if p.endswith("ids")), key=lambda p: [int(i) for i in p.split(".")[:-1]])


class Term:
    """One vq or pq of rows y (n, d): its ids (n, pieces) and codebooks (1 or pieces, k, size)."""

    def __init__(self, stage: Any, y: np.ndarray, h: np.ndarray, ids: np.ndarray):
        self.stage, self.ids, self.shape = stage, ids.astype(np.int64), y.shape
        pieces, words = stage.codebooks(np.arange(1, y.shape[1] + 1, dtype=F32)[None])
        place = pieces[0].reshape(-1).astype(np.int64) - 1  # the column at each place of the pieces, -1 where they are padded
        self.place, self.there, self.words = place, place >= 0, np.array(words, F32)
        self.h = h
        wide = np.eye(len(place), dtype=F32) * F32(1e-3 * np.diag(h).mean())
        wide[np.ix_(self.there, self.there)] = h[np.ix_(place[self.there], place[self.there])]
        size = words.shape[2]
        self.metric = [np.linalg.cholesky(wide[a:a + size, a:a + size]) for a in range(0, len(place), size)]
        self.book = np.zeros(ids.shape[1], np.int64) if len(words) == 1 else np.arange(ids.shape[1])

    def values(self, words: np.ndarray | None = None) -> np.ndarray:
        """What the ids stand for: (n, d)."""
        wide = (self.words if words is None else words)[self.book, self.ids].reshape(len(self.ids), -1)
        out = np.empty(self.shape, F32)
        out[:, self.place[self.there]] = wide[:, self.there]
        return out

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        """The adjoint of `values`: rows (n, d) summed by codeword."""
        wide = np.zeros((len(rows), len(self.place)), F32)
        wide[:, self.there] = rows[:, self.place[self.there]]
        wide = wide.reshape(len(rows), -1, self.words.shape[2])
        flat = (self.book * self.words.shape[1] + self.ids).reshape(-1)
        out = np.stack([np.bincount(flat, wide[:, :, j].reshape(-1), minlength=self.words[..., 0].size) for j in range(wide.shape[2])], -1)
        return out.reshape(self.words.shape).astype(F32)

    def move(self, y: np.ndarray) -> None:
        """All codewords towards the least loss for rows y, the choice staying."""
        used = np.maximum(self.gathered(np.ones(self.shape, F32)), 1) * F32(np.diag(self.h).mean())  # scales of the steps
        r = -self.gathered((self.values() - y) @ self.h)
        z = r / used
        p, rz = z, float((r * z).sum(dtype=np.float64))
        for _ in range(STEPS):
            if rz <= 0:
                break
            ap = self.gathered(self.values(p) @ self.h)
            step = rz / max(float((p * ap).sum(dtype=np.float64)), 1e-30)
            self.words = self.words + F32(step) * p
            r = r - F32(step) * ap
            z = r / used
            new = float((r * z).sum(dtype=np.float64))
            p, rz = z + F32(new / rz) * p, new
        self.words = wide_codewords(narrow_codewords(self.words, self.stage.codewords))

    def choose(self, y: np.ndarray) -> None:
        """Each piece in turn to the codeword that loses least while all others stay."""
        size = self.words.shape[2]
        value = self.values()
        gradient = (value - y) @ self.h
        for i, lower in enumerate(self.metric):
            there = self.there[i * size:(i + 1) * size]
            columns = self.place[i * size:(i + 1) * size][there]
            own, words = np.zeros((len(y), size), F32), self.words[self.book[i]]
            own[:, there] = gradient[:, columns]
            aim = words[self.ids[:, i]] - np.linalg.solve(lower.T, np.linalg.solve(lower, own.T)).T
            self.ids[:, i] = nearest(np.ascontiguousarray(aim @ lower, F32), np.ascontiguousarray(words @ lower, F32))
            new = words[self.ids[:, i]][:, there]
            gradient += (new - value[:, columns]) @ self.h[columns]
            value[:, columns] = new

    def fitted(self) -> Stage:
        """The stage with the codewords as they are now."""
        words = narrow_codewords(self.words, self.stage.codewords)
        return replace(self.stage, codebook_=words.reshape(self.stage.codebook_.shape))
