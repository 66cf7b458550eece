"""INRIA-style PLY: one vertex a splat, one float property a value. Own bounded header parser.

Sources: Turk, "The PLY polygon file format", 1994; the property names of Kerbl et al. 2023.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ...errors import FormatError, UnsupportedError
from ...limits import Limits
from ..source import Mapped
from .splats import REST, Splats

MAX_HEADER = 1 << 16
TYPES = {"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
         "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8"}
FIELDS = {"positions": ("x", "y", "z"), "scales": ("scale_0", "scale_1", "scale_2"), "rotations": ("rot_0", "rot_1", "rot_2", "rot_3"),
          "opacity": ("opacity",), "sh0": ("f_dc_0", "f_dc_1", "f_dc_2")}
NORMALS = ("nx", "ny", "nz")


class Element(NamedTuple):
    """One table of a PLY: ``dtype`` is structured, ``at`` its first byte."""

    name: str
    count: int
    dtype: np.dtype
    at: int


def elements(file: Mapped, limits: Limits) -> dict[str, Element]:
    """The tables a PLY declares, their bytes checked to be there. Raises `FormatError`, `UnsupportedError`."""
    head = file.bytes(0, min(file.size, MAX_HEADER))
    end = re.search(rb"(?:^|\n)end_header\r?\n", head)
    if not head.startswith(b"ply") or end is None:
        raise FormatError(f"{file.path}: no end_header within {MAX_HEADER:,} bytes: not a PLY, or cut short")
    lines = head[:end.start() + 1].decode("ascii", "replace").splitlines()[1:]
    order, tables = "", []
    for line in lines:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3:
            order = {"binary_little_endian": "<", "binary_big_endian": ">"}.get(words[1], "?")
            if order == "?":
                raise UnsupportedError(f"{file.path}: PLY format {words[1][:40]!r}; write binary_little_endian")
        elif words[0] == "element" and len(words) == 3 and re.fullmatch(r"\d{1,15}", words[2]):
            tables.append((words[1], limits.check("allocation", int(words[2]), f"{file.path}: rows of {words[1]!r}"), {}))
        elif words[0] == "property" and len(words) == 3 and words[1] in TYPES and order and tables and words[2] not in tables[-1][2]:
            tables[-1][2][words[2]] = order + TYPES[words[1]]
        elif words[:2] == ["property", "list"]:
            raise UnsupportedError(f"{file.path}: a PLY with lists is a mesh, not splats")
        else:
            raise FormatError(f"{file.path}: PLY header line {line[:80]!r}")
    if not order:
        raise FormatError(f"{file.path}: the PLY header names no format")
    at, found = end.end(), {}
    for name, count, fields in tables:
        dtype = np.dtype(list(fields.items()))
        if name in found or not fields:
            raise FormatError(f"{file.path}: PLY element {name[:40]!r} twice, or without properties")
        limits.check("allocation", count * dtype.itemsize, f"{file.path}: {name!r}")
        found[name] = Element(name, count, dtype, at)
        at += count * dtype.itemsize
    if at > file.size:
        raise FormatError(f"{file.path}: cut short: {at:,} bytes are needed, the file has {file.size:,}")
    return found


def table(file: Mapped, element: Element) -> np.ndarray:
    """The rows of a table as a structured view of the file."""
    return file.array(element.at, "uint8", (element.count * element.dtype.itemsize,)).view(element.dtype)


class Table:
    """The splats of a mapped PLY, read when asked for. Raises `FormatError` if it is a PLY of something else.

    ``fields``: names of properties by attribute; ``extra``: further properties (in memory), without normals that are all zero.
    """

    def __init__(self, file: Mapped, vertex: Element | None):
        names = vertex.dtype.names or () if vertex else ()
        missing = [n for ns in FIELDS.values() for n in ns if n not in names]
        if vertex is None or missing:
            raise FormatError(f"{file.path}: not a PLY of splats: it has no {', '.join(missing[:4]) or 'vertex'}"
                              f"{'...' if len(missing) > 4 else ''}")
        rest = sum(1 for n in names if re.fullmatch(r"f_rest_\d+", n))
        if rest not in [3 * k for k in REST.values()] or any(f"f_rest_{i}" not in names for i in range(rest)):
            raise FormatError(f"{file.path}: {rest} f_rest properties; degrees 0 to 4 have 0, 9, 24, 45 or 72")
        self._rows = table(file, vertex)
        self.fields = FIELDS | {"sh_rest": tuple(f"f_rest_{c * (rest // 3) + k}" for k in range(rest // 3) for c in range(3))}
        known = {n for ns in self.fields.values() for n in ns}
        extra = {n: self.columns([n])[:, 0] for n in names if n not in known}
        if all(n in extra and not extra[n].view(np.uint32).any() for n in NORMALS):
            extra = {n: x for n, x in extra.items() if n not in NORMALS}
        self.extra = extra

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def positions(self) -> np.ndarray:
        """Of all splats, float32 (n, 3)."""
        return self.columns(self.fields["positions"])

    def columns(self, names, which=slice(None)) -> np.ndarray:
        """These properties of some splats (a slice or indices), float32 (m, names)."""
        rows = self._rows[which]
        x = np.empty((len(rows), len(names)), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for i, name in enumerate(names):
                x[:, i] = rows[name]
        return x

    def matrix(self, which) -> np.ndarray:
        """Some splats as `compand.modality.splats.matrix` gives them."""
        return self.columns([n for names in self.fields.values() for n in names], which)

    def scene(self) -> Splats:
        """All of them in memory."""
        own = {k: self.columns(names) for k, names in self.fields.items()}
        own["opacity"] = own["opacity"][:, 0]
        return Splats(**own, extra=self.extra)


def opened(file: Mapped, limits: Limits) -> Table | Splats:
    """The splats of a mapped PLY where they lie; of a compressed PLY, which is small, the scene."""
    tables = elements(file, limits)
    from .compressed import decode, is_compressed

    if is_compressed(tables):
        parts = [table(file, tables[n]) if n in tables else None for n in ("chunk", "vertex", "sh")]
        return decode(*parts, file.path)  # type: ignore[arg-type]
    return Table(file, tables.get("vertex"))


def properties(scene: Splats) -> list[str]:
    """Names of the properties `write` gives a scene, in their order."""
    normals = [*NORMALS]
    return [*FIELDS["positions"], *normals, *FIELDS["sh0"], *(f"f_rest_{i}" for i in range(scene.sh_rest.shape[1])), *FIELDS["opacity"],
            *FIELDS["scales"], *FIELDS["rotations"], *(n for n in scene.extra if n not in normals)]


def write(out, scene: Splats, rows: int = 1 << 16) -> None:
    """Write a scene to an open file as INRIA's trainer does: normals (zero unless in ``extra``), all of red's coefficients first."""
    write_parts(out, len(scene), (scene.take(slice(at, at + rows)) for at in range(0, max(len(scene), 1), rows)))


def write_parts(out, n: int, parts: Iterable[Splats]) -> None:
    """The same of a scene of n splats that comes in parts with the same properties: no more than one is in memory."""
    for i, scene in enumerate(parts):
        if i == 0:
            head = "".join(f"property float {name}\n" for name in properties(scene))
            out.write(f"ply\nformat binary_little_endian 1.0\nelement vertex {n}\n{head}end_header\n".encode())
        k, zero = scene.sh_rest.shape[1] // 3, np.zeros(len(scene), np.float32)
        rest = scene.sh_rest.reshape(len(scene), k, 3).swapaxes(1, 2).reshape(len(scene), 3 * k)
        block = np.concatenate([scene.positions, np.stack([scene.extra.get(name, zero) for name in NORMALS], 1), scene.sh0, rest,
                                scene.opacity[:, None], scene.scales, scene.rotations,
                                *(x[:, None] for name, x in scene.extra.items() if name not in NORMALS)], 1)
        out.write(block.astype("<f4", copy=False).data)
