"""Pictures on the command line: rates that are met, restored, compared, damaged."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import compand

pytest.importorskip("PIL")


@pytest.fixture
def photo(there):
    from compand.modality.image import write

    y, x = np.mgrid[:256, :320]
    rng = np.random.default_rng(0)
    z = 120 + 50 * np.sin(x / 31)[..., None] + 40 * np.cos(y / 17 + x / 50)[..., None] * [1, 0.8, 0.5] + rng.normal(0, 6, (256, 320, 1))
    write("photo.png", np.rint(z.clip(0, 255)).astype(np.uint8))
    return "photo.png"


def test_there_and_back(ok, photo):
    said = ok("compress", photo)
    assert "bits/pixel" in said and "PSNR" in said and "image" in said
    ok("decompress", "photo.png.cpd", "-o", "back.png")
    found = json.loads(ok("eval", photo, "back.png", "--json"))
    assert found["quality"]["psnr"] > 30 and found["quality"]["ms_ssim"] > 0.8


@pytest.mark.parametrize("bpp", [0.3, 1.0])
def test_bits_a_pixel_are_met(ok, photo, bpp):
    got = json.loads(ok("compress", photo, "--bpp", bpp, "--json", "-o", "a.cpd"))
    assert 0.85 * bpp < got["bits_per_pixel"] <= bpp and got["bytes_out"] == Path("a.cpd").stat().st_size


def test_size_quality_and_tiles(ok, run, photo):
    ok("compress", photo, "--size", "6k", "-o", "a.cpd")
    assert 4500 < Path("a.cpd").stat().st_size <= 6000
    low, high = (json.loads(ok("compress", photo, "--quality", q, "--tile", 64, "--json", "-o", f"{q}.cpd")) for q in (30, 70))
    assert low["psnr"] + 3 < high["psnr"] and low["bytes_out"] < high["bytes_out"] and "tile=64" in low["spec"]
    refused = run("compress", photo, "--size", "300", "-o", "b.cpd")
    assert refused.exit_code == 1 and "lowest quality" in refused.stderr and not Path("b.cpd").exists()
    kept = Path("a.cpd").read_bytes()
    assert run("compress", photo, "--size", "300", "-f", "-o", "a.cpd").exit_code == 1 and Path("a.cpd").read_bytes() == kept
    assert not list(Path().glob(".*.fit"))
    assert run("compress", photo, "--max-error", "0.1", "-o", "b.cpd").exit_code == 1


def test_info_tells_bits_by_stage(ok, photo):
    ok("compress", photo, "image:20", "-o", "a.cpd")
    groups = json.loads(ok("info", "a.cpd", "--json"))["bytes_by_group"]
    assert groups["coarse"] > 0 and groups["details"] > groups["tiles"] > 0
    assert "details" in ok("info", "a.cpd")
    for spread in (1, 3):
        ok("compress", photo, f"tokens:3:spread={spread}", "-f", "-o", "a.cpd")
        facts = json.loads(ok("info", "a.cpd", "--json"))
        stages = [facts["bytes_by_group"][f"stage {i}"] for i in (1, 2, 3)]
        assert min(stages) > 0 and sum(stages) == facts["entries"][0]["bytes"]
    data = bytearray(Path("a.cpd").read_bytes())
    with compand.open("a.cpd") as file:
        at = data.index(file["image"].unchecked("ids1").tobytes())
    data[at] ^= 255
    Path("a.cpd").write_bytes(data)
    assert "symbols" in ok("info", "a.cpd")


def test_report(ok, photo):
    ok("compress", photo, "-o", "a.cpd")
    ok("eval", photo, "a.cpd", "--html", "r.html")
    page = Path("r.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "MS-SSIM" in page and not re.search(r"https?://|<script", page)


def test_damage_is_concealed_on_request(ok, run, photo):
    ok("compress", photo, "--tile", 64, "--quality", 60, "-o", "a.cpd")
    data = bytearray(Path("a.cpd").read_bytes())
    at = data.index(b'{"meta"') - 300
    data[at] ^= 255
    Path("b.cpd").write_bytes(data)
    refused = run("decompress", "b.cpd", "-o", "b.png")
    assert refused.exit_code == 1 and "--conceal" in refused.stderr
    assert run("decompress", "b.cpd", "--conceal", "--rows", "0:9", "-o", "b.png").exit_code == 2
    assert run("decompress", "b.cpd", "--conceal", "-o", "b.png").exit_code == 0
    found = json.loads(ok("eval", photo, "b.png", "--json"))
    assert found["quality"]["psnr"] > 25


def test_lost_tokens_are_told_and_measured(ok, run, photo):
    ok("compress", photo, "tokens:4:model=tokens3:spread=10", "-o", "a.cpd")
    with compand.open("a.cpd") as file:
        spots = [file._container.offset(i) for i in (2, 7)]
    data = bytearray(Path("a.cpd").read_bytes())
    for spot in spots:
        data[spot] ^= 255
    Path("b.cpd").write_bytes(data)
    refused = run("decompress", "b.cpd", "-o", "b.png")
    assert refused.exit_code == 1 and "--conceal" in refused.stderr
    assert "of the indexes were lost" in run("decompress", "b.cpd", "--conceal", "-o", "b.png").stderr
    lost = json.loads(ok("decompress", "b.cpd", "--conceal", "-f", "-o", "b.png", "--json"))["lost"]["indexes"]
    assert 0.15 < lost < 0.25
    whole, found = (json.loads(ok("eval", photo, name, "--conceal", "--json")) for name in ("a.cpd", "b.cpd"))
    assert whole["lost"] == {"indexes": 0} and found["lost"] == {"indexes": lost}
    assert whole["quality"]["psnr"] - 3 < found["quality"]["psnr"] < whole["quality"]["psnr"]
    assert json.loads(ok("eval", photo, "b.png", "--json"))["quality"]["psnr"] == found["quality"]["psnr"]
    assert "lost indexes" in ok("eval", photo, "b.cpd", "--conceal")
    assert run("eval", "a.npy", "b.npy", "--conceal").exit_code != 0


def test_tiles_do_not_undo_what_was_asked_for(run, photo):
    for words, said in (("--lossless", "leave it out"), ("image:20", "tile=")):
        refused = run("compress", photo, words, "--tile", 64, "-o", "a.cpd")
        assert refused.exit_code == 2 and said in refused.stderr and not Path("a.cpd").exists()


def test_lossless_and_kept(ok, photo):
    assert "exact" in ok("compress", photo, "--lossless", "-o", "a.cpd")
    ok("decompress", "a.cpd", "-o", "b.png")
    assert json.loads(ok("eval", photo, "b.png", "--json"))["quality"]["exact"]
    assert "bits/pixel" in ok("compress", photo, "--keep", "-o", "c.cpd")


def test_tokens(ok, photo):
    said = ok("compress", photo, "tokens:4", "-o", "a.cpd")
    assert "PSNR" in said and "tokens" in said
    ok("decompress", "a.cpd", "-o", "b.png")
    assert json.loads(ok("eval", photo, "b.png", "--json"))["quality"]["psnr"] > 24
