"""compand view: a scene of splats in the browser."""

from __future__ import annotations

import http.server
import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .console import Progress, note, size, target, write_text
from .scenes import UP, direction


def add(app: typer.Typer) -> None:
    """Put the verb on the command line."""
    app.command()(view)


def view(
    file: Annotated[Path, typer.Argument(help="A scene of splats: .cpd, or what compand compresses to one.", show_default=False)],
    out: Annotated[Path | None, typer.Option("-o", "--output", help="Write the page here instead: one file, needs no network.",
                                             show_default=False)] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0: any that is free.")] = 0,
    up: Annotated[str, typer.Option(help="Which way is up in the scene: three numbers.")] = UP,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    force: Annotated[bool, typer.Option("-f", "--force", help="Overwrite.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No remarks.")] = False,
) -> None:
    """Look at a scene of splats: a page that turns around it, until interrupted.

    [bold]compand view scene.cpd[/]
    [bold]compand view scene.ply -o scene.html[/]
    """
    if out:
        target(out, force)
    with Progress(1, "reading the scene", quiet):
        html = page(file, up)
    if out:
        write_text(out, html)
        note(f"wrote {out}, {size(out.stat().st_size)}; open it in a browser", quiet)
        return
    with Server(html, port) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        note(f"{address} shows {file} (interrupt to end)", quiet)
        if browser and (sys.platform != "linux" or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}):  # else it might be one of text
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


def page(file: Path, up: str = UP) -> str:
    """The page of a scene. Raises `InputError` for a file of something else."""
    from ..report.viewer import splat_page
    from .arrays import size_on_disk
    from .scenes import is_scene, load

    if not is_scene(file):
        raise InputError(f"{file} is not a scene of splats; compand info says what it is")
    upward = direction(up)
    scene, n = load(file), size_on_disk(file)
    return splat_page(scene, file.name, [f"{len(scene):,} splats, harmonics of degree {scene.degree}",
                                         f"{size(n)}, {n / max(len(scene), 1):.3g} B/splat"], up=upward)


class Server(http.server.ThreadingHTTPServer):
    """One page for this machine only."""

    daemon_threads = True

    def __init__(self, html: str, port: int):
        self.page = html.encode()
        super().__init__(("127.0.0.1", port), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers / with the page, and nothing to other names for this machine, so that no other site reads it."""

    server: Server

    def do_GET(self) -> None:
        """The page."""
        known = self.headers.get("Host", "").rsplit(":", 1)[0] in ("127.0.0.1", "localhost")
        body = self.server.page if known and self.path.split("?")[0] == "/" else b"not here\n"
        self.send_response(200 if body is self.server.page else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8" if body is self.server.page else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Nothing on the terminal."""
