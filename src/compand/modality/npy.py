""".npy: one array behind a short text header. Own header parser: no pickle, no eval.

Source: NumPy Enhancement Proposal 1 and `numpy.lib.format` (versions 1.0 to 3.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from ..dtypes import dtype as dtype_of
from ..errors import FormatError, UnsupportedError
from .source import Item, Mapped, Source, check_array, product

MAGIC = b"\x93NUMPY"
MAX_HEADER = 1 << 16
_PAIR = re.compile(r"\s*'([a-z_]{1,16})'\s*:\s*('[^']{0,32}'|True|False|\([0-9L, ]{0,1024}\))\s*(,\s*|$)")
_DESCR = re.compile(r"([<>|=]?)(\?|[a-zA-Z])(\d{0,4})")
_NAMES = {"?": "bool", "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8", "u2": "uint16",
          "u4": "uint32", "u8": "uint64", "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64"}


def dtype_of_descr(descr: str) -> tuple[str, bool]:
    """A header's dtype text → (dtype name, big-endian). Raises `UnsupportedError` for what is not numbers.

    >>> dtype_of_descr(">f4")
    ('float32', True)
    """
    found = _DESCR.fullmatch(descr)
    order, kind, size = found.groups() if found else ("", "V", "")
    name = _NAMES.get(kind + size)
    if name is None:
        why = {"O": "object arrays need pickle, which runs code; save numbers instead",
               "V": "a void dtype does not say what its bits mean; save bfloat16 or float8 as .safetensors",
               "U": "text is not numbers", "S": "text is not numbers"}.get(kind, f"known are {', '.join(sorted(_NAMES))}")
        raise UnsupportedError(f"cannot read a .npy of dtype {descr!r}: {why}")
    return name, order == ">"


def parse_header(data: bytes) -> tuple[int, str, bool, tuple[int, ...]]:
    """The first bytes of a .npy → (bytes of the header, dtype text, Fortran order, shape). Raises `FormatError`."""
    if data[:6] != MAGIC:
        raise FormatError("not a .npy file")
    if len(data) < 12 or data[6] not in (1, 2, 3) or data[7] != 0:
        raise FormatError(f".npy version {data[6] if len(data) > 6 else '?'}: known are 1 to 3, and the header must be whole")
    start = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    if length > MAX_HEADER or start + length > len(data):
        raise FormatError(f".npy header of {length:,} bytes is cut short or over the limit of {MAX_HEADER:,}")
    try:
        text = data[start:start + length].decode("ascii" if data[6] < 3 else "utf-8").strip()
    except UnicodeDecodeError:
        raise FormatError(".npy header is not text") from None
    if not (text.startswith("{") and text.endswith("}")):
        raise FormatError(f".npy header is not a dictionary: {text[:60]!r}")
    body, at, found = text[1:-1], 0, {}
    if re.search(r"'descr'\s*:\s*\[", body):
        raise UnsupportedError("a structured .npy (fields) is not one array of numbers; save each field as its own array")
    while body[at:].strip():
        pair = _PAIR.match(body, at)
        if pair is None or pair[1] in found:
            raise FormatError(f".npy header cannot be read at {body[at:at + 40]!r}")
        found[pair[1]] = pair[2]
        at = pair.end()
    if found.keys() != {"descr", "fortran_order", "shape"} or found["descr"][0] != "'" or found["shape"][0] != "(" \
            or found["fortran_order"] not in ("True", "False"):
        raise FormatError(f".npy header needs descr, fortran_order and shape: {text[:80]!r}")
    words = [w.strip().removesuffix("L") for w in found["shape"][1:-1].split(",") if w.strip()]
    if any(not re.fullmatch(r"\d{1,19}", w) for w in words):
        raise FormatError(f".npy shape {found['shape'][:60]}")
    return start + length, found["descr"][1:-1], found["fortran_order"] == "True", tuple(map(int, words))


def header(descr: str, fortran: bool, shape: tuple[int, ...], version: int = 1) -> bytes:
    """The header NumPy writes for such an array.

    >>> parse_header(header("<f4", False, (3, 4)))
    (128, '<f4', False, (3, 4))
    """
    text = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape!r}, }}"
    if shape:  # room to grow the first or last axis in place, as NumPy leaves it
        text += " " * max(0, 21 - len(repr(shape[-1 if fortran else 0])))
    start = 10 if version == 1 else 12
    text += " " * (-(start + len(text) + 1) % 64) + "\n"
    return MAGIC + bytes([version, 0]) + len(text).to_bytes(start - 8, "little") + text.encode("latin1")


def descr_of(dtype: np.dtype) -> str:
    """The header's text of a dtype; `UnsupportedError` where there is none."""
    if dtype.str[1] == "V" or dtype.kind not in "biufc":
        raise UnsupportedError(f".npy cannot hold {dtype.name}; write .safetensors")
    return dtype.str


class Npy(Source):
    """An opened .npy file: one array, called 'array'."""

    format, modality = "npy", "embeddings"

    def __init__(self, path):
        super().__init__(path)
        self.file = Mapped(path)
        data = self.file.bytes(0, min(self.file.size, MAX_HEADER + 12))
        self.start, descr, self.fortran, self.shape = parse_header(data)
        self.dtype, self.swap = dtype_of_descr(descr)
        nbytes = check_array(self.shape, self.dtype, str(path))
        if self.start + nbytes != self.file.size:
            raise FormatError(f"{path}: {descr}{list(self.shape)} needs {nbytes:,} bytes after the header, "
                              f"the file has {self.file.size - self.start:,}")
        self.meta |= {"descr": descr, "fortran": self.fortran, "version": data[6]}
        if header(descr, self.fortran, self.shape, data[6]) != data[:self.start]:
            self.files["array:header"] = data[:self.start]

    def items(self):
        yield Item("array", self.shape, self.dtype, self.load)

    def load(self, rows: slice | None = None) -> np.ndarray:
        """The array, a view of the file unless its bytes must be swapped."""
        x = self.file.array(self.start, self.dtype, self.shape[::-1] if self.fortran else self.shape)
        x = x.T if self.fortran else x
        x = x if rows is None else x[rows]
        return x.byteswap() if self.swap else x


def write_array(out, x: np.ndarray, meta: dict, head: bytes | None = None) -> None:
    """Write one array as .npy to an open file, in pieces; meta and head as `Npy` gave them, else NumPy's own choice."""
    if x.dtype.name == "bfloat16" or "float8" in x.dtype.name:
        x = x.astype(np.float32)  # .npy cannot name these; float32 holds the same values
    descr, fortran = _write_head(out, x.shape, x.dtype.name, meta, head)
    flat = x.T if fortran else x
    flat = np.ascontiguousarray(flat).reshape(-1)
    step = 1 << 22
    for at in range(0, product(x.shape), step):
        out.write(np.ascontiguousarray(flat[at:at + step], np.dtype(descr)).tobytes())


def write_pieces(out, shape: tuple[int, ...], name: str, pieces: Iterable[np.ndarray], meta: dict, head: bytes | None = None) -> None:
    """`write_array` of rows that come in pieces, of a dtype that .npy can name; not for an order by columns (`fortran` in meta)."""
    descr, _ = _write_head(out, shape, name, meta, head)
    for x in pieces:
        out.write(np.ascontiguousarray(x, np.dtype(descr)).reshape(-1).view(np.uint8).data)


def _write_head(out, shape: tuple[int, ...], name: str, meta: dict, head: bytes | None) -> tuple[str, bool]:
    descr, fortran = meta.get("descr") or descr_of(dtype_of(name)), bool(meta.get("fortran", False))
    if dtype_of_descr(descr)[0] != name:
        descr = descr_of(dtype_of(name))
    if head is not None and parse_header(head)[1:] != (descr, fortran, shape):
        head = None
    out.write(head or header(descr, fortran, shape, int(meta.get("version", 1)) if meta.get("version") in (1, 2, 3) else 1))
    return descr, fortran
