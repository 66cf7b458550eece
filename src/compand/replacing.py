"""A file that replaces another in one step: written beside it, synced, renamed."""

from __future__ import annotations

import os
import re
import shutil
import socket
from pathlib import Path
from typing import BinaryIO

from xxhash import xxh32_hexdigest

from .errors import OverwriteError


class Replacing:
    """A temporary sibling of ``path`` that becomes ``path`` at `commit`: readers see the old file or the whole new one.

    Temporaries of processes of this machine that have died are removed first. Raises `OverwriteError` if the target exists.
    """

    def __init__(self, path: Path, *, overwrite: bool = False):
        self.path, self.overwrite = path, overwrite
        if not overwrite and os.path.lexists(path):
            raise OverwriteError(f"{path} exists; pass overwrite=True to replace it")
        host = xxh32_hexdigest(socket.gethostname().encode())
        stem = f".{path.name[:120]}.{host}."
        _remove_stale(path.parent, stem)
        for attempt in range(100):
            self.temporary = path.with_name(f"{stem}{os.getpid()}.{attempt}.tmp")
            try:
                self.file: BinaryIO = open(self.temporary, "x+b")
                return
            except FileExistsError:
                continue
        raise OverwriteError(f"{path.parent} is full of temporary files of this process")

    def copy_from(self, source: Path, size: int) -> None:
        """Start with the first ``size`` bytes of another file, shared with it where the file system can."""
        with open(source, "rb") as f:
            done = 0
            try:
                while done < size:
                    step = os.copy_file_range(f.fileno(), self.file.fileno(), size - done, done, done)
                    if step == 0:
                        break
                    done += step
            except (OSError, AttributeError):  # another file system, or another system
                pass
            f.seek(done)
            self.file.seek(done)
            if done < size:
                shutil.copyfileobj(f, self.file, 1 << 20)

    def commit(self) -> None:
        """Sync the bytes, put them in place, sync the folder."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if self.overwrite:
            os.replace(self.temporary, self.path)
        else:
            try:
                os.link(self.temporary, self.path)  # unlike a rename, it fails if the target has appeared meanwhile
            except FileExistsError:
                raise OverwriteError(f"{self.path} exists; pass overwrite=True to replace it") from None
            except OSError:  # a file system without links
                os.replace(self.temporary, self.path)
            else:
                os.unlink(self.temporary)
        if os.name == "posix":
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def abort(self) -> None:
        """Remove the temporary; the target stays as it was."""
        try:
            self.file.close()
        except OSError:
            pass  # what could not be flushed is dropped anyway
        self.temporary.unlink(missing_ok=True)


def _remove_stale(folder: Path, stem: str) -> None:
    pattern = re.compile(re.escape(stem) + r"([0-9]{1,10})\.[0-9]+\.tmp")
    for found in folder.iterdir() if folder.is_dir() else ():
        match = pattern.fullmatch(found.name)
        if match and not _alive(int(match[1])):
            found.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
