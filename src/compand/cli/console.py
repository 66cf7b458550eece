"""What verbs say and how: results on stdout, words on stderr, colour and progress only on a terminal."""

from __future__ import annotations

import atexit
import json
import math
import os
import re
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import typer

from ..errors import OverwriteError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def fail(message: str, hint: str = "") -> None:
    """One red line on stderr (and what to do, if known)."""
    head, _, rest = message.partition("\n")
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    print(f"\033[1;31mcompand: {head}\033[0m" if colour else f"compand: {head}", file=sys.stderr)
    for line in (rest, hint):
        if line:
            print(line, file=sys.stderr)


def note(message: str, quiet: bool = False) -> None:
    """A remark on stderr, unless quiet."""
    if not quiet:
        print(f"compand: {message}", file=sys.stderr)


def usage(message: str) -> typer.BadParameter:
    """An error of usage: exit code 2."""
    return typer.BadParameter(message)


def size_of(text: str) -> int:
    """Bytes of '10MiB', '10MB', '1.5GB', '700k' or '1234'. A bare k, m, g counts in thousands, so that a limit is kept
    under either reading. Raises a usage error.

    >>> size_of("10MiB"), size_of("10MB"), size_of("1.5k")
    (10485760, 10000000, 1500)
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not found or found[2] not in UNITS:
        raise usage(f"{text!r} is not a size; write it as 10MB, 10MiB or a number of bytes")
    return int(float(found[1]) * UNITS[found[2]])


def size(n: float) -> str:
    """Bytes for people: '10.5 MB' (powers of a thousand).

    >>> size(999), size(10_485_760)
    ('999 B', '10.49 MB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.0f} B" if unit == "B" else f"{n:.4g} {unit}"
        n /= 1000
    raise AssertionError


def short(value: float) -> str:
    """A measured number in three or four digits; 0 only if it is exactly that."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return "0" if value == 0 else f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"


def put_json(value: Any) -> None:
    """Machine-readable result on stdout; infinite and undefined numbers become null."""
    typer.echo(json.dumps(_plain(value), indent=1, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def console():
    """rich's console on stdout; wide and plain where stdout is not a terminal."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 176)


_folders: set[Path] = set()  # where this process writes


def sweep() -> None:
    """Remove unfinished files of this process, for an interrupt that came between making one and guarding it."""
    mark = f".{os.getpid()}."
    for path in (p for folder in _folders for p in folder.glob(".*") if mark in p.name and p.suffix in (".tmp", ".fit")):
        path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def target(path: Path, force: bool) -> Path:
    """The path to write, checked before any work is done: not there yet (or force), in a folder that is there."""
    if path.exists() and not force:
        raise OverwriteError(f"{path} exists; give -f to overwrite it, or another name with -o")
    if not path.parent.is_dir():
        raise FileNotFoundError(2, "no such folder", str(path.parent))
    _folders.add(path.parent)
    return path


def arrived(path: Path) -> Path:
    """The path; for ``-`` that of a temporary file with what standard input gives, removed when the process ends."""
    if str(path) != "-":
        return path
    if sys.stdin.isatty():
        fail("will not read data from a terminal", "send it in with < or |, or name a file")
        raise typer.Exit(1)
    folder = tempfile.TemporaryDirectory(prefix="compand-")
    atexit.register(folder.cleanup)
    path = Path(folder.name, "stdin")
    with open(path, "wb") as f:
        shutil.copyfileobj(sys.stdin.buffer, f, 1 << 20)
    return path


def write_text(path: Path, text: str, force: bool = True) -> None:
    """Write a report whole or not at all."""
    temporary = target(path, force).with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def command_line() -> str:
    """The command as it was typed, for reports."""
    import shlex

    return shlex.join(["compand", *sys.argv[1:]])


class Progress:
    """A bar on stderr with speed and time left, shown once the work has taken two seconds, and only on a terminal.

    ``add(n)`` says that n of ``total`` bytes are done, ``reach(now, total)`` how far work of another unit has come.
    """

    def __init__(self, total: int, what: str, quiet: bool = False):
        self.total, self.what, self.done = max(total, 1), what, 0
        self.bar: Any = None
        self.task: Any = None
        self.clock = threading.Timer(2, self._show) if not quiet and sys.stderr.isatty() else None
        self.lock = threading.Lock()

    def __enter__(self):
        if self.clock:
            self.clock.daemon = True
            self.clock.start()
        return self

    def __exit__(self, *_):
        with self.lock:
            if self.clock:
                self.clock.cancel()
            self.clock = None
            if self.bar:
                self.bar.stop()

    def add(self, n: int, what: str | None = None) -> None:
        """n more bytes are done, and what comes next."""
        self._at(self.done + n, self.total, what)

    def set(self, done: int, what: str | None = None) -> None:
        """``done`` bytes of all are done, and what comes next."""
        self._at(done, self.total, what)

    def reach(self, now: int, total: int, what: str | None = None, *, unit: int = 1 << 20) -> None:
        """``now`` of ``total`` steps are done, each shown as so many bytes, and what comes next."""
        self._at(now * unit, max(total, 1) * unit, what)

    def _at(self, done: int, total: int, what: str | None) -> None:
        with self.lock:
            self.done, self.total, self.what = done, total, what or self.what
            if self.bar:
                self.bar.update(self.task, description=self.what, total=total, completed=min(done, total))

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, SpinnerColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        with self.lock:
            if self.clock is None:  # all is done
                return
            self.bar = Bar(SpinnerColumn("line"), TextColumn("{task.description}", markup=False),
                           BarColumn(complete_style="cyan", finished_style="green"), DownloadColumn(), TransferSpeedColumn(),
                           TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=self.total, completed=min(self.done, self.total))
