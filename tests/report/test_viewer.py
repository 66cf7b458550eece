"""The page of a scene: what is in it, and in a headless browser, what it shows."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

import compand
from compand.metric import psnr
from compand.op.render import Camera, Renderer
from compand.report.viewer import splat_page

STATE = "document.body?.dataset.state"


def scene(n=300, degree=3, seed=0):
    g = np.random.default_rng(seed)
    f = {"positions": g.normal(7, 1, (n, 3)), "scales": g.normal(-1.8, 0.6, (n, 3)), "rotations": g.normal(0, 1, (n, 4)),
         "opacity": g.normal(0, 2, n), "sh0": g.normal(0, 1, (n, 3)), "sh_rest": g.normal(0, 0.15, (n, 3 * ((degree + 1) ** 2 - 1)))}
    return SimpleNamespace(**{name: x.astype(np.float32) for name, x in f.items()})


def test_page_asks_for_nothing_from_outside():
    html = splat_page(scene(), "a <b>&\"'</script>", ["1 < 2"])
    assert "<b>&" not in html.split('id="facts"')[0] and "1 &lt; 2" in html
    assert "default-src 'none'" in html and not re.search(r"<link|<img|@import|src=|url\(http", html.split('<script type="module">')[0])
    assert html.lower().count("</script") == 3
    assert "Permission is hereby granted, free of charge" in html and html.count("Copyright ©") >= 2


@pytest.mark.parametrize("degree", range(5))
def test_pages_of_any_degree(degree):
    s = scene(50, degree)
    s.positions[3], s.scales[4, 1] = np.nan, np.inf
    assert '"splats": 48' in splat_page(s, "x")
    s.sh_rest[:] = 0
    assert '"sh": []' in splat_page(s, "x")


def test_no_scene():
    with pytest.raises(compand.InputError, match="no splats"):
        splat_page(scene(0), "x")


@pytest.mark.parametrize("degree", [0, 3])
def test_browser_shows_what_we_draw(browser, tmp_path, degree):
    s = scene(degree=degree)
    camera = Camera.at((8, 5, 1), (7, 7, 7), 320, 240)
    path = tmp_path / "scene.html"
    path.write_text(splat_page(s, "scene", camera=camera).replace('id="panel"', 'id="panel" hidden'), encoding="utf-8")
    browser.size(320, 240)
    found = browser.open(f"{path.as_uri()}#still", STATE, ("ready", "failed"))
    assert found == "ready", browser.said()
    assert browser.requested() == [path.as_uri()] and browser.said() == []
    shown = browser.picture() / 255
    own = Renderer(s)(camera).image.clip(0, 1)
    assert own.std() > 0.1 and psnr(shown, own) > 25, psnr(shown, own)


def test_browser_says_what_is_wrong(browser, tmp_path):
    path = tmp_path / "broken.html"
    path.write_text(splat_page(scene(), "scene").replace('"splats": 300', '"splats": 3000000'), encoding="utf-8")
    assert browser.open(path.as_uri(), STATE, ("ready", "failed")) == "failed"
    assert "cannot be shown" in browser.run("document.getElementById('message').textContent")
