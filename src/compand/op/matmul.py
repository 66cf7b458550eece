"""Products of activations with weights that stay codes.

Linear operations distribute over ``+``; a linear transform of the weights moves to the activations, and a scale of rows to the
results. What is left is a product with the codes of one quantizer, for which `compand.op.weights` has native kernels:
``trellis``, ``int`` of 1 to 8 bits, ``table``, ``float``, ``sign``, ``ternary``, ``lattice``, ``vq`` and ``pq``, ``lowrank`` and ``sparse``
as terms of a sum, and bfloat16 in ``ranks`` or ``raw``, with activations rounded to bfloat16. Any other expression is decoded block by
block.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from .. import _native
from ..array import like, to_numpy
from ..codes import Codes, unpack_part
from ..dtypes import is_float
from ..errors import CompandError, CorruptError, InputError, UnsupportedError
from ..expression import Chain, Sum
from ..stage import Form, Stage, Transform
from .affine import affine
from .weights import Leaf, Product, plain, product

_ORTHOGONAL = {"hadamard", "permute"}  # forward is the adjoint of inverse, without a sum in BLAS
_PROBED = 4096  # widest rows whose transform is made a matrix


def matmul(x, codes: Codes, *, activations: Literal["int8", "float32"] = "int8"):
    """x times the transpose of the weights in codes: what ``x @ codec.decode(codes).T`` gives, without decoding.

    Parameters
    ----------
    x : (..., d) array
        Converted to float32.
    codes : Codes of (n, d) weights
    activations : "int8" or "float32"
        ``int8``: native kernels round each block of 64 columns of x (128 for ``trellis``, after the transforms that moved to x) to
        127 steps of its largest magnitude. So the result differs from the exact product by at most Σ over blocks of
        max|x| / 254 · Σ|w|, and in practice by about 0.5 % of its deviation; sums of a block are exact integers, those of floats have
        one order, and results are the same on every instruction set and number of threads. Tables of more than 8 bits' range are
        rounded to 2^-15 of their largest.
        With bfloat16 weights kept without loss, activations are rounded to bfloat16, and sums are float32.
        ``float32``: the weights are decoded block by block, and x is not rounded.

    Returns (..., n) float32 in x's library. Weights are those before rounding to the source's dtype. The layout of the codes for
    the kernels is made at the first product and kept with them. Raises `InputError` for a wrong width, `CorruptError` for
    parts no encoder makes.

    >>> import numpy as np, compand
    >>> rng = np.random.default_rng(0)
    >>> w, x = rng.standard_normal((64, 256), dtype=np.float32), rng.standard_normal((2, 256), dtype=np.float32)
    >>> codes = compand.Codec("hadamard,int:4:group=64").encode(w)
    >>> y = compand.matmul(x, codes)
    >>> y.shape, bool(np.abs(y - x @ codes.codec.decode(codes).T).max() < 0.5)
    ((2, 64), True)
    """
    if activations not in ("int8", "float32"):
        raise InputError(f"activations are int8 or float32, not {activations!r}")
    if len(codes.shape) < 2:
        raise InputError(f"matmul needs codes of (n, d) weights, these are of {list(codes.shape)}")
    a = to_numpy(x) if hasattr(x, "shape") else np.asarray(x)
    n, d = codes.form[:2]
    if a.ndim < 1 or a.shape[-1] != d:
        raise InputError(f"x must be (..., {d}) like the weights' rows, not {list(a.shape)}")
    lines = np.ascontiguousarray(a, np.float32).reshape(-1, d)
    y = _kept(codes, activations)(lines).reshape(*a.shape[:-1], n)
    return like(y, x) if hasattr(x, "shape") else y


def _kept(codes: Codes, activations: str) -> Product:
    """The product of the codes, made once."""
    kept = codes.__dict__.setdefault("_products", {})
    if activations not in kept:
        whole = activations == "float32" or not is_float(codes.dtype)
        try:
            found = _whole(codes) if whole else _product(codes, codes.codec.stage, codes.form, "", "")
        except CompandError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as e:
            raise CorruptError(f"{codes.codec.spec} has no product with parts of such sizes: {e}") from e
        if isinstance(found, _native.Matrix) and found.shape != tuple(codes.form[:2]):
            raise CorruptError(f"{codes.codec.spec}: parts of {list(found.shape)}, the weights are {list(codes.form[:2])}")
        kept[activations] = found
    return kept[activations]


def matrix(codes: Codes, *, copy: bool = False) -> _native.Matrix:
    """Codes of (n, d) weights as the native object that `matmul` uses: called with x (m, d) float32 it gives (m, n).

    ``copy`` holds packed ids and trellises once more, on huge pages: the same results, sooner.

    >>> import numpy as np, compand
    >>> w = matrix(compand.Codec("int:8").encode(np.eye(3, 64, dtype=np.float32)))
    >>> w.shape, float(w.row(1)[1].round(2))
    ((3, 64), 1.0)
    """
    found = _kept(codes, "int8")
    if isinstance(found, _native.Matrix):
        if copy:
            found.copy_codes()
        return found

    def row(i: int) -> np.ndarray:
        w = codes.codec.decode(codes, rows=slice(i, i + 1))
        return np.ascontiguousarray(w, np.float32).reshape(-1)

    return _native.Called(*codes.form[:2], lambda x: np.ascontiguousarray(found(x), np.float32), row)


def product_on(kinds: Any, codes: Codes) -> Any:
    """The product of codes made of other classes than the native ones, which take the same arguments: ``kinds.Ids``, ``kinds.Trellis``,
    ``kinds.Rotated``, ``kinds.Added``, all of them ``kinds.Matrix``. None where the expression asks for more than they can.

    >>> import numpy as np, compand
    >>> codes = compand.Codec("hadamard,int:4").encode(np.eye(16, 64, dtype=np.float32))
    >>> type(product_on(_native, codes)).__name__
    'Rotated'
    """
    if not is_float(codes.dtype):
        return None
    try:
        found = _product(codes, codes.codec.stage, codes.form, "", "", kinds)
    except UnsupportedError:
        return None
    return found if isinstance(found, kinds.Matrix) else None


def matmul_reference(x: np.ndarray, codes: Codes) -> np.ndarray:
    """`matmul` in plain NumPy, x not rounded: float64."""
    return np.asarray(x, np.float64) @ codes.codec.decode(codes).reshape(codes.form.n, -1).astype(np.float64).T


def rounded(x: np.ndarray, block: int) -> np.ndarray:
    """What the kernels make of activations x (m, d): each block of columns as integers within ±127 times a float32 scale.

    >>> rounded(np.float32([[127, 0.6, -3]]), 64)
    array([[127.,   1.,  -3.]], dtype=float32)
    """
    out = np.empty_like(x)
    for at in range(0, x.shape[1], block):
        own = x[:, at:at + block]
        most = np.abs(own).max(1, keepdims=True)
        q = np.rint(own * np.where(most < 1e-30, np.float32(0), np.float32(127) / np.maximum(most, np.float32(1e-30))))
        out[:, at:at + block] = q * (most * np.float32(1 / 127))
    return out


def _product(codes: Codes, stage: Stage, form: Form, path: str, coder: str, kinds: Any = _native) -> Product:
    """The product with what a stage of the codes decodes to."""
    if isinstance(stage, Sum):
        terms = [_product(codes, s, form, f"{path}{i}.", coder, kinds) for i, s in enumerate(stage.items)]
        if all(isinstance(t, kinds.Matrix) for t in terms):
            return kinds.Added(terms)
        return lambda x: _added([term(x) for term in terms])
    if not isinstance(stage, Chain):
        return product(Leaf(codes, stage, form, path, coder, kinds)) or _decoded(codes, stage, form, path)
    forms = [form]
    for t in stage.transforms:
        forms.append(t.out(forms[-1]))
    if stage.raw or any(f.n != form.n for f in forms):
        return _decoded(codes, stage, form, path)
    inner = _product(codes, stage.quantizer, forms[-1], f"{path}{len(stage.transforms)}.", str(stage.coder or coder), kinds)
    for i, t in reversed(list(enumerate(stage.transforms))):
        moved = _moved(codes, t, forms[i], f"{path}{i}.", inner, kinds)
        if moved is None:
            return _decoded(codes, stage, form, path)
        inner = moved
    return inner


def _added(terms: list[np.ndarray]) -> np.ndarray:
    total = terms[0]
    for t in terms[1:]:
        total = total + t
    return total


def _moved(codes: Codes, t: Transform, form: Form, path: str, inner: Product, kinds: Any = _native) -> Product | None:
    """The product with t.inverse(w), given the one with w; None where t is not linear."""
    if t.name == "hadamard" and isinstance(inner, kinds.Matrix):
        return kinds.Rotated(inner, form.d, t.rounds(form.d))
    if t.name in _ORTHOGONAL:
        return lambda x: inner(np.ascontiguousarray(t.forward(x)[0], np.float32))
    if t.name == "center":
        return _shifted(inner, t.mean_, form.n, kinds)
    if t.name == "scale" and t.fitted:
        columns = t.scale_.astype(np.float32)
        return lambda x: inner(x * columns)
    if t.name == "scale" and codes.part(path + "scale").shape[1] == 1:
        rows = codes.part(path + "scale")[:, 0].astype(np.float32)
        return lambda x: inner(x) * rows
    if form.d > _PROBED or t.layout(form) or (found := affine((t,), form)) is None:
        return None
    before = kinds.Plain(np.ascontiguousarray(found.matrix, np.float32))
    turned = kinds.Behind(inner, before) if isinstance(inner, kinds.Matrix) else lambda x: inner(before(x))
    return _shifted(turned, found.shift, form.n, kinds) if found.shift.any() else turned


def _shifted(inner: Product, shift: np.ndarray, n: int, kinds: Any) -> Product:
    """The product with w + shift (d,), given the one with w."""
    line = kinds.Plain(np.ascontiguousarray(shift[None], np.float32))
    if isinstance(inner, kinds.Matrix):
        return kinds.Added([inner, kinds.Behind(kinds.Plain(np.ones((n, 1), np.float32)), line)])
    return lambda x: inner(x) + line(x)


def _whole(codes: Codes) -> Product:
    """The product with the decoded blocks, rounded to the source's dtype."""
    def times(x: np.ndarray) -> np.ndarray:
        y, at = np.empty((len(x), codes.form.n), np.float32), 0
        for b in codes.blocks:
            w = codes.codec.decode_rows([b], codes.form._replace(n=b.rows), codes.dtype, 0, b.rows)
            y[:, at:at + b.rows] = plain(w)(x)
            at += b.rows
        return y

    return times


def _decoded(codes: Codes, stage: Stage, form: Form, path: str) -> Product:
    """The product with what this stage decodes to, block by block."""
    if stage is codes.codec.stage and stage.raw:
        return _whole(codes)

    def times(x: np.ndarray) -> np.ndarray:
        y, at = np.empty((len(x), form.n), np.float32), 0
        for b in codes.blocks:
            layout = codes.codec.layout(codes.form._replace(n=b.rows))
            try:
                parts = {p[len(path):]: unpack_part(b.parts[p], part) for p, part in layout.items() if p.startswith(path)}
                w = stage.decode(parts, form._replace(n=b.rows))
            except CompandError:
                raise
            except (ArithmeticError, LookupError, TypeError, ValueError) as e:
                raise CorruptError(f"{stage} cannot decode these parts: {type(e).__name__}: {e}") from e
            y[:, at:at + b.rows] = plain(w)(x)
            at += b.rows
        return y

    return times
