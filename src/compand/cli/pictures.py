"""Pictures on the command line: told apart from other files, compared by PSNR, MS-SSIM and SSIMULACRA2, shown under a slider."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arrays import is_cpd, size_on_disk
from .console import command_line, console, short, size

if TYPE_CHECKING:
    import numpy as np

    from ..modality.image import Pixels


def is_picture(path: Path) -> bool:
    """Whether a path is a picture: by its mark, or by what a .cpd says of itself. Raises `FileNotFoundError`."""
    if path.is_dir():
        return False
    if not is_cpd(path):
        from ..modality.image import format_of

        return format_of(path) is not None
    from ..file import open as open_file

    with open_file(path) as file:
        return file.meta.get("modality") == "image"


def load(path: Path, conceal: bool = False) -> tuple[Pixels, dict[str, float]]:
    """The picture of a path, and the shares of it that were lost, if damage is to be concealed. Raises `FormatError`."""
    from ..modality import image

    if is_cpd(path):
        from ..file import open as open_file

        with open_file(path) as file:
            if conceal:
                pixels, gone = image.conceal(file)
                return pixels, shares_lost(gone, file[image.ENTRY].codec.stage.name)
            return image.from_file(file), {}
    return image.Picture(path).pixels, {}


def shares_lost(gone: np.ndarray, stage: str) -> dict[str, float]:
    """What `conceal` could not use, as shares: of indexes, or of coarse parts and of details of tiles."""
    n = max(len(gone), 1)
    if stage == "tokens":
        return {"indexes": float(gone.sum() / max(gone.size, 1))}
    return {"tiles": float(gone[:, 0].sum() / n), "details": float((gone[:, 1] & ~gone[:, 0]).sum() / n)}


def lost_words(lost: dict[str, float]) -> str:
    """The sentence about them."""
    if "indexes" in lost:
        return f"{lost['indexes']:.1%} of the indexes were lost; their squares are foretold from those around"
    return (f"{lost['tiles']:.1%} of the tiles were lost and are restored from their neighbours, "
            f"{lost['details']:.1%} lost their details only")


def compare(a: Path, b: Path, conceal: bool = False) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The dict that `--json` prints, and both pictures; ``conceal``: of b in spite of damage.

    Raises `InputError` if they differ in size or channels."""
    from ..errors import InputError
    from ..metric import ms_ssim, psnr, ssimulacra2

    (first, _), (second, lost) = load(a), load(b, conceal)
    x, y = first.color, second.color
    if x.shape != y.shape or x.dtype != y.dtype:
        raise InputError(f"cannot compare pictures of {x.dtype} {list(x.shape)} and {y.dtype} {list(y.shape)}")
    peak = 65535.0 if x.dtype == "uint16" else 255.0
    pixels = x.shape[0] * x.shape[1]
    found = {"psnr": psnr(x, y, peak=peak), "ms_ssim": ms_ssim(x, y, peak=peak), "ssimulacra2": ssimulacra2(x, y),
             "exact": bool((x == y).all())}
    if first.alpha is not None or second.alpha is not None:
        one, two = (p.alpha if p.alpha is not None else None for p in (first, second))
        found["alpha_exact"] = one is not None and two is not None and bool((one == two).all())
    total = {"bytes_a": size_on_disk(a), "bytes_b": size_on_disk(b), "ratio": size_on_disk(a) / max(size_on_disk(b), 1),
             "width": x.shape[1], "height": x.shape[0], "bits_per_pixel": 8 * size_on_disk(b) / pixels}
    return {"a": str(a), "b": str(b), "modality": "image", "total": total, "quality": found} | ({"lost": lost} if lost else {}), x, y


def _lines(result: dict) -> list[tuple[str, str]]:
    q, out = result["quality"], []
    out.append(("PSNR", "∞ dB" if q["exact"] else f"{q['psnr']:.2f} dB"))
    out.append(("MS-SSIM", f"{q['ms_ssim']:.5f}" if q["ms_ssim"] is not None else "- (a side is too short)"))
    if q["ssimulacra2"] is not None:
        out.append(("SSIMULACRA2", f"{q['ssimulacra2']:.1f}"))
    if "alpha_exact" in q:
        out.append(("alpha", "exact" if q["alpha_exact"] else "differs"))
    out += [(f"lost {what}", f"{share:.1%}") for what, share in result.get("lost", {}).items()]
    return out


def show(result: dict) -> None:
    """Print a comparison."""
    t = result["total"]
    for name, value in _lines(result):
        console().print(f"{name:<12} [bold]{value}[/]")
    console().print(f"{size(t['bytes_a'])} → {size(t['bytes_b'])}, {short(t['ratio'])}x, {t['width']} x {t['height']} pixels, "
                    f"{short(t['bits_per_pixel'])} bits/pixel")


def report(result: dict, x: np.ndarray, y: np.ndarray) -> str:
    """The HTML report: figures, and both pictures under a slider."""
    import numpy as np

    from ..report import Page, table, tiles
    from ..report.picture import PAIR, pair

    t = result["total"]
    a, b = Path(result["a"]).name, Path(result["b"]).name
    page = Page(f"{a} against {b}", f"{t['width']} x {t['height']} pixels. Rates count every byte of the file.", command_line())
    page.add(tiles([("before", size(t["bytes_a"])), ("after", size(t["bytes_b"])), ("bits per pixel", short(t["bits_per_pixel"])),
                    *_lines(result)]))
    eight = [np.ascontiguousarray(p if p.dtype == np.uint8 else p >> 8) for p in (x, y)]
    page.section("Pictures", PAIR + pair(*eight, a, b), f"Left of the line {a}, right of it {b}; drag the line.")
    page.section("Figures", table(("figure", "value"), _lines(result), code=()))
    return page.html()
