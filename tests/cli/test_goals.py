"""Goals are kept by the bytes that are really written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def test_a_recall_is_reached_in_the_fewest_bytes(ok, run, there):
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((3000, 48)) * np.geomspace(1, 0.1, 48)).astype(np.float32)
    np.save("x.npy", x[:2900])
    np.save("q.npy", x[2900:])
    truth = np.argsort(-(x[2900:] @ x[:2900].T), axis=1)[:, :10]
    sizes = []
    for wanted in (0.6, 0.9):
        told = run("compress", "x.npy", "--recall", wanted, "-o", f"{wanted}.cpd")
        assert told.exit_code == 0 and "rows held back among all 2,644 vectors" in told.stderr and "bytes a vector + " in told.stderr
        ok("search", f"{wanted}.cpd", "q.npy", "-o", "ids.npy", "-f")
        found = (np.load("ids.npy")[:, :, None] == truth[:, None, :]).any(1).mean()
        assert wanted - 0.04 < found < wanted + 0.08
        sizes.append(Path(f"{wanted}.cpd").stat().st_size)
    assert sizes[0] < sizes[1]
    ok("compress", "x.npy", "--recall", 0.8, "--queries", "q.npy", "-o", "asked.cpd")
    for words, code, said in ((("--recall", 1.5), 1, "at most 1"), (("--recall", 0.9, "--bytes", 9), 2, "exclude each other"),
                              (("--recall", 1), 1, "not reached")):
        wrong = run("compress", "x.npy", *words, "-o", "w.cpd")
        assert wrong.exit_code == code and said in " ".join(wrong.stderr.split()) and not Path("w.cpd").exists()
    np.save("few.npy", x[:100])
    assert "name the bytes" in run("compress", "few.npy", "--recall", 0.9).stderr


def test_a_budget_says_what_it_takes(run, there):
    x = np.random.default_rng(2).standard_normal((300, 48)).astype(np.float32)
    np.save("x.npy", x)
    told = run("compress", "x.npy", "--bytes", 24, "-o", "x.cpd")
    assert told.exit_code == 0 and "24 bytes a vector + 5.238 kB once" in told.stderr
    np.save("few.npy", x[:20])
    told = run("compress", "few.npy", "--bytes", 24, "-o", "few.cpd")
    assert told.exit_code == 0 and "larger than the input" in told.stderr and "pays off with more rows" in told.stderr
    np.save("whole.npy", np.arange(600).reshape(20, 30))
    told = run("compress", "whole.npy", "--bytes", 24)
    assert told.exit_code == 2 and "vectors of floats" in " ".join(told.stderr.split()) and not Path("whole.npy.cpd").exists()
    x[17, 3] = np.nan
    np.save("nan.npy", x)
    told = run("compress", "nan.npy", "--bytes", 24)
    assert told.exit_code == 1 and "row 17 has NaN" in told.stderr and "cannot be searched" in told.stderr
