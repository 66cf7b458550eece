"""The bar: it follows work whose size is known only once it has begun."""

import io
import sys

from compand.cli.console import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_follows_totals_that_come_later(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(1, "fit") as bar:
        bar._show()  # as after two seconds
        task = bar.bar.tasks[0]
        bar.reach(2, 4, "layer 2")
        assert (task.total, task.completed, task.description) == (4 << 20, 2 << 20, "layer 2")
        bar.add(1 << 20)
        assert task.completed == 3 << 20


def test_no_bar_where_nobody_looks(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress(1, "fit") as bar:
        bar.reach(3, 4)
        assert bar.bar is None and bar.clock is None and bar.done == 3 << 20
