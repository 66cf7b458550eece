"""Trained faiss indexes as fitted codecs, and the vectors they hold as codes. Needs the faiss package."""

from __future__ import annotations

import numpy as np

from ..codec import Codec
from ..codes import Block, Codes
from ..errors import InputError, UnsupportedError
from ..expression import Chain, rest, then
from ..limits import DEFAULT
from ..quantizer.int import Int
from ..quantizer.pq import PQ
from ..quantizer.vq import VQ
from ..stage import Form, Stage
from ..symbols import unpack
from ..transform.center import Center
from ..transform.opq import Opq
from ..transform.pca import Pca
from ..transform.scale import Scale


def _faiss():
    try:
        import faiss
    except ImportError:
        raise InputError("reading a faiss index needs the package faiss-cpu: pip install faiss-cpu") from None
    return faiss


def codec_of(index) -> Codec:
    """The fitted codec of a trained faiss index: `Codec.decode` gives what faiss reconstructs.

    PQ (with fast scan), RQ, PRQ, SQ8, SQ6 and SQ4, after PCA, OPQ, RR, any orthonormal LinearTransform (kept by ``pca``), centring and
    L2norm, alone or in inverted lists (as ``vq:LISTS+``). PQ and RQ decode to the same floats, SQ and rotations to within rounding.
    Raises `InputError` if the index is not trained, `UnsupportedError` for other kinds, and for RQ of more terms than a sum may have.
    """
    before, last, _ = _opened(index)
    before = list(before)
    code, own = _coded(last)
    stage: Stage | None = None
    for s in [*before, *own, code]:
        stage = s if stage is None else then(stage, s)
    return Codec(stage)  # type: ignore[arg-type]


def codes_of(index) -> tuple[Codes, np.ndarray]:
    """The vectors of a trained faiss index as `Codes` without a float in between, and their ids (n,) int64.

    Codes are faiss's own, so they decode to what faiss reconstructs. Raises as `codec_of`; `UnsupportedError` for fast scan in
    inverted lists, whose codes are interleaved: encode the originals with the codec.
    """
    faiss = _faiss()
    codec = codec_of(index)
    _, last, ids = _opened(index)
    d = index.d
    if hasattr(last, "invlists"):
        if "FastScan" in type(last).__name__:
            raise UnsupportedError(f"{type(last).__name__} interleaves its codes; encode the originals with Codec.from_faiss(index)")
        lists = [(i, last.invlists.list_size(i)) for i in range(last.nlist)]
        full = [(i, n) for i, n in lists if n]
        packed = [faiss.rev_swig_ptr(last.invlists.get_codes(i), n * last.code_size).reshape(n, -1) for i, n in full]
        found = [faiss.rev_swig_ptr(last.invlists.get_ids(i), n).copy() for i, n in full]
        data = np.concatenate(packed) if packed else np.zeros((0, last.code_size), np.uint8)
        own = np.concatenate(found) if found else np.zeros(0, np.int64)
        cells = np.repeat([i for i, _ in full], [n for _, n in full]).astype(np.int64)
    elif "FastScan" in type(last).__name__:
        n = last.ntotal
        inner = last.reconstruct_n(0, n) if n else np.zeros((0, last.d), np.float32)
        parts = codec.stage.quantizer.encode(inner) if isinstance(codec.stage, Chain) else codec.stage.encode(inner)
        return _built(codec, d, n, [parts["ids"]]), np.arange(n) if ids is None else ids
    else:
        data = faiss.vector_to_array(last.codes).reshape(last.ntotal, last.code_size)
        own, cells = np.arange(last.ntotal, dtype=np.int64), None
    columns = _symbols(last, data)
    if cells is not None and getattr(last, "by_residual", False):
        columns = [cells[:, None], *columns]
    return _built(codec, d, len(data), columns), own if ids is None else ids[own]


def _opened(index):
    """Stages before the codes, the innermost index, and the ids a map keeps (None without)."""
    faiss = _faiss()
    if isinstance(index, (str, bytes)):
        raise InputError("give a faiss index; faiss.read_index opens one from a path")
    index = faiss.downcast_index(index)
    if not index.is_trained:
        raise InputError(f"this {type(index).__name__} is not trained; train it, or give its factory string")
    stages: list[Stage] = []
    ids = None
    while True:
        if type(index).__name__ in ("IndexIDMap", "IndexIDMap2"):
            ids = faiss.vector_to_array(index.id_map)
        elif type(index).__name__ == "IndexPreTransform":
            for i in range(index.chain.size()):
                stages.append(_transform(faiss, faiss.downcast_VectorTransform(index.chain.at(i))))
        else:
            return stages, index, ids
        index = faiss.downcast_index(index.index)


def _transform(faiss, t) -> Stage:
    kind = type(t).__name__
    if kind == "NormalizationTransform" and t.norm == 2:
        return Scale("norm", "row")
    if kind == "CenteringTransform":
        return Center(mean_=faiss.vector_to_array(t.mean).astype(np.float32))
    if not hasattr(t, "A"):
        raise UnsupportedError(f"a trained {kind} has no equivalent")
    a = faiss.vector_to_array(t.A).reshape(t.d_out, t.d_in).astype(np.float64)
    if np.abs(a @ a.T - np.eye(t.d_out)).max() > 1e-3:
        raise UnsupportedError(f"a trained {kind} that is not orthonormal (whitening) has no equivalent; fit the codec of its string")
    basis = np.ascontiguousarray(a.T, np.float32)
    if kind == "OPQMatrix" and not t.have_bias and t.d_out < 1 << 12:
        return Opq(t.M, k=None if t.d_out == t.d_in else t.d_out, basis_=basis)
    mean = -(a.T @ faiss.vector_to_array(t.b)) if t.have_bias else np.zeros(t.d_in)
    return Pca(None if t.d_out == t.d_in else t.d_out, mean_=mean.astype(np.float32), gain_=np.ones(t.d_in, np.float32), basis_=basis)


def _coded(index) -> tuple[Stage, list[Stage]]:
    """The quantizer of an index, and transforms it brings along."""
    faiss, kind = _faiss(), type(index).__name__
    own: list[Stage] = []
    if hasattr(index, "pq"):
        if kind == "IndexIVFPQR":
            raise UnsupportedError("a trained IndexIVFPQR has no equivalent")
        code: Stage = _pq(faiss, index.pq)
    elif hasattr(index, "sq"):
        code, center = _sq(faiss, index.sq, index.d)
        if getattr(index, "by_residual", False):
            raise UnsupportedError("scalar codes of residuals have no equivalent; fit Codec.from_faiss of the index's string")
        own = [center]
    elif hasattr(index, "prq"):
        code = _product_residual(faiss, index.prq)
    elif hasattr(index, "rq"):
        code = _residual(faiss, index.rq)
    else:
        raise UnsupportedError(f"a trained {kind} has no equivalent here; PQ, RQ, PRQ and SQ have")
    if getattr(index, "by_residual", False) and hasattr(index, "quantizer"):
        coarse = faiss.downcast_index(index.quantizer)
        cells = VQ(index.nlist, codebook_=np.ascontiguousarray(coarse.reconstruct_n(0, index.nlist), np.float32))
        code = rest(cells, code)
    return code, own


def _pq(faiss, pq) -> PQ:
    return PQ((pq.M, pq.nbits), codebook_=np.ascontiguousarray(faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)))


def _sq(faiss, sq, d: int) -> tuple[Int, Center]:
    """x = least + (id + 1/2) · step, as step · (id - 2^(bits-1)) after a centre."""
    bits = {faiss.ScalarQuantizer.QT_8bit: 8, faiss.ScalarQuantizer.QT_6bit: 6, faiss.ScalarQuantizer.QT_4bit: 4}.get(sq.qtype)
    if bits is None:
        raise UnsupportedError("of trained scalar quantizers SQ8, SQ6 and SQ4 have an equivalent")
    least, range_ = faiss.vector_to_array(sq.trained).reshape(2, d).astype(np.float64)
    step = range_ / (2 ** bits - 1)
    code = Int(bits, per="column", scale_=step.astype(np.float32))
    return code, Center(mean_=(least + (2 ** (bits - 1) + 0.5) * step).astype(np.float32))


def _residual(faiss, rq) -> Stage:
    bits = faiss.vector_to_array(rq.nbits).astype(int).tolist()
    if len(bits) > DEFAULT.terms:
        raise UnsupportedError(f"{len(bits)} residual terms; a sum has at most {DEFAULT.terms}")
    words = faiss.vector_to_array(rq.codebooks).reshape(-1, rq.d)
    at = np.cumsum([0] + [1 << b for b in bits])
    stages = [VQ(1 << b, codebook_=np.ascontiguousarray(words[i:i + (1 << b)])) for b, i in zip(bits, at, strict=False)]
    stage: Stage = stages[0]
    for s in stages[1:]:
        stage = rest(stage, s)
    return stage


def _product_residual(faiss, prq) -> Stage:
    splits = [faiss.downcast_AdditiveQuantizer(prq.subquantizer(i)) for i in range(prq.nsplits)]
    bits = {int(b) for s in splits for b in faiss.vector_to_array(s.nbits)}
    if len(bits) != 1 or splits[0].M > DEFAULT.terms:
        raise UnsupportedError("a product of residual quantizers with unequal bits, or too many terms, has no equivalent")
    (b,), stage = bits, None
    words = [faiss.vector_to_array(s.codebooks).reshape(s.M, 1 << b, s.d) for s in splits]
    for j in range(splits[0].M):
        own = PQ((prq.nsplits, b), codebook_=np.ascontiguousarray(np.stack([w[j] for w in words])))
        stage = own if stage is None else rest(stage, own)
    return stage  # type: ignore[return-value]


def _symbols(index, data: np.ndarray) -> list[np.ndarray]:
    """Packed faiss codes → the ids of each term of the codec."""
    faiss = _faiss()
    if hasattr(index, "pq"):
        return [unpack(data, index.pq.M, 1 << index.pq.nbits)]
    if hasattr(index, "sq"):
        bits = {faiss.ScalarQuantizer.QT_8bit: 8, faiss.ScalarQuantizer.QT_6bit: 6}.get(index.sq.qtype, 4)
        return [unpack(data, index.d, 1 << bits)]
    product = hasattr(index, "prq")
    bits = faiss.vector_to_array((index.prq if product else index.rq).nbits).astype(int)
    every = np.unpackbits(np.ascontiguousarray(data), axis=1, bitorder="little")
    at = np.cumsum([0, *bits])
    ids = [every[:, i:i + b].astype(np.int64) @ (1 << np.arange(b)) for b, i in zip(bits, at, strict=False)]
    if not product:
        return [i[:, None] for i in ids]
    grid = np.stack(ids, axis=1).reshape(len(data), index.prq.nsplits, -1)
    return [grid[:, :, j] for j in range(grid.shape[2])]


def _built(codec: Codec, d: int, n: int, columns: list[np.ndarray]) -> Codes:
    """Codes of n vectors from the ids of each term."""
    from ..codes import pack_part

    form = Form(n, d)
    layout = codec.layout(form)
    parts = {}
    for path, part in layout.items():
        if path.endswith("ids"):
            parts[path] = pack_part(columns[len(parts)], part)
        else:
            raise UnsupportedError(f"{codec.spec} keeps {path.rpartition('.')[2]} of each row, which the index does not")
    step = codec.block_rows(form)
    blocks = tuple(Block(min(step, n - i), {path: a[i:i + step] for path, a in parts.items()}) for i in range(0, n, step))
    return Codes(codec, (n, d), "float32", blocks)
