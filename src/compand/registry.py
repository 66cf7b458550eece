"""Names to stage classes: the built-in folders, and the entry points `compand.stages` of other packages."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module, metadata
from pkgutil import iter_modules

from .errors import UnsupportedError

FOLDERS = ("transform", "quantizer", "entropy")
ENTRY_POINTS = "compand.stages"
_stages: dict[str, type] = {}
_loaded = False


def register(cls: type) -> None:
    """Called when a stage class is defined. A name can be taken once."""
    known = _stages.get(cls.name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(f"stage name {cls.name!r} is taken by {known.__module__}.{known.__qualname__}")
    _stages[cls.name] = cls


def _load() -> None:
    global _loaded
    if not _loaded:
        _loaded = True
        for folder in FOLDERS:
            package = import_module(f"compand.{folder}")
            for module in iter_modules(package.__path__):
                import_module(f"compand.{folder}.{module.name}")


@cache
def _points() -> dict[str, metadata.EntryPoint]:
    """What installed packages offer; looking takes tens of milliseconds."""
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


def names() -> list[str]:
    """The names of all stages: built in and offered by installed packages (which are not imported for this)."""
    _load()
    return sorted({*_stages, *_points()})


def builtin() -> dict[str, type]:
    """The built-in stage classes by name, sorted."""
    _load()
    return {name: cls for name, cls in sorted(_stages.items()) if cls.__module__.startswith("compand.")}


def lookup(name: str) -> type:
    """The class of a stage name. Another package's stage is imported when its name is first used.

    Raises `UnsupportedError`, listing near and known names.
    """
    _load()
    if name not in _stages and name in _points():
        _points()[name].load()
    if name not in _stages:
        known = names()
        near = difflib.get_close_matches(name, [n for n in known if n[0] == name[:1]], 1)  # comparing takes long
        raise UnsupportedError(f"unknown stage {name!r}{f', did you mean {near[0]!r}?' if near else ''}; "
                               f"known stages: {', '.join(known)}")
    return _stages[name]
