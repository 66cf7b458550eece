"""A Hugging Face model folder: sharded safetensors, and every other file kept as it is."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from ..errors import FormatError, InputError
from ..limits import DEFAULT, Limits
from .safetensors import Safetensors

SKIPPED = {".git", ".cache", "__pycache__"}  # folders of tools, not of the model
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def safe_path(root, name: str) -> Path:
    """root / name for a stored name; `FormatError` if that could leave the root folder."""
    parts = PurePosixPath(name).parts
    if not name or name.startswith("/") or set(name) & set("\\\0:") or {"..", "."} & set(name.split("/")):
        raise FormatError(f"{name!r} cannot be a file inside a folder")
    return Path(root, *parts)


def files_of(root: Path, limits: Limits = DEFAULT) -> dict[str, Path]:
    """Every file under root by its relative name, sorted. Links must stay inside (or in the hub cache's blobs)."""
    real = root.resolve()
    allowed = [real]
    if real.parent.name == "snapshots":  # the layout of the hub cache: snapshots/REVISION/file -> ../../blobs/HASH
        allowed.append(real.parent.parent / "blobs")
    found: dict[str, Path] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in SKIPPED and not Path(folder, f).is_symlink())
        for name in names:
            path = Path(folder, name)
            target = path.resolve()
            if not any(target.is_relative_to(a) for a in allowed):
                raise InputError(f"{path} is a link to {target}, outside of the folder; copy the file into the folder first")
            if target.is_file():
                found[path.relative_to(root).as_posix()] = path
        limits.check("entries", len(found), f"files in {root}")
    return dict(sorted(found.items()))


class Folder(Safetensors):
    """An opened model folder."""

    format = "hf"

    def __init__(self, path, limits: Limits = DEFAULT):
        root = Path(path)
        files = files_of(root, limits)
        shards = {name: p for name, p in files.items() if name.endswith(".safetensors")}
        if not shards:
            raise FormatError(f"{root}: a folder without .safetensors files; it holds {', '.join(list(files)[:8]) or 'nothing'}")
        super().__init__(root, shards)
        others = {name: p for name, p in files.items() if name not in shards}
        self.files |= others
        self.meta["files"] = list(others)
        pickled = [name for name in others if name.endswith(PICKLED)]
        if pickled:
            self.notes.append(f"{', '.join(pickled[:4])}: pickled weights are kept as bytes, not opened; "
                              "convert them to safetensors to compress them well")
