"""The command line: one file a verb. Needs the extra `cli` (typer and rich), which nothing else imports."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``compand`` and ``python -m compand``; ends the process with 0 (ok), 1 (error) or 2 (usage)."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as e:
        print(f"the compand command needs {e.name}: pip install 'compand[cli]'", file=sys.stderr)
        sys.exit(2)
    from .app import run

    run()
