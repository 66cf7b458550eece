"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, OverwriteError

_RESERVED = 1 << 20  # bytes; smaller files are just written


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")


def _reserve(f, size: int) -> None:
    try:
        os.posix_fallocate(f.fileno(), 0, size)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


@contextmanager
def whole_file(path, *, overwrite: bool = False, size: int = 0):
    """An open binary file that becomes ``path`` when the block ends well. `OverwriteError` if it exists and may not.

    ``size`` is about how many bytes will be written one after another: a full disk is then told at once, and writing costs less.
    """
    path = Path(path)
    if path.is_dir() or (path.exists() and not overwrite):
        raise OverwriteError(f"{path} exists" + (" and is a folder" if path.is_dir() else "; overwrite=True (-f) replaces it"))
    part = _sibling(path)
    try:
        with open(part, "wb") as f:
            if size > _RESERVED and hasattr(os, "posix_fallocate"):
                _reserve(f, size)
            yield f
            if size:
                f.truncate(f.tell())
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except FileNotFoundError as e:
        raise InputError(f"{path}: {e.strerror}: no such folder") from e
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


@contextmanager
def whole_folder(path, *, overwrite: bool = False):
    """A folder that becomes ``path`` when the block ends well; with overwrite, its files replace those of an old one.

    Other files of the old folder stay, but not weights, which would be taken for the new model's: `OverwriteError` if there are any.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and (overwrite or not any(path.iterdir()))):
        raise OverwriteError(f"{path} exists; overwrite=True (-f) writes into it")
    part = _sibling(path.absolute())
    try:
        part.mkdir()
        yield part
        if not path.exists():
            os.replace(part, path)
        else:
            weights = [p.name for pattern in ("*.safetensors", "*.safetensors.index.json") for p in path.glob(pattern)]
            if stale := sorted(name for name in weights if not (part / name).exists()):
                raise OverwriteError(f"{path} holds {', '.join(stale[:3])}{' …' if len(stale) > 3 else ''}, which the new folder has not "
                                     "and which would be taken for a part of it; remove that, or name another folder")
            for file in sorted(p for p in part.rglob("*") if p.is_file()):
                target = path / file.relative_to(part)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
    except FileNotFoundError as e:
        raise InputError(f"{path}: {e.strerror}: no such folder") from e
    finally:
        shutil.rmtree(part, ignore_errors=True)
