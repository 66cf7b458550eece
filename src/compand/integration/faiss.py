"""FAISS factory strings as compand specs, and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from warnings import warn

from ..codec import Codec
from ..errors import InputError, SpecError, UnsupportedError
from ..expression import Chain, Sum
from ..limits import DEFAULT
from ..stage import Stage

GRID = "int:{}:per=column:sym=false:search=absmax"  # least to greatest value of each column, as faiss has it


class _Part(NamedTuple):
    text: str
    at: int


def spec_of(text: str) -> str:
    """The compand spec of a faiss factory string.

    =======================================  ==========================================================================
    ``PCA64`` ``PCAR64`` ``PCAW64``          ``pca:64``, ``pca:64,rotate``, ``pca:64:whiten=true``
    ``OPQ48`` ``OPQ48_192``                  ``opq:48``, ``opq:48:k=192`` (fitted for the bits of the PQ that follows)
    ``RR`` ``RR64`` ``HR128``                ``rotate``, ``rotate:64``, ``hadamard:odd=pad``
    ``L2norm``                               ``scale:norm:row``: keeps the length in 2 bytes; search with metric="cosine"
    ``PQ48`` ``PQ48x4`` ``PQ48x4fs``         ``pq:48x8``, ``pq:48x4`` (fast scan is a layout, not another code)
    ``RQ4x8`` ``PRQ2x3x8``                   ``vq:256+vq:256+vq:256+vq:256``, ``pq:2x8+pq:2x8+pq:2x8``, greedy
    ``SQ8`` ``SQ6`` ``SQ4``                  ``int:8:per=column:sym=false:search=absmax`` ...
    ``Flat``                                 ``raw``
    ``IVF256,`` before a code                ``vq:256+`` where faiss codes residuals (PQ, SQ, RQ, PQ..fsr), else nothing,
                                             with a warning: a codec codes vectors, lists are built by an index
    ``,Refine(SQ8)``                         ``+int:8:per=column...``: codes what is left, where faiss codes the vector again
    ``IDMap`` ``IDMap2``                     nothing
    =======================================  ==========================================================================

    Raises `SpecError` with a caret under what cannot be read, and `UnsupportedError` under what has no equivalent, naming the nearest.

    >>> spec_of("OPQ48_192,PQ48x4fs")
    'opq:48:k=192:bits=4,pq:48x4'
    """
    parts = [_Part(m.group(), m.start()) for m in re.finditer(r"(?:[^,()]|\([^()]*\))+", text)]
    if not parts or ",".join(p.text for p in parts) != text:
        raise SpecError("a faiss factory string is parts joined by commas, such as OPQ48_192,PQ48x4fs", text, 0, max(1, len(text)))
    fault = _Fault(text)
    while parts and re.fullmatch(r"IDMap2?", parts[0].text):
        parts.pop(0)
    code_bits = next((int(m.group(1) or 8) for p in parts if (m := re.match(r"PQ\d+(?:x(\d+))?", p.text))), 8)
    before: list[str] = []
    while parts and (spec := _first(_TRANSFORMS, parts[0], fault)) is not None:
        m = re.match(r"OPQ", parts[0].text)
        before.append(spec + (f":bits={code_bits}" if m and code_bits != 8 and code_bits <= 12 else ""))
        parts.pop(0)
    lists = None
    if parts and (m := re.fullmatch(r"IVF(\d+)(?:_HNSW\d*)?", parts[0].text)):
        lists = (fault.number(m.group(1), parts[0], 1 << 20), parts.pop(0))
    if not parts:
        raise SpecError("a code must follow, such as PQ48x4fs or SQ8", text, len(text) - 1)
    coded = parts.pop(0)
    code = _first(_CODES, coded, fault)
    if code is None:
        raise fault(coded)
    if lists and code != "raw" and not re.search(r"x4fs(_\d+)?$", coded.text):
        code = f"vq:{lists[0]}+{code}"
    elif lists and code != "raw":
        warn(f"{text}: faiss codes no residuals of {coded.text} in lists, so the lists are left out and vectors are coded whole; "
             f"{lists[1].text},{coded.text.replace('fs', 'fsr')} keeps them (vq:{lists[0]}+{code})", stacklevel=3)
    if code == "raw" and before:
        near = ",".join([*before, "int:16"])
        raise UnsupportedError(fault.words(coded, f"Flat keeps every bit, which nothing before it does; nearest: SQ8, or {near}"))
    spec = ",".join([*before, code])
    for p in parts:
        m = re.fullmatch(r"Refine\((.+)\)", p.text)
        if not m:
            if p.text == "RFlat":
                raise UnsupportedError(fault.words(p, "RFlat keeps the floats beside the codes; nearest: Refine(SQ8), which is a code"))
            raise SpecError(f"after the code {coded.text} only Refine(...) can stand", text, p.at, len(p.text))
        finer = _first(_CODES, _Part(m.group(1), p.at + 7), fault)
        if finer in (None, "raw"):
            raise fault(_Part(m.group(1), p.at + 7))
        spec = f"({spec})+{finer}" if "," in spec else f"{spec}+{finer}"
    if spec.count("+") >= DEFAULT.terms:
        near = f"RQ{DEFAULT.terms}x8, or klt,grouped:BYTES"
        raise UnsupportedError(fault.words(coded, f"a sum has at most {DEFAULT.terms} terms; nearest: {near}"))
    from ..spec import parse

    return str(parse(spec))


class _Fault:
    """Errors with a caret under a part."""

    def __init__(self, text: str):
        self.text = text

    def __call__(self, part: _Part, message: str = "") -> Exception:
        for pattern, hint in _NOT:
            if re.fullmatch(pattern, part.text):
                return UnsupportedError(self.words(part, f"{part.text} has no equivalent: {hint}"))
        return SpecError(message or f"faiss factory: {part.text!r} is not known here", self.text, part.at, len(part.text))

    def words(self, part: _Part, message: str) -> str:
        return f"{message}\n  {self.text}\n  {' ' * part.at}{'^' * len(part.text)}"

    def number(self, digits: str, part: _Part, most: int = 1 << 16) -> int:
        if len(digits) > 9 or not 1 <= int(digits) <= most:
            raise self(part, f"{part.text}: {digits} must be from 1 to {most}")
        return int(digits)


_Rule = tuple[str, Callable[..., str]]
_TRANSFORMS: tuple[_Rule, ...] = (
    (r"PCA(W?)(R?)(\d+)", lambda n, w, r, k: f"pca:{n(k)}{':whiten=true' if w else ''}{',rotate' if r else ''}"),
    (r"OPQ(\d+)(?:_(\d+))?", lambda n, m, k: f"opq:{n(m)}{f':k={n(k)}' if k else ''}"),
    (r"RR(\d+)?", lambda n, k: f"rotate:{n(k)}" if k else "rotate"),
    (r"HR(\d+)", lambda n, k: "hadamard:odd=pad"),
    (r"L2[nN]orm", lambda n: "scale:norm:row"),
)


def _residual(n, parts: str) -> str:
    terms = [(n(c), n(b, 20)) for c, b in re.findall(r"(\d+)x(\d+)", parts)]
    return "+".join(f"vq:{1 << bits}" for count, bits in terms for _ in range(min(count, 2 * DEFAULT.terms)))


_CODES: tuple[_Rule, ...] = (
    (r"PQ(\d+)(?:x(\d+))?(?:np|fsr?(?:_\d+)?)?", lambda n, m, b: f"pq:{n(m)}x{n(b or '8', 16)}"),
    (r"PQ(\d+)(?:x(\d+))?\+(\d+)", lambda n, m, b, r: f"pq:{n(m)}x{n(b or '8', 16)}+pq:{n(r)}x8"),
    (r"SQ(8|6|4)", lambda n, b: GRID.format(b)),
    (r"RQ(\d+x\d+(?:_\d+x\d+)*)(?:_[NC][A-Za-z0-9_]+)?", _residual),
    (r"PRQ(\d+)x(\d+)x(\d+)(?:_N\w+)?", lambda n, m, r, b: "+".join([f"pq:{n(m)}x{n(b, 16)}"] * min(n(r), 2 * DEFAULT.terms))),
    (r"Flat", lambda n: "raw"),
)
_NOT = (  # what faiss has and we have not, and the nearest
    (r"Pad\d+", "leave it out, parts need not divide the columns here"),
    (r"ITQ\d*|LSH\w*", "nearest: rotate,sign"),
    (r"SQfp16|SQbf16", "keep the array as float16 or bfloat16 and use raw, or SQ8"),
    (r"SQ.*|EDEN\d*.*|RaBitQ.*", "nearest: hadamard,sign for 1 bit, hadamard,int:BITS for more; klt,grouped:BYTES learns from data"),
    (r"(LSQ|PLSQ).*", "nearest: RQ, coded greedily"),
    (r"ZnLattice.*", "nearest: lattice:e8"),
    (r"(HNSW|NSG|NNDescent|CAGRA).*", "a graph orders the search and is no code; leave it out"),
    (r"IMI.*|IVF.*\(.*\)", "nearest: IVF with one list of cells, IVF4096"),
)


def _first(rules: tuple[_Rule, ...], part: _Part, fault: _Fault) -> str | None:
    for pattern, make in rules:
        if m := re.fullmatch(pattern, part.text):
            return make(lambda digits, most=1 << 16: fault.number(digits, part, most), *m.groups())
    return None


def factory_of(codec: Codec | Stage | str, d: int | None = None) -> str:
    """The faiss factory string of a codec: what `spec_of` reads back as the same spec.

    ``d`` is the width of vectors, needed where faiss names it and the spec does not (``pca`` without k).
    Raises `UnsupportedError` for stages that faiss has not.

    >>> factory_of("pca:64,rotate,vq:256+pq:16x8")
    'PCAR64,IVF256,PQ16'
    """
    stage = (Codec(codec) if isinstance(codec, str) else codec).stage if not isinstance(codec, Stage) else codec
    spec = str(stage)
    if isinstance(stage, Chain) and stage.coder:
        raise UnsupportedError(f"{spec}: faiss has no entropy coder; leave {stage.coder} out")
    if isinstance(stage, Sum) and isinstance(stage.items[0], Chain):
        return f"{factory_of(stage.items[0], d)},Refine({_code_text(stage.items[1:], spec)})"
    out: list[str] = []
    transforms = list(stage.transforms) if isinstance(stage, Chain) else []
    while transforms:
        t = transforms.pop(0)
        rotated = t.name == "pca" and bool(transforms) and str(transforms[0]) == "rotate"
        if t.name in ("pca", "rotate", "opq") and t.k:
            d = t.k
        if t.name == "pca":
            if not d:
                raise InputError(f"{spec}: faiss names the width of PCA; give d")
            out.append(f"PCA{'W' if t.whiten else ''}{'R' if rotated else ''}{d}")
            transforms = transforms[1:] if rotated else transforms
        elif t.name == "opq":
            out.append(f"OPQ{t.parts}" + (f"_{t.k}" if t.k else ""))
        elif t.name == "rotate":
            out.append(f"RR{t.k or ''}")
        elif str(t) == "scale:norm:row":
            out.append("L2norm")
        else:
            raise UnsupportedError(f"{spec}: faiss has no {t.name}")
    quantizer = stage.quantizer if isinstance(stage, Chain) else stage
    items = quantizer.items if isinstance(quantizer, Sum) else (quantizer,)
    words = [i for i in items if i.name == "vq"]
    if len(items) > 1 and items[0].name == "vq" and len(words) < len(items):
        out.append(f"IVF{items[0].k}")
        items = items[1:]
    scanned, refine = not out or not out[-1].startswith("IVF"), ""
    try:
        code = _code_text(items, spec, scanned)
    except UnsupportedError:
        if len(items) < 2:
            raise
        code, refine = _code_text(items[:-1], spec, scanned), f",Refine({_code_text(items[-1:], spec)})"
    return ",".join([*out, code]) + refine


def _grid(stage: Stage) -> int | None:
    """Bits of SQ."""
    return stage.bits or 8 if str(stage) in [GRID.format(b) for b in (8, 6, 4)] else None  # type: ignore[attr-defined]


def _code_text(items, spec: str, scanned: bool = True) -> str:
    """The code of terms of a sum; ``scanned``: not in lists, where faiss drops the residual of fast-scan codes."""
    first = items[0]
    if len(items) == 1 and first.name == "pq":
        m, bits = first.parts
        return f"PQ{m}" + ("" if bits == 8 else "x4fs" if bits == 4 and scanned else f"x{bits}")
    if len(items) == 1 and _grid(first):
        return f"SQ{_grid(first)}"
    if len(items) == 1 and first.name == "raw":
        return "Flat"
    bits = [i.k.bit_length() - 1 for i in items if i.name == "vq" and i.dim is None and i.k & (i.k - 1) == 0 and i.k > 1]
    if len(bits) == len(items):
        runs = [(b, bits[:i + 1]) for i, b in enumerate(bits) if i + 1 == len(bits) or bits[i + 1] != b]
        counts = [len(r) - (len(runs[j - 1][1]) if j else 0) for j, (_, r) in enumerate(runs)]
        return "RQ" + "_".join(f"{c}x{b}" for c, (b, _) in zip(counts, runs, strict=True))
    if all(i.name == "pq" and i.parts == first.parts for i in items):
        return f"PRQ{first.parts[0]}x{len(items)}x{first.parts[1]}"
    raise UnsupportedError(f"faiss has no {'+'.join(map(str, items))} (of {spec})")
