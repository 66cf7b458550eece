"""Every way compand can refuse: one class a reason, all of them `CompandError`."""

from __future__ import annotations


class CompandError(Exception):
    """Base of every error compand raises on purpose."""


class InputError(CompandError, ValueError):
    """The data given cannot be compressed as asked (NaN, wrong shape, unknown file type...)."""


class FitError(CompandError, ValueError):
    """A stage is not fitted, or cannot be fitted to this data."""


class FormatError(CompandError, ValueError):
    """These bytes are not a file of the kind expected."""


class CorruptError(CompandError, ValueError):
    """The file is damaged: a checksum, a size or a structure is wrong.

    Attributes say where, as far as known: ``path``, ``entry``, ``chunk``, ``offset``.
    """

    def __init__(self, message: str, *, path=None, entry=None, chunk=None, offset=None):
        self.path, self.entry, self.chunk, self.offset = path, entry, chunk, offset
        where = [f"{k} {v!r}" for k, v in (("file", path), ("entry", entry), ("chunk", chunk), ("byte", offset)) if v is not None]
        super().__init__(f"{message} ({', '.join(where)})" if where else message)


class LimitError(CompandError, ValueError):
    """A safety limit was reached; see `compand.Limits` to raise it for sources you trust."""


class UnsupportedError(CompandError, ValueError):
    """The file needs a stage or version this installation lacks."""


class OverwriteError(CompandError, FileExistsError):
    """The target exists and overwriting was not asked for."""


class SpecError(CompandError, ValueError):
    """A spec string cannot be read, or asks for something impossible.

    ``text`` is the spec, ``at`` the index of the fault (None if the spec was built in Python).
    """

    def __init__(self, message: str, text: str | None = None, at: int | None = None, width: int = 1):
        self.text, self.at = text, at
        if text is not None and at is not None:
            message = f"{message}\n  {text}\n  {' ' * at}{'^' * max(1, width)}"
        super().__init__(message)
