"""SOG (PlayCanvas), versions 1 and 2: attributes as lossless WebP pictures beside a meta.json, or all in one zip (.sog).

Source: the format's published description (PlayCanvas user manual, "The SOG format"). Needs Pillow.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CorruptError, FormatError, LimitError, UnsupportedError
from ...fit.kmeans import kmeans
from ...limits import Limits
from ..source import Mapped
from .packed import alpha_of, from_three, logit, to_three, unit
from .splats import REST, Splats

MOST_TEXT, MOST_PIXELS, MOST_MEMBERS = 1 << 20, 1 << 28, 64
EXPANSION = 4096  # pixels for each byte of a picture, beyond 2^20
WIDE = 64  # palette entries in a row of the picture of harmonics


def _pillow():
    try:
        from PIL import Image
    except ImportError:
        raise UnsupportedError("SOG needs the package pillow: pip install 'compand[splats]'") from None
    return Image


def is_bundle(path) -> bool:
    """Whether a zip holds a meta.json, as a .sog does."""
    try:
        with zipfile.ZipFile(path) as z:
            return any(m.filename.rpartition("/")[2] == "meta.json" for m in z.infolist()[:MOST_MEMBERS])
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, NotImplementedError, OverflowError):
        return False


class _Files:
    """The members of a bundle, or the files beside a meta.json; only plain names are looked up."""

    def __init__(self, path: Path):
        self.path, self.zip = path, None
        if path.is_dir():
            self.folder = path
        elif path.name.lower().endswith(".json"):
            self.folder = path.parent
        else:
            try:
                self.zip = zipfile.ZipFile(path)
                self.members = {m.filename.rpartition("/")[2]: m for m in self.zip.infolist()[:MOST_MEMBERS]}
            except (zipfile.BadZipFile, OSError, ValueError, LookupError, NotImplementedError, OverflowError) as e:
                raise FormatError(f"{path}: damaged zip: {e}") from None

    def read(self, name: str, most: int) -> bytes:
        if not name or "/" in name or "\\" in name or name in (".", ".."):
            raise FormatError(f"{self.path}: {name[:80]!r} is no plain file name")
        if self.zip is None:
            file = Mapped(self.folder / name)
            if file.size > most:
                raise LimitError(f"{self.folder / name}: {file.size:,} bytes, at most {most:,} are read")
            return file.bytes(0, file.size)
        if name not in self.members:
            raise FormatError(f"{self.path}: has no {name!r}")
        member = self.members[name]
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnsupportedError(f"{self.path}: member {name!r} is not stored or deflated")
        try:
            with self.zip.open(member) as f:
                data = f.read(most + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, NotImplementedError) as e:
            raise CorruptError(f"{name!r}: {e}", path=self.path) from None
        if len(data) > most:
            raise LimitError(f"{self.path}: {name!r} has more than {most:,} bytes")
        return data

    def close(self) -> None:
        if self.zip is not None:
            self.zip.close()


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
        raise FormatError(f"meta.json: {what} is not a number: {str(value)[:40]}")
    return float(value)


def _numbers(value: Any, count: int, what: str) -> np.ndarray:
    if not isinstance(value, list) or len(value) != count:
        raise FormatError(f"meta.json: {what} must be {count} numbers")
    return np.array([_number(v, what) for v in value])


def _section(meta: Any, name: str) -> dict:
    found = meta.get(name) if isinstance(meta, dict) else None
    if not isinstance(found, dict):
        raise FormatError(f"meta.json has no {name!r}")
    return found


def _count(value: Any, most: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise FormatError(f"meta.json: {what} is {str(value)[:40]}, not a whole number up to {most:,}")
    return value


class _Reader:
    def __init__(self, files: _Files, meta: dict, limits: Limits):
        self.files, self.meta, self.limits = files, meta, limits

    def picture(self, section: dict, at: int, pixels: int, most: int = 0) -> np.ndarray:
        """The RGBA pixels (height, width, 4) of a section's file, at least so many, and not many more (than ``most``)."""
        names = section.get("files")
        if not isinstance(names, list) or len(names) <= at or not isinstance(names[at], str):
            raise FormatError("meta.json: a section without its files")
        data = self.files.read(names[at], 1 << 30)
        module = _pillow()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with module.open(io.BytesIO(data), formats=("WEBP",)) as image:
                    width, height = image.size
                    if width * height < pixels:
                        raise FormatError(f"{names[at]}: {width} x {height} pixels for {pixels:,} values")
                    self.limits.check("allocation", 4 * width * height, names[at])
                    if width * height > min(MOST_PIXELS, 4 * pixels + (1 << 16) + most, EXPANSION * len(data) + (1 << 20)):
                        raise FormatError(f"{names[at]}: {width} x {height} pixels for {pixels:,} values in {len(data):,} bytes")
                    return np.asarray(image.convert("RGBA"))
        except (FormatError, LimitError):
            raise
        except (OSError, EOFError, ValueError, SyntaxError, RuntimeError, MemoryError, module.DecompressionBombError) as e:
            raise CorruptError(f"{names[at]}: {type(e).__name__}: {e}", path=self.files.path) from None

    def flat(self, section: dict, at: int, n: int) -> np.ndarray:
        """The first n pixels of a picture, (n, 4)."""
        return self.picture(section, at, n).reshape(-1, 4)[:n]

    def scene(self) -> Splats:
        meta = self.meta
        new = meta.get("version") == 2
        if not new and "version" in meta and meta["version"] != 1:
            raise UnsupportedError(f"SOG version {str(meta['version'])[:20]}; known are 1 and 2")
        means, scales, quats, sh0 = (_section(meta, s) for s in ("means", "scales", "quats", "sh0"))
        shape = means.get("shape")
        n = _count(meta.get("count") if new else shape[0] if isinstance(shape, list) and shape else None, MOST_PIXELS, "count")
        self.limits.check("allocation", 4 * 14 * n, f"{self.files.path}: {n:,} splats")
        low, fine = self.flat(means, 0, n), self.flat(means, 1, n)
        q = (low[:, :3].astype(np.float64) + 256.0 * fine[:, :3]) / 65535
        first, last = _numbers(means.get("mins"), 3, "means.mins"), _numbers(means.get("maxs"), 3, "means.maxs")
        p = first + q * (last - first)
        positions = np.sign(p) * np.expm1(np.minimum(np.abs(p), 80))
        turn = self.flat(quats, 0, n)
        largest = turn[:, 3].astype(np.int64) - 252
        if n and int(largest.min()) < 0:
            raise FormatError("quats: a pixel does not say which component is left out")
        s, c = self.flat(scales, 0, n), self.flat(sh0, 0, n)
        if new:
            steps, colors = (_numbers(v.get("codebook"), 256, "codebook") for v in (scales, sh0))
            s, color, opacity = steps[s[:, :3]], colors[c[:, :3]], logit(c[:, 3] / 255)
        else:
            a, b = (_numbers(scales.get(k), 3, f"scales.{k}") for k in ("mins", "maxs"))
            s = a + s[:, :3] / 255 * (b - a)
            a, b = (_numbers(sh0.get(k), 4, f"sh0.{k}") for k in ("mins", "maxs"))
            c = a + c / 255 * (b - a)
            color, opacity = c[:, :3], c[:, 3]
        return Splats(positions=positions, scales=s, rotations=from_three(largest, (turn[:, :3] / 255 - 0.5) * np.sqrt(2)), opacity=opacity,
                      sh0=color, sh_rest=self.harmonics(n, new) if "shN" in meta else None)

    def harmonics(self, n: int, new: bool) -> np.ndarray:
        part = _section(self.meta, "shN")
        labels = self.flat(part, 1, n)
        label = labels[:, 0].astype(np.int64) + 256 * labels[:, 1].astype(np.int64)
        palette = self.picture(part, 0, 1, 24 << 16)
        k = palette.shape[1] // WIDE
        if k not in REST.values() or palette.shape[1] % WIDE:
            raise FormatError(f"shN: a palette {palette.shape[1]} pixels wide; degrees 1 to 4 have {WIDE} times 3, 8, 15, 24")
        self.limits.check("allocation", 4 * 3 * k * n, f"{self.files.path}: harmonics of {n:,} splats")
        entries = palette[:, :, :3].reshape(-1, k, 3)
        if n and int(label.max()) >= len(entries):
            raise FormatError(f"shN: label {int(label.max()):,} of {len(entries):,} palette entries")
        if new:
            values = _numbers(part.get("codebook"), 256, "shN.codebook")
        else:
            a, b = _number(part.get("mins"), "shN.mins"), _number(part.get("maxs"), "shN.maxs")
            values = a + np.arange(256) / 255 * (b - a)
        return values.astype(np.float32)[entries].reshape(-1, 3 * k)[label]


def read(path, limits: Limits) -> Splats:
    """The scene of a .sog, a meta.json or its folder. Raises `FormatError`, `CorruptError`, `UnsupportedError`."""
    path = Path(path)
    files = _Files(path)
    try:
        text = files.read("meta.json" if files.zip or path.is_dir() else path.name, MOST_TEXT)
        try:
            meta = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise FormatError(f"{path}: meta.json cannot be read: {e}") from None
        if not isinstance(meta, dict):
            raise FormatError(f"{path}: meta.json is no object")
        return _Reader(files, meta, limits).scene()
    finally:
        files.close()


# -- writing -----------------------------------------------------------------------------------------------------------
def _picture(rgba: np.ndarray, width: int) -> bytes:
    """Pixels (m, 4) in rows of ``width`` as lossless WebP."""
    height = max(1, -(-len(rgba) // width))
    full = np.zeros((height * width, 4), np.uint8)
    full[:len(rgba)] = rgba
    out = io.BytesIO()
    _pillow().fromarray(full.reshape(height, width, 4), "RGBA").save(out, "WEBP", lossless=True, exact=True, quality=100, method=4)
    return out.getvalue()


def _codebook(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """256 levels for values x, least squared error (1-D k-means from equal shares), and the level of each."""
    flat = x.reshape(-1)
    sample = np.sort(flat[:: max(1, flat.size // 200_000)].astype(np.float64))
    if not len(sample):
        return np.zeros(256, np.float32), np.zeros(x.shape, np.uint8)
    levels = np.interp(np.linspace(0.5, 255.5, 256) / 256 * (len(sample) - 1), np.arange(len(sample)), sample)
    for _ in range(12):
        edges = np.searchsorted(sample, (levels[1:] + levels[:-1]) / 2)
        sums = np.diff(np.concatenate([[0], np.cumsum(sample)])[np.concatenate([[0], edges, [len(sample)]])])
        counts = np.diff(np.concatenate([[0], edges, [len(sample)]]))
        levels = np.sort(np.where(counts > 0, sums / np.maximum(counts, 1), levels))
    levels = levels.astype(np.float32)
    return levels, np.searchsorted((levels[1:] + levels[:-1]) / 2, flat).astype(np.uint8).reshape(x.shape)


def write(out, scene: Splats, *, palette: int = 65536, iterations: int = 10) -> None:
    """Write a scene to an open file as SOG version 2 in one zip, along the Morton curve; ``palette``: most entries for harmonics."""
    from .scene import order

    scene = scene.take(order(scene.positions))
    n = len(scene)
    width = max(4, -(-int(np.ceil(np.sqrt(n))) // 4) * 4)
    opaque = np.full((n, 1), 255, np.uint8)
    p = np.sign(scene.positions) * np.log1p(np.abs(scene.positions.astype(np.float64)))
    low, high = (p.min(0), p.max(0)) if n else (np.zeros(3), np.zeros(3))
    q = np.rint((p - low) / np.maximum(high - low, 1e-30) * 65535).astype(np.uint16)
    largest, three = to_three(unit(scene.rotations))
    turn = np.concatenate([np.clip(np.rint((three / np.sqrt(2) + 0.5) * 255), 0, 255), 252 + largest[:, None]], 1).astype(np.uint8)
    steps, scales = _codebook(scene.scales)
    colors, color = _codebook(scene.sh0)
    alpha = np.rint(alpha_of(scene.opacity) * 255)[:, None].astype(np.uint8)
    pictures = {"means_l.webp": np.concatenate([(q & 255).astype(np.uint8), opaque], 1),
                "means_u.webp": np.concatenate([(q >> 8).astype(np.uint8), opaque], 1), "quats.webp": turn,
                "scales.webp": np.concatenate([scales, opaque], 1), "sh0.webp": np.concatenate([color, alpha], 1)}
    meta: dict[str, Any] = {
        "version": 2, "asset": {"generator": "compand"}, "count": n,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": steps.tolist(), "files": ["scales.webp"]}, "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": colors.tolist(), "files": ["sh0.webp"]}}
    packed = {name: _picture(rgba, width) for name, rgba in pictures.items()}
    if scene.degree and n:
        k = scene.sh_rest.shape[1] // 3
        count = min(palette, max(1, 1 << int(np.log2(n)) if n >= 1024 else n), n)
        centers, label = kmeans(scene.sh_rest, count, iterations=iterations)[:2]
        values, entry = _codebook(centers)
        rgb = entry.reshape(-1, 3)
        packed["shN_centroids.webp"] = _picture(np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], 1), WIDE * k)
        ids = np.asarray(label).astype(np.uint16)
        packed["shN_labels.webp"] = _picture(np.stack([ids & 255, ids >> 8, ids * 0, ids * 0 + 255], 1).astype(np.uint8), width)
        meta["shN"] = {"count": len(centers), "bands": scene.degree, "codebook": values.tolist(),
                       "files": ["shN_centroids.webp", "shN_labels.webp"]}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as z:
        for name, data in [("meta.json", json.dumps(meta).encode()), *packed.items()]:
            z.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
