"""Reports are one file that loads nothing."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

from compand.report import Page, Series, bar_plot, line_plot, table


class Closed(HTMLParser):
    """Every tag that is opened is closed."""

    VOID = {"meta", "br", "wbr"}

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def whole(html):
    parser = Closed()
    parser.feed(html)
    assert parser.open == [] and html.startswith("<!doctype html>")
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(", html)
    return html


def test_eval_and_bench_reports(ok, npy, model):
    ok("compress", npy, "int:3", "-o", "a.cpd")
    ok("eval", npy, "a.cpd", "--html", "e.html", "-q")
    assert "recall@10" in whole(Path("e.html").read_text())
    ok("bench", "int:3", "int:5", "raw", npy, "--html", "b.html", "-q")
    text = whole(Path("b.html").read_text())
    assert "<svg" in text and "int:5" in text and "bits per value" in text
    ok("compress", model, "int:4:group=32", "-o", "m.cpd")
    ok("eval", model, "m.cpd", "--html", "m.html", "-q")
    assert "Largest errors" in whole(Path("m.html").read_text())


def test_reports_are_not_overwritten(ok, run, npy):
    ok("bench", "int:3", npy, "--html", "b.html", "-q")
    assert run("bench", "int:3", npy, "--html", "b.html").exit_code == 1
    ok("bench", "int:3", npy, "--html", "b.html", "-f", "-q")


def test_plots_of_odd_data():
    page = Page("<b>&", "x" * 10, "compand eval 'a b' c")
    for points in ([], [(1, 1, "a")], [(1, 1, "a"), (1, 1, "b")], [(0, 1e-9, ""), (5, 1e9, "<c>")], [(1, math.nan, "n"), (2, 3, "ok")]):
        for log in (False, True):
            page.section("line", line_plot([Series("s", points)] * 3, "x", "y", log_y=log))
    page.section("zero", line_plot([Series("s", [(1, 0.0, "z"), (2, 0.5, "w")])], "x", "y", log_y=True))
    page.section("bars", bar_plot([("a" * 80, [0.0, 0.0]), ("b", [math.nan, 3])], ["one", "two"], unit="B"))
    page.section("none", bar_plot([], []))
    page.section("table", table(["a", "b"], [["<i>", 1.5], ["k", 3]]))
    html = whole(page.html())
    assert "<b>&" not in html and "<i>" not in html and "nan" not in html.lower().replace("unan", "")
