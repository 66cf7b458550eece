"""The verbs under one roof, and what happens when one fails: one line in words, an exit code, no traceback."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from typing import NoReturn

import typer
from typer.core import TyperGroup

from ..errors import CompandError
from .console import fail, sweep

VERBS = ("compress", "decompress", "transcode", "refit", "merge-lora", "info", "verify", "search", "add", "delete", "compact", "eval",
         "view", "run", "bench", "specs", "demo")
_LESS = "take a part of it, fewer threads (-T 1), or of a model fewer bits or a shorter --context"


class Verbs(TyperGroup):
    """The group of verbs: turns every foreseeable failure into one line on stderr and exit code 1."""

    def list_commands(self, ctx):
        return list(VERBS)

    def invoke(self, ctx):
        if os.environ.get("COMPAND_DEBUG") == "1":
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except CompandError as e:
            fail(str(e))
            code = 1
        except BrokenPipeError:  # the reader of our pipe left: nothing to say, and nobody to say it to
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except SystemExit:
            sweep()
            raise
        except KeyboardInterrupt:
            sweep()
            fail("interrupted; nothing was left behind")
            code = 130
        except MemoryError:
            fail("out of memory", _LESS)
            code = 1
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                fail("the disk is full; the unfinished file was removed", "free some space, or write elsewhere with -o")
            elif e.errno == errno.ENOMEM:
                fail("out of memory", _LESS)
            else:
                fail(f"{e.filename + ': ' if isinstance(e.filename, str) else ''}{e.strerror or e}")
            code = 1
        except Exception as e:
            if type(e).__module__.partition(".")[0] in ("typer", "click"):  # usage errors and exits are typer's to tell
                raise
            fail(f"a fault of compand, sorry: {type(e).__name__}: {e}", "please report it with what COMPAND_DEBUG=1 prints")
            code = 1
        raise typer.Exit(code)


app = typer.Typer(cls=Verbs, name="compand", no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
                  pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"compand {__version__}")
        raise typer.Exit()


@app.callback(epilog="Help on a verb: [bold]compand VERB --help[/]. Exit codes: 0 done, 1 failed or damaged, 2 wrong usage, 130 "
                     "interrupted. Set COMPAND_DEBUG=1 to see tracebacks.")
def _root(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version.")) -> None:
    """Compress embeddings, model weights, pictures and splats into small codes; get them back; look inside; measure what was lost.

    [bold]compand compress vectors.npy -o vectors.cpd[/]        embeddings, 4x smaller
    [bold]compand compress model.safetensors --lossless[/]      weights, bit for bit
    [bold]compand decompress model.cpd -o model.safetensors[/]  and back
    """


for _verb in VERBS:
    importlib.import_module(f".{_verb.replace('-', '_')}", __package__).add(app)


def _terminate(*_) -> NoReturn:
    raise SystemExit(143)  # unwinds, so that unfinished files are removed


def run() -> None:
    """Run the command line of this process."""
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, _terminate)
    app(prog_name="compand")
