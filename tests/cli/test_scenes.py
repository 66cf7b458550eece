"""Scenes of splats: eval by attributes and pictures, view as a page."""

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from compand.cli.view import Server
from compand.modality.splats import Splats, write
from compand.op.render import Camera


@pytest.fixture
def scenes(there):
    g = np.random.default_rng(0)
    n = 400
    a = Splats(positions=g.normal(0, 1, (n, 3)), scales=g.normal(-2, 0.5, (n, 3)), rotations=g.normal(0, 1, (n, 4)),
               opacity=g.normal(1, 2, n), sh0=g.normal(0, 1, (n, 3)), sh_rest=g.normal(0, 0.1, (n, 9)))
    b = Splats(**{**a.arrays(), "sh0": a.sh0 + g.normal(0, 0.05, (n, 3))})
    write("a.ply", a)
    write("b.ply", b)
    write("few.ply", b.take(slice(0, 300)))


def test_eval(ok, scenes):
    said = ok("eval", "a.ply", "b.ply", "--views", "4", "--width", "96", "--html", "r.html")
    assert "4 views: PSNR" in said and "400 splats" in said and "RMS" in said
    page = Path("r.html").read_text()
    assert page.count('class="pair"') == 4 and page.count("data:image/png;base64,") == 8 and "worst view" in page
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)


def test_eval_json(ok, scenes):
    found = json.loads(ok("eval", "a.ply", "b.ply", "--views", "3", "--width", "96", "--json", "-q"))
    assert found["modality"] == "splats" and len(found["render"]["views"]) == 3
    assert 25 < found["render"]["psnr_min"] < found["render"]["psnr"] < 60 and found["attributes"]["sh0"] == pytest.approx(0.05, rel=0.1)
    assert found["total"]["splats"] == 400 and not found["total"]["exact"]
    same = json.loads(ok("eval", "a.ply", "a.ply", "--views", "2", "--width", "96", "--json", "-q"))
    assert same["total"]["exact"] and same["render"]["psnr"] is None and same["render"]["ssim"] == 1
    assert "∞ dB" in ok("eval", "a.ply", "a.ply", "--views", "2", "--width", "96")
    few = json.loads(ok("eval", "a.ply", "few.ply", "--views", "2", "--width", "96", "--json", "-q"))
    assert (few["attributes"]["splats_a"], few["attributes"]["splats_b"]) == (400, 300) and few["attributes"]["matched"] == "nearest"


def test_eval_from_given_cameras(ok, scenes):
    c = Camera.at((0, 0, -4), (0, 0, 0), 80, 60)
    row = {"id": 0, "img_name": "first", "width": 80, "height": 60, "position": c.position.tolist(), "rotation": c.view[:, :3].T.tolist(),
           "fx": c.fx, "fy": c.fy}
    Path("cameras.json").write_text(json.dumps([row, row | {"img_name": "second"}]))
    for width, expected in ((0, 80), (40, 40)):
        found = json.loads(ok("eval", "a.ply", "b.ply", "--cameras", "cameras.json", "--width", str(width), "--json", "-q"))
        assert [(v["camera"], v["width"]) for v in found["render"]["views"]] == [("first", expected), ("second", expected)]


def test_view(ok, run, scenes, npy):
    def fails(*words):
        wrong = run(*words)
        assert wrong.exit_code == 1 and "fault of compand" not in wrong.stderr
        return wrong.stderr

    ok("view", "a.ply", "-o", "v.html")
    page = Path("v.html").read_text()
    assert "400 splats, harmonics of degree 1" in page and '"splats": 400' in page
    assert "exists" in fails("view", "a.ply", "-o", "v.html")
    assert "not a scene of splats" in fails("view", npy, "-o", "w.html") and not Path("w.html").exists()
    ok("view", "a.ply", "-o", "up.html", "--up", "0,0,1")
    assert '"up": [0.0, 0.0, 1.0]' in Path("up.html").read_text()
    assert all(run("view", "a.ply", "-o", "no.html", "--up", up).exit_code == 2 for up in ("0,0", "0,0,0", "x", "nan,0,1"))
    Path("broken.ply").write_bytes(b"ply\nformat")
    assert "broken.ply" in fails("view", "broken.ply", "-o", "w.html")


def test_view_serves_until_interrupted(scenes):
    process = subprocess.Popen([sys.executable, "-m", "compand", "view", "a.ply", "--no-browser"], stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # a shell's & ignores it
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address, timeout=20) as answer:
            assert b"400 splats" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0 and process.stderr.read() == ""
    finally:
        process.kill()
        process.stderr.close()


def test_server_answers_this_machine_only():
    with Server("<p>page</p>", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address, timeout=10) as answer:
            assert answer.read() == b"<p>page</p>" and answer.headers["Content-Type"] == "text/html; charset=utf-8"
        for request in (address + "etc/passwd", urllib.request.Request(address, headers={"Host": "elsewhere.example"})):
            with pytest.raises(urllib.error.HTTPError) as e:
                opener.open(request, timeout=10)
            assert e.value.code == 404
            e.value.close()
        server.shutdown()


def test_compressed_scenes(ok, scenes):
    ok("compress", "a.ply", "-o", "a.cpd", "-q")
    ok("compress", "a.ply", "-o", "exact.cpd", "--lossless", "-q")
    lossy, exact = (json.loads(ok("eval", "a.ply", b, "--views", "3", "--width", "96", "--json", "-q")) for b in ("a.cpd", "exact.cpd"))
    assert 30 < lossy["render"]["psnr"] < 80 and lossy["total"]["bytes_b"] < exact["total"]["bytes_b"] < lossy["total"]["bytes_a"]
    assert exact["render"]["psnr_min"] is None and exact["render"]["ssim"] == 1  # no difference at all
    assert exact["attributes"]["position"]["max"] == exact["attributes"]["sh"] == 0
    ok("view", "a.cpd", "-o", "v.html", "-q")
    assert "400 splats" in Path("v.html").read_text()
