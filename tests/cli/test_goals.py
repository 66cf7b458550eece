"""Goals are kept by the bytes that are really written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("goal, most", [(("--bits", 4), 4 * 28800 / 8), (("--size", "12KiB"), 12288), (("--ratio", 6), 115_328 / 6)])
def test_sizes_of_embeddings(ok, npy, goal, most):
    made = json.loads(ok("compress", npy, *goal, "-o", "a.cpd", "--json"))
    assert 0.4 * most < made["bytes_out"] == Path("a.cpd").stat().st_size <= most


@pytest.mark.parametrize("error", [0.2, 0.05, 0.001, 1e-9])
def test_errors_of_embeddings(ok, npy, error):
    assert json.loads(ok("compress", npy, "--max-error", error, "--json"))["relative_error"] <= error


def test_a_tighter_size_costs_more_error(ok, npy):
    found = [json.loads(ok("compress", npy, "--bits", b, "-f", "--json")) for b in (2.5, 4, 6.5)]
    assert found[0]["relative_error"] > found[1]["relative_error"] > found[2]["relative_error"]


def test_bytes_are_shared_among_tensors(ok, model):
    pytest.importorskip("scipy")
    made = json.loads(ok("compress", model, "--bits", 5, "-o", "a.cpd", "--json"))
    assert made["bits_per_value"] <= 5
    lossy = [a for a in made["arrays"] if a["name"].startswith("h.")]
    assert all(0 < a["relative_error"] < 0.2 for a in lossy)
    assert all(a["relative_error"] == 0 for a in made["arrays"] if a not in lossy)
    each = json.loads(ok("compress", model, "--max-error", 0.03, "-o", "b.cpd", "--json"))
    assert all(a["relative_error"] <= 0.03 for a in each["arrays"])


def test_the_solver_does_not_speak_amid_json(model):
    pytest.importorskip("scipy")
    script = ("import os, scipy.optimize as o\n"
              "solve = o.milp\n"
              "def milp(*a, **k):\n    os.write(1, b'HighsMipSolverData: a remark\\n')\n    return solve(*a, **k)\n"
              "o.milp = milp\n"
              "from compand.cli.app import app\n"
              f"app(['compress', {str(model)!r}, '--bits', '5', '-o', 'a.cpd', '--json'])")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["bits_per_value"] <= 5


def test_without_scipy_it_says_what_to_install(run, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    result = run("compress", model, "--bits", 5)
    assert result.exit_code == 1 and "compand[fit]" in result.stderr
