"""Pictures in a report: PNG without another library, and two of them under a slider."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape

import numpy as np

from ..errors import InputError

PAIR = """<style>
.pair{position:relative;overflow:hidden;border-radius:8px;background:#000;line-height:0;max-width:100%;margin:10px 0}
.pair img{width:100%;height:auto;image-rendering:auto}.pair img+img{position:absolute;inset:0;clip-path:inset(0 0 0 var(--at,50%))}
.pair i{position:absolute;top:0;bottom:0;left:var(--at,50%);width:2px;margin-left:-1px;background:#fff;box-shadow:0 0 3px #000;
pointer-events:none}
.pair input{position:absolute;inset:0;width:100%;height:100%;margin:0;opacity:0;cursor:ew-resize}
.pair span{position:absolute;bottom:8px;padding:3px 9px;border-radius:6px;background:#000a;color:#fff;font-size:12.5px;
line-height:1.4;pointer-events:none}
.pair span:first-of-type{left:8px}.pair span:last-of-type{right:8px}
.pair input:focus-visible~i{outline:2px solid #79a8f5}
</style>"""


def png(image: np.ndarray) -> bytes:
    """A PNG file of uint8 (height, width, 3), or (height, width) for grey. Raises `InputError` for another array.

    >>> png(np.zeros((2, 3, 3), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or not image.size:
        raise InputError(f"a picture is uint8 (height, width) or (height, width, 3), not {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    rows = image.reshape(height, -1)
    lines = np.empty((height, rows.shape[1] + 1), np.uint8)
    lines[:, 0] = 2  # each line as its difference to the one above
    lines[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)) + chunk(b"IEND", b"")


def picture(image: np.ndarray, title: str = "") -> str:
    """An <img> that holds its picture."""
    return (f'<img alt="{escape(title)}" width="{image.shape[1]}" height="{image.shape[0]}" '
            f'src="data:image/png;base64,{base64.b64encode(png(image)).decode()}">')


def pair(a: np.ndarray, b: np.ndarray, left: str, right: str) -> str:
    """Two pictures of one shape on top of each other: a slider shows more of one or of the other. `PAIR` must be on the page once."""
    if a.shape != b.shape:
        raise InputError(f"cannot lay pictures of {list(a.shape)} and {list(b.shape)} on top of each other")
    return (f'<div class="pair" style="width:{a.shape[1]}px">{picture(a, left)}{picture(b, right)}<input type="range" min="0" max="100" '
            f'step="0.1" value="50" aria-label="{escape(left)} or {escape(right)}" '
            """oninput="this.parentNode.style.setProperty('--at',this.value+'%')">"""
            f"<i></i><span>{escape(left)}</span><span>{escape(right)}</span></div>")
